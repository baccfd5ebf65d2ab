"""A stop saved and opened again: the same values, the same holes, and no half file ever."""

from __future__ import annotations

import errno
import getpass
import os
import resource
import shutil
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.errors import InputError, OutputError, Unreadable
from breenix_gdbagent.memory.core import ElfCore
from breenix_gdbagent.memory.corewriter import CoreWriter
from breenix_gdbagent.memory.elf import Note
from breenix_gdbagent.snapshot import note as notes
from breenix_gdbagent.snapshot.opening import open_snapshot, read_snapshot
from breenix_gdbagent.snapshot.saving import save_snapshot
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop, StopReason
from breenix_gdbagent.x86.cpu import Cpu, DescriptorTable, SystemSegment
from breenix_gdbagent.x86.paging import Tables, walk
from tests.gdb import gdb_command
from tests.unit.captures import NAMES, capture, truth_of
from tests.writers.memory import FrameMemory, ram_of
from tests.writers.tables import NX, P, TableWriter, U, W

KERNEL = 0xFFFF_C900_0000_0000


def _stop(**changes: Any) -> Stop:
    """A kernel with a page of code, a zero page beside it, and a user page."""
    writer = TableWriter()
    root = writer.new_table()
    for number in range(3):
        writer.map(root, KERNEL + number * 0x1000, 0x20_0000 + number * 0x1000, P | W, way=P | W)
    writer.map(root, 0x40_0000, 0x30_0000, P | W | U | NX)
    writer.map(root, KERNEL + (1 << 30), 0xFEC0_0000, P | W)
    memory = writer.memory()
    memory.frames |= {
        0x20_0000: bytearray(b"\xc3" * 0x1000),
        0x20_1000: bytearray(0x1000),
        0x20_2000: bytearray(b"\x90" * 0x1000),
        0x30_0000: bytearray(b"user" * 0x400),
        0x50_0000: bytearray(b"free" * 0x400),
    }
    memory.ram = ram_of((0, 0xA_0000), (0x10_0000, 0x60_0000))
    cpu = Cpu(
        index=0,
        registers={
            "rip": KERNEL + 5, "rsp": KERNEL + 0x1000, "eflags": 2, "cs": 8, "ss": 0,
            "cr0": 1 << 31, "cr2": 0xDEAD, "cr3": root, "cr4": 1 << 5, "efer": 0xD00,
            "gs_base": KERNEL, "mxcsr": 1,
        },
        gdtr=DescriptorTable(VirtAddr(KERNEL), 0x37),
        idtr=DescriptorTable(VirtAddr(KERNEL + 0x100), None),
        tr=SystemSegment(0x18, VirtAddr(KERNEL + 0x200), 0x67),
        halted=False,
    )  # fmt: skip
    stop = Stop(
        cpus=(cpu, Cpu(1, {"rip": 1})),
        memory=memory,
        reason=StopReason("fault", 0, 14, "hello", None),
        serial=SerialText((SerialChunk(0, 0.5, b"\xffone\n"), SerialChunk(1, 1.25, b"two"))),
        epoch=3,
        seconds=2.5,
    )
    return stop._replace(**changes)


def test_everything_comes_back(tmp_path: Path) -> None:
    stop = _stop()
    extra = {"run": {"outcome": "fault", "seconds": 1.5}, "none": None, "list": [1, "\u20ac", True]}
    save_snapshot(stop, tmp_path / "s", extra=extra)
    opened = read_snapshot(tmp_path / "s")
    again = opened.stop
    assert again.cpus == stop.cpus, "a register that was not known is not 0 now"
    assert (again.reason, again.serial, again.epoch, again.seconds) == (
        stop.reason,
        stop.serial,
        3,
        2.5,
    )
    assert opened.extra == extra and opened.version == 1 and opened.image is None
    assert again.memory.ram is not None and stop.memory.ram is not None
    assert again.memory.ram.ranges == stop.memory.ram.ranges
    for pa in stop.memory.frames:  # type: ignore[attr-defined]
        assert again.memory.read(pa, 0x1000) == stop.memory.read(pa, 0x1000)


