"""ELF cores in: what is there, what is a hole, what is refused, and how long refusing takes."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import InputError, Unreadable
from breenix_gdbagent.memory.core import ElfCore
from breenix_gdbagent.memory.elf import MOST_HEADERS, read_headers
from breenix_gdbagent.memory.mapped import Segment as Piece
from breenix_gdbagent.memory.mapped import disjoint
from breenix_gdbagent.memory.ramfile import parse_ram_size
from tests.writers.core import (
    PT_NOTE,
    CoreFile,
    FileInMemory,
    Segment,
    note,
    qemu_core,
    registers_note,
)

ONE, TWO = b"\x11" * 0x1000, b"\x22" * 0x1000


def _open(tmp_path: Path, core: CoreFile | bytes) -> ElfCore:
    path = tmp_path / "core"
    path.write_bytes(core if isinstance(core, bytes) else core.build())
    return ElfCore.open(path)


def test_loads_are_by_physical_address(tmp_path: Path) -> None:
    core = _open(
        tmp_path,
        qemu_core([Segment(paddr=0xFFFC_0000, data=TWO), Segment(paddr=0x1000, data=ONE + TWO)]),
    )
    assert core.read(PhysAddr(0x1FFE), 4) == b"\x11\x11\x22\x22"
    assert core.read(PhysAddr(0xFFFC_0000), 1) == b"\x22", "QEMU's BIOS ROM"
    assert core.read(PhysAddr(0x1000), 0) == b""
    assert core.table(PhysAddr(0x2000))[511] == 0x2222_2222_2222_2222
    assert [(pa, len(data)) for pa, data in core.filled()] == [
        (0x1000, 0x2000),
        (0xFFFC_0000, 0x1000),
    ]


@pytest.mark.parametrize(
    ("pa", "length", "first"),
    [(0, 1, 0), (0x0FFF, 2, 0x0FFF), (0x2FFF, 2, 0x3000), (0x10_0000, 8, 0x10_0000)],
)
def test_a_hole_is_not_in_the_core_and_never_zero(
    tmp_path: Path, pa: int, length: int, first: int
) -> None:
    core = _open(tmp_path, qemu_core([Segment(paddr=0x1000, data=ONE + TWO)]))
    with pytest.raises(Unreadable) as refused:
        core.read(PhysAddr(pa), length)
    assert (refused.value.pa, refused.value.reason) == (first, "not in this core")
    with pytest.raises(Unreadable):
        core.table(PhysAddr(0x3000))
    core.ram = parse_ram_size("16K")
    with pytest.raises(Unreadable, match="outside RAM"):
        core.read(PhysAddr(0x4000), 1)


def test_a_load_shorter_in_the_file_is_filled_with_zeros(tmp_path: Path) -> None:
    core = _open(tmp_path, CoreFile([Segment(paddr=0x1000, data=ONE, memsz=1 << 40)]))
    assert core.read(PhysAddr(0x1FFF), 2) == b"\x11\0"
    assert core.table(PhysAddr(0x5000)).tolist() == [0] * 512
    assert [pa for pa, _ in core.filled()] == [0x1000], "zeros are not looked through"


def test_a_paged_dump_repeats_pages_and_leaves_mmio_out(tmp_path: Path) -> None:
    """QEMU's ``paging=true``: a load for each mapping; of one beyond RAM nothing is in the file."""
    core = _open(
        tmp_path,
        qemu_core(
            [
                Segment(paddr=0x1000, vaddr=0xFFFF_8000_0000_1000, data=ONE),
                Segment(paddr=0x1000, vaddr=0x40_0000, data=ONE),
                Segment(paddr=0x2000, vaddr=0x50_0000, data=TWO, memsz=0x4000_0000),
                Segment(
                    paddr=0xFEC0_0000, vaddr=0x60_0000, filesz=0, memsz=0x1000, offset=(1 << 64) - 1
                ),
            ]
        ),
    )
    assert core.read(PhysAddr(0x1000), 0x2000) == ONE + TWO
    for pa in (0x3000, 0xFEC0_0000):
        with pytest.raises(Unreadable):
            core.read(PhysAddr(pa), 1)


def test_the_number_of_headers_may_be_in_section_0(tmp_path: Path) -> None:
    loads = [Segment(paddr=n << 13, data=b"\x33" * 16) for n in range(66_000)]
    file = CoreFile(loads, phnum=0xFFFF)
    file.shoff = len(file.build())
    file.tail = pack("<44xI16x", len(loads))
    core = _open(tmp_path, file)
    assert len(core.segments) == 66_000
    assert core.read(PhysAddr(65_999 << 13), 16) == b"\x33" * 16


def test_a_core_of_a_cpu_before_long_mode(tmp_path: Path) -> None:
    core = _open(tmp_path, CoreFile([Segment(paddr=0x1000, data=ONE)], bits=32, machine=3))
    assert core.read(PhysAddr(0x1000), 2) == b"\x11\x11"


