"""Files that are opened: kernel ELFs, ELF cores, snapshots of ours and the note in them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import AgentError
from breenix_gdbagent.memory.elf import read_headers
from breenix_gdbagent.memory.ramfile import parse_ram_size
from breenix_gdbagent.snapshot.note import GarbledNote, note_of, read_note
from breenix_gdbagent.snapshot.opening import read_snapshot
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.x86.core_notes import cpus_of_notes
from breenix_gdbagent.x86.paging import Tables, walk
from tests.fuzz.target import Target, as_file
from tests.writers.core import CoreFile, Segment, note, qemu_core, registers_note
from tests.writers.elf import Elf, Sec, Sym, text
from tests.writers.elf import note as elf_note
from tests.writers.machine import TEXT, Machine

PLACES = (0, 0x1000, 0x1008, 0x3000, 1 << 47, (1 << 64) - 1)


def kernel_elf(data: bytes) -> None:
    with as_file(data) as path:
        image = Image.open(path)
        assert image.extent[0] <= image.extent[1] or image.segments
        uses = [
            lambda: image.build_id,
            lambda: [image.symbol_at(place) for place in PLACES],
            lambda: [image.read(place, 16) for place in PLACES],
            lambda: image.address_of("main"),
            lambda: list(image.find("k*")),
            lambda: image.section_data(".text"),
            lambda: image.section_data(".debug_str"),
            lambda: image.text,
        ]
        _each_may_refuse(uses)


def _each_may_refuse(uses: list) -> None:  # type: ignore[type-arg]
    refused: list[AgentError] = []
    for use in uses:
        try:
            use()
        except AgentError as refusal:
            refused.append(refusal)
    if refused:
        raise refused[0]


def kernel_elf_seeds() -> Iterator[bytes]:
    symbols = [Sym("main", 0x1000, 16), Sym("_ZN1k4mainE", 0x1010, 16), Sym("local", 0x1020, 0)]
    build_id = Sec(".note.gnu.build-id", elf_note(b"GNU\0", 3, bytes(range(20))), type=7)
    yield Elf([text(bytes(64)), build_id], symbols).build()
    squeezed = zlib.compress(b"abc\0" * 8)
    packed = (1).to_bytes(8, "little") + (32).to_bytes(8, "little") + bytes(8) + squeezed
    yield Elf([text(bytes(64)), Sec(".debug_str", packed, flags=0x800)], symbols, type=2).build()
    yield Elf([text(bytes(16)), Sec(".bss", b"", 0x3000, 3, nobits=64)], header_loaded=True).build()


def core(data: bytes) -> None:
    """An ELF core; the byte before it says whether a RAM map is given."""
    ram = parse_ram_size("1M") if data[:1] == b"\1" else None
    with as_file(data[1:]) as path:
        stop = read_snapshot(path, ram).stop
        tables = Tables(stop.memory)
        for cpu in stop.cpus:
            assert cpu.cpl in (None, 0, 1, 2, 3)
            walk(tables, cpu.registers.get("cr3", 0), cpu.registers.get("rip", 0))
        for place in PLACES:
            try:
                stop.memory.read(PhysAddr(place), 16)
            except AgentError:
                continue
        for number, (_, piece) in enumerate(stop.memory.filled()):
            assert len(piece) <= len(data)
            if number > 1000:
                break


def core_seeds() -> Iterator[bytes]:
    page = Segment(paddr=0x1000, data=b"\x03\x20".ljust(128, b"\0"), memsz=0x1000)
    yield b"\0" + qemu_core([page], cr3=0x1000, cr0=0x80000011, cr4=0x20, rip=0x1000, cs=8).build()
    paged = Segment(paddr=0x1000, vaddr=0xFFFF800000001000, data=bytes(64), memsz=0x2000)
    yield b"\1" + qemu_core([paged, page], cr3=0x1000).build()
    short = CoreFile([Segment(4, data=note("CORE", 1, bytes(144)))], bits=32, machine=3)
    yield b"\0" + short.build()
    both = note("CORE", 1, bytes(336)) + registers_note(rip=1) + registers_note(1, rip=2)
    yield b"\0" + CoreFile([Segment(4, data=both)]).build()
    stop = Machine().fault(14, TEXT + 0x100, ring=0, error=2, cr2=0)
    ours = note_of(stop, (0, 0), {})
    yield b"\0" + CoreFile([Segment(4, data=note(ours.owner, ours.type, ours.data)), page]).build()


def register_notes(data: bytes) -> None:
    """The notes of a core, without the rest of it."""
    headers = read_headers(memoryview(CoreFile([Segment(4, data=data)]).build()), "core")
    cpus = cpus_of_notes(headers.notes)
    assert [cpu.index for cpu in cpus] == list(range(len(cpus)))


def register_notes_seeds() -> Iterator[bytes]:
    yield registers_note(rip=1, cr3=0x1000)
    yield note("CORE", 1, bytes(336)) + registers_note()
    yield note("CORE", 1, bytes(144))


def our_note(data: bytes) -> None:
    """The note of ours: as it is in the file, or (first byte 0) what was packed into it."""
    told = read_note(zlib.compress(data[1:], 1) if data[:1] == b"\0" else data[1:])
    assert all(0 <= value < 1 << 64 for cpu in told.cpus for value in cpu.registers.values())


def our_note_seeds() -> Iterator[bytes]:
    machine = Machine()
    stop = machine.stop(StopReason("fault", 0, 14, "text"), machine.cpu(rip=TEXT, rsp=TEXT, cs=8))
    packed = note_of(stop, (0, 0), {"run": {"outcome": "fault", "seconds": 1.5}}).data
    yield b"\1" + packed
    yield b"\0" + zlib.decompress(packed)


TARGETS = (
    Target("elf", kernel_elf, kernel_elf_seeds),
    Target("elf-core", core, core_seeds),
    Target("core-notes", register_notes, register_notes_seeds),
    Target("our-note", our_note, our_note_seeds, refusals=(GarbledNote,)),
)