def test_without_nameless_files_it_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_snapshot(_stop(), tmp_path / "s")
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    save_snapshot(_stop(), tmp_path / "t")
    assert (tmp_path / "s").read_bytes() == (tmp_path / "t").read_bytes()
    assert _left(tmp_path) == ["s", "t"]
    assert (tmp_path / "s").stat().st_mode == (tmp_path / "t").stat().st_mode


def test_kept_frames_and_no_others(tmp_path: Path) -> None:
    stop = _stop()
    wanted = [0x50_0123, 0x20_0000, 0x20_1000, 0x50_0000, 0x7_0000_0000, 0xFEC0_0000]
    save_snapshot(stop, tmp_path / "s", frames=iter(wanted))
    memory = open_snapshot(tmp_path / "s").memory
    assert memory.read(PhysAddr(0x50_0000), 4) == b"free"
    assert memory.read(PhysAddr(0x20_0FFF), 2) == b"\xc3\0"
    reasons = {}
    for pa in (0x20_2000, 0x30_0000, 0x10_0000, 0xFEC0_0000):
        with pytest.raises(Unreadable) as refused:
            memory.read(PhysAddr(pa), 1)
        reasons[pa] = refused.value.reason
    assert reasons.pop(0xFEC0_0000) == "outside RAM"
    assert set(reasons.values()) == {"not in this core"}


def test_zero_pages_take_no_room(tmp_path: Path) -> None:
    memory = FrameMemory({n << 12: bytes(0x1000) for n in range(4096)})
    save_snapshot(_stop(memory=memory), tmp_path / "s", frames=range(0, 16 << 20, 0x1000))
    assert (tmp_path / "s").stat().st_size < 64 << 10 or (
        (tmp_path / "s").stat().st_blocks * 512 < 64 << 10
    )
    again = open_snapshot(tmp_path / "s").memory
    assert again.read(PhysAddr(0), 16 << 20) == bytes(16 << 20)
    assert list(again.filled()) == []


def test_zeros_that_gdb_sees_are_one_part_of_the_file(tmp_path: Path) -> None:
    """A load for each megabyte of them, all of the same bytes, none beyond the end."""
    writer = TableWriter()
    root = writer.new_table()
    for number in range(4):
        writer.map(root, KERNEL + (number << 21), (number + 1) << 21, P | W, level=2)
    memory = FrameMemory({**writer.frames, **{n << 12: b"" for n in range(512, 2560)}})
    cpu = Cpu(0, {"rip": 0, "cr0": 1 << 31, "cr3": root, "cr4": 1 << 5})
    save_snapshot(_stop(memory=memory, cpus=(cpu,)), tmp_path / "s")
    core: Any = open_snapshot(tmp_path / "s").memory
    seen = [load for load in core.headers.loads if load.vaddr]
    assert sum(load.filesz for load in seen) == 8 << 20
    assert len({load.offset for load in seen}) == 1 and len(seen) == 8
    assert all(core.file.map[x.offset : x.offset + x.filesz].count(0) == x.filesz for x in seen)
    assert (tmp_path / "s").stat().st_size < 2 << 20
    assert [pa for pa, _ in core.filled()] == [root], "zeros are not looked through again"


@pytest.mark.parametrize("name", NAMES)
def test_a_capture_saved_again_is_the_same_memory(name: str, tmp_path: Path) -> None:
    stop = open_snapshot(capture(name) / "core.elf")
    save_snapshot(stop, tmp_path / "s")
    save_snapshot(stop, tmp_path / "t")
    assert (tmp_path / "s").read_bytes() == (tmp_path / "t").read_bytes(), "nothing of the moment"
    again = open_snapshot(tmp_path / "s")
    assert again.cpus == stop.cpus
    kept: Any = stop.memory
    mine: Any = again.memory
    spans = [(s.start, s.end) for s in kept.segments]
    assert sum(e - s for s, e in spans) == sum(s.end - s.start for s in mine.segments)
    for start, end in spans:
        for pa in range(start, end, 0x1000):
            assert mine.read(pa, 0x1000) == kept.read(pa, 0x1000)
    tables = Tables(again.memory)
    for told in truth_of(name)["walks"]:  # type: ignore[attr-defined]
        found = walk(tables, int(told["root"], 16), int(told["va"], 16))
        assert (hex(found.pa) if found.pa is not None else None) == told["pa"]