HUGE = (1 << 63) - 1
HOSTILE = {
    "empty": b"",
    "short": b"\x7fELF\2\1\1",
    "no elf": b"\x7fELG" + bytes(100),
    "not a core": CoreFile(type=2),
    "other processor": CoreFile(machine=40),
    "other byte order": CoreFile(order=2),
    "other class": CoreFile().build()[:4] + b"\7" + CoreFile().build()[5:],
    "load beyond the file": CoreFile([Segment(paddr=0, data=ONE, filesz=0x2000, memsz=0x2000)]),
    "load of 2^63 bytes": CoreFile([Segment(paddr=0, filesz=HUGE, memsz=HUGE, offset=64)]),
    "memory of 2^63 bytes": CoreFile([Segment(paddr=0, data=ONE, memsz=HUGE)]),
    "offset that wraps": CoreFile([Segment(filesz=8, memsz=8, offset=(1 << 64) - 4)]),
    "beyond all addresses": CoreFile([Segment(paddr=1 << 52, data=ONE)]),
    "smaller in memory": CoreFile([Segment(paddr=0, data=ONE, memsz=16)]),
    "headers beyond the file": CoreFile([Segment(data=ONE)], phnum=4000),
    "headers nowhere": CoreFile([Segment(data=ONE)], phoff=1 << 62),
    "header size 0": CoreFile([Segment(data=ONE)], phentsize=0),
    "header size 57": CoreFile([Segment(data=ONE)], phentsize=57),
    "number of headers nowhere": CoreFile([Segment(data=ONE)], phnum=0xFFFF, shoff=1 << 40),
    "note beyond its segment": CoreFile([Segment(PT_NOTE, data=note("QEMU", 0, b"x" * 40)[:-8])]),
    "note of 4 GiB": CoreFile([Segment(PT_NOTE, data=pack("<III", 0xFFFFFFFF, 8, 0) + bytes(40))]),
    "notes beyond the file": CoreFile([Segment(PT_NOTE, filesz=HUGE, offset=64)]),
    "the same notes thousands of times": CoreFile(
        [
            Segment(PT_NOTE, data=note("X", 1, b"") * 20_000),
            *(Segment(PT_NOTE, offset=64 + 4001 * 56, filesz=320_000) for _ in range(4000)),
        ]
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as refused:
        _open(tmp_path, HOSTILE[name])
    said = str(refused.value)
    assert said and len(said.splitlines()) <= 3 and "\n\n" not in said


def test_more_headers_than_any_machine_has(tmp_path: Path) -> None:
    file = CoreFile([Segment(data=ONE)], phnum=0xFFFF)
    file.shoff = len(file.build())
    file.tail = pack("<44xI16x", MOST_HEADERS + 1)
    with pytest.raises(InputError, match="claims 1048577 program headers"):
        _open(tmp_path, file)


def test_a_file_that_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", Path("/dev/null")):
        with pytest.raises(InputError):
            ElfCore.open(path)


def _broken(honest: bytes, seed: int) -> bytes:
    """The file with a few bytes changed, cut or added: mostly in its headers and notes."""
    rng = random.Random(seed)
    data = bytearray(honest)
    for _ in range(rng.randint(1, 6)):
        at = (
            rng.randrange(min(len(data), 0x700)) if rng.random() < 0.8 else rng.randrange(len(data))
        )
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7])
        elif kind == 2:
            data[at : at + 4] = rng.randbytes(4)
        elif rng.random() < 0.3:
            del data[at:]
        if not data:
            break
    return bytes(data)


def test_ten_thousand_broken_cores_open_or_are_refused() -> None:
    honest = qemu_core(
        [
            Segment(PT_NOTE, data=note("CORE", 1, bytes(336)) + registers_note(rip=5)),
            Segment(paddr=0x1000, vaddr=0xFFFF_8000_0000_1000, data=ONE),
            Segment(paddr=0x8000, data=TWO, memsz=0x4000),
            Segment(paddr=0x1000, data=ONE),
        ],
        rip=0x1234,
    ).build()
    opened = 0
    for seed in range(10_000):
        file: Any = FileInMemory(_broken(honest, seed))
        try:
            core = ElfCore(file, read_headers(file.data, file.name))
        except InputError as refused:
            assert len(str(refused).splitlines()) <= 3
            continue
        opened += 1
        for pa in (0, 0x1FFC, 0x8000, 0xA000):
            try:
                assert len(core.read(PhysAddr(pa), 8)) == 8
                core.table(PhysAddr(pa & ~0xFFF))
            except Unreadable:
                continue
        assert sum(len(data) for _, data in core.filled()) <= len(honest)
    assert 500 < opened < 9_500, "both ways are taken"


def test_the_memory_that_a_broken_core_takes_is_bounded() -> None:
    """Whatever its headers claim."""
    honest = qemu_core([Segment(paddr=0x1000, data=ONE)], rip=0x1234).build()
    for seed in range(500):
        file: Any = FileInMemory(_broken(honest, seed))
        tracemalloc.start()
        try:
            list(ElfCore(file, read_headers(file.data, file.name)).filled())
        except InputError:
            continue
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 4 << 20, seed


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.integers(1, 12),
            st.none() | st.integers(0, 5).map(lambda n: n * 50),
        ),
        max_size=8,
    )
)
def test_overlapping_segments_become_disjoint(parts: list[tuple[int, int, int | None]]) -> None:
    segments = [Piece(start, start + size, offset) for start, size, offset in parts]
    flat = disjoint(segments)
    for one, after in pairwise(flat):
        assert one.end <= after.start
    for at in range(60):
        holders = [s for s in segments if s.start <= at < s.end]
        stored = {s.offset + at - s.start for s in holders if s.offset is not None}
        mine = [s for s in flat if s.start <= at < s.end]
        assert len(mine) == bool(holders)
        if mine and stored:
            assert mine[0].offset is not None
            assert mine[0].offset + at - mine[0].start in stored
        elif mine:
            assert mine[0].offset is None