@pytest.mark.parametrize("name", NAMES)
def test_loads_are_where_the_cpu_sees_them(name: str, tmp_path: Path) -> None:
    """Each virtual address of the file leads, in the tables, to the physical one beside it."""
    stop = open_snapshot(capture(name) / "core.elf")
    save_snapshot(stop, tmp_path / "s")
    memory: Any = ElfCore.open(tmp_path / "s")
    root = stop.cpu.root
    assert root is not None
    seen = [load for load in memory.headers.loads if load.vaddr]
    assert len(seen) > 10
    for load in seen:
        assert load.filesz == load.memsz
        for offset in {0, load.filesz - 0x1000}:
            found = walk(Tables(stop.memory), root, load.vaddr + offset)
            assert found.pa == load.paddr + offset
        start = memory.file.map[load.offset : load.offset + 0x1000]
        assert start == stop.memory.read(load.paddr, 0x1000)
    for cpu in stop.cpus[:1]:
        page = walk(Tables(stop.memory), root, cpu.rsp - 8).pa
        if page is not None and _has(stop, page):
            assert any(load.vaddr <= cpu.rsp - 8 < load.vaddr + load.filesz for load in seen)


def _has(stop: Stop, pa: int) -> bool:
    try:
        stop.memory.read(PhysAddr(pa), 1)
    except Unreadable:
        return False
    return True


def test_more_loads_than_the_header_can_count(tmp_path: Path) -> None:
    count = 66_000
    with (tmp_path / "s").open("wb") as out:
        writer = CoreWriter(out)
        for number in range(count):
            writer.keep_zeros(number * 0x2000, 0x1000)
        writer.finish([Note("CORE", 1, bytes(336))], [])
    core = ElfCore.open(tmp_path / "s")
    assert len(core.headers.loads) == count
    assert core.read(PhysAddr((count - 1) * 0x2000), 8) == bytes(8)


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("room", [0, 100, 4096, 8192, 40_000])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, room: int) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OutputError) as refused:
            save_snapshot(_stop(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.exit_code == 3 and len(str(refused.value).splitlines()) == 3
    assert path.read_bytes() == b"before" and _left(tmp_path) == ["s"]


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("when", ["keep", "zero_area", "finish"])
@pytest.mark.parametrize("named", [False, True])
def test_an_interrupt_at_any_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, when: str, named: bool
) -> None:
    if named:  # as where there are no files without a name
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)

    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr(CoreWriter, when, broken)
    expected = KeyboardInterrupt if isinstance(raised, KeyboardInterrupt) else OutputError
    with pytest.raises(expected) as refused:
        save_snapshot(_stop(), tmp_path / "s")
    assert _left(tmp_path) == []
    if expected is OutputError:
        assert "make room" in str(refused.value)


@pytest.mark.parametrize("where", ["absent/s", "."])
def test_a_place_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    with pytest.raises(OutputError) as refused:
        save_snapshot(_stop(), tmp_path / where)
    assert len(str(refused.value).splitlines()) == 3
    assert _left(tmp_path) == []


KILLED = """
import sys
from pathlib import Path
from breenix_gdbagent.memory.corewriter import CoreWriter
from breenix_gdbagent.snapshot.saving import save_snapshot
from tests.unit.test_snapshot_save import _stop
def wait(*_):
    print("writing", flush=True)
    sys.stdin.read()
CoreWriter.finish = wait
save_snapshot(_stop(), Path(sys.argv[1]))
"""


def test_killed_while_it_writes_nothing_remains(tmp_path: Path) -> None:
    try:
        os.close(os.open(tmp_path, os.O_RDWR | os.O_TMPFILE))
    except (OSError, AttributeError):
        pytest.skip("this system has no files without a name (O_TMPFILE)")
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "s")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        child.kill()
    assert _left(tmp_path) == []


def test_nothing_of_this_machine_is_in_the_file(tmp_path: Path) -> None:
    save_snapshot(_stop(), tmp_path / "s")
    core = ElfCore.open(tmp_path / "s")
    ours = next(n for n in core.notes if n.owner == "BREENIX-GDBAGENT")
    content = (tmp_path / "s").read_bytes() + zlib.decompress(ours.data)
    for told in (str(tmp_path), str(Path.cwd()), os.environ["PATH"], socket.gethostname()):
        assert told.encode() not in content
    assert getpass.getuser().encode() not in zlib.decompress(ours.data)


def test_serial_text_without_end_keeps_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "MOST_SERIAL", 10)
    chunks = tuple(SerialChunk(0, n / 8, b"%06d" % n) for n in range(5))
    save_snapshot(_stop(serial=SerialText(chunks)), tmp_path / "s")
    kept = open_snapshot(tmp_path / "s").serial
    assert kept.port(0) == "0003000004"[-10:]


# What is refused.


def _with_note(tmp_path: Path, change: Any) -> Path:
    """A saved snapshot whose own note is what `change` makes of it."""
    path = tmp_path / "s"
    with pytest.MonkeyPatch.context() as patch:
        honest = notes.note_of
        patch.setattr(
            "breenix_gdbagent.snapshot.saving.note_of", lambda *given: change(honest(*given))
        )
        save_snapshot(_stop(), path)
    return path


def test_a_newer_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = _with_note(tmp_path, lambda n: Note(n.owner, 2, b"who knows"))
    with pytest.raises(InputError, match="is a snapshot of version 2; this agent knows 1"):
        open_snapshot(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        zlib.compress(b"[]"),
        zlib.compress(b"{}"),
        zlib.compress(b"[" * 100_000),
        zlib.compress(b'{"cpus": 1' + b"0" * 5000 + b"}"),
        None,
    ],
)
def test_a_note_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is None:  # a hundred KiB that become more than any snapshot has
        content = zlib.compress(bytes(notes.MOST_BYTES + 1), 1)
    path = _with_note(tmp_path, lambda n: Note(n.owner, n.type, content))
    with pytest.raises(InputError, match="note of registers and serial text is garbled"):
        open_snapshot(path)


def _variants(text: bytes) -> Iterator[bytes]:
    """The note with one thing after another replaced by something that does not belong there."""
    for wrong in (b"null", b"-1", b'"x"', b"[]", b"{}", b"1e999", b"true"):
        at = 0
        while (at := text.find(b":", at + 1)) > 0:
            end = min(e for e in (text.find(b",", at), text.find(b"}", at)) if e > 0)
            yield text[: at + 1] + wrong + text[end:]


def test_every_field_garbled_opens_or_is_refused(tmp_path: Path) -> None:
    save_snapshot(_stop(), tmp_path / "s")
    core = ElfCore.open(tmp_path / "s")
    ours = next(n for n in core.notes if n.owner == "BREENIX-GDBAGENT")
    tried = refused = 0
    for variant in _variants(zlib.decompress(ours.data)):
        tried += 1
        try:
            notes.read_note(zlib.compress(variant, 1))
        except notes.GarbledNote:
            refused += 1
    assert tried > 200 and refused > tried // 2


@pytest.mark.parametrize("kept", [0, 3, 63, 64, 4096, 5000, -1, -100, -4000])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    save_snapshot(_stop(), tmp_path / "s")
    whole = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(whole[:kept])
    with pytest.raises(InputError):
        open_snapshot(tmp_path / "s")


# What other tools make of it.


def test_readelf_is_content(tmp_path: Path) -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf here")
    save_snapshot(_stop(), tmp_path / "s")
    said = subprocess.run(
        [readelf, "-a", "-W", str(tmp_path / "s")], capture_output=True, text=True, check=True
    )
    assert "warning" not in (said.stdout + said.stderr).lower()
    assert "BREENIX-GDBAGENT" in said.stdout and "CORE (Core file)" in said.stdout


def test_gdb_sees_registers_and_kernel_memory(tmp_path: Path) -> None:
    if shutil.which("gdb") is None:
        pytest.skip("no gdb here")
    save_snapshot(_stop(), tmp_path / "s")
    asked = [
        "print $rip",
        f"x/1xb {KERNEL:#x}",
        f"x/1xb {KERNEL + 0x1FFF:#x}",
        f"x/1xb {KERNEL + 0x2000:#x}",
        "x/1s 0x400ffc",
        "info threads",
    ]
    said = subprocess.run(
        gdb_command("-batch", *(f"-ex={one}" for one in asked), "-core", str(tmp_path / "s")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    assert f"{KERNEL + 5:x}" in said
    for answer in ("0xc3", "0x00", "0x90", "user"):
        assert answer in said, said
    assert "LWP 2" in said, "both CPUs"
