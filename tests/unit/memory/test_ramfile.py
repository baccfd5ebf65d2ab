"""RAM files: the map of where RAM is, reads across its ranges, holes that cost nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import InputError, Unreadable
from breenix_gdbagent.memory import mapped
from breenix_gdbagent.memory.ramfile import RamFile, parse_ram_size, ram_of_size
from tests.writers.memory import ram_of

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("512M", [(0, 512 << 20, 0)]),
        ("512MiB", [(0, 512 << 20, 0)]),
        ("1g", [(0, GIB, 0)]),
        ("0x2000_0000", [(0, 512 << 20, 0)]),
        ("4096", [(0, 4096, 0)]),
        ("3G", [(0, 3 * GIB, 0)]),
        ("3583M", [(0, 3583 << 20, 0)]),
        ("3584M", [(0, 3 * GIB, 0), (4 * GIB, 4 * GIB + (512 << 20), 3 * GIB)]),
        ("8G", [(0, 3 * GIB, 0), (4 * GIB, 9 * GIB, 3 * GIB)]),
        (
            "0x0-0xc0000000,0x100000000-0x140000000",
            [(0, 3 * GIB, 0), (4 * GIB, 5 * GIB, 3 * GIB)],
        ),
        ("0x1000-0x3000, 0-4096", [(0, 0x1000, 0x2000), (0x1000, 0x3000, 0)]),
    ],
)
def test_where_ram_is(text: str, ranges: list[tuple[int, int, int]]) -> None:
    found = parse_ram_size(text)
    assert [(r.start, r.end, r.offset) for r in found.ranges] == ranges


def test_q35_has_its_hole_lower() -> None:
    found = ram_of_size(4 * GIB, "q35")
    assert [(r.start, r.end) for r in found.ranges] == [(0, 2 * GIB), (4 * GIB, 6 * GIB)]


@pytest.mark.parametrize(
    "text",
    ["", "lots", "12.5M", "0", "4095", "-1", "1-", "0x1000-0x1000", "0x2000-0x1000", "0-0x1001",
     "0-0x2000,0x1000-0x3000", "99999T", "0x", "1_0M,", "5P", "0x1G-"],
)  # fmt: skip
def test_what_says_nothing_of_ram_is_refused(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_ram_size(text)
    assert len(str(refused.value).splitlines()) == 3


def _file(path: Path, size: int, written: dict[int, bytes]) -> Path:
    with path.open("wb") as out:
        out.truncate(size)
        for offset, data in written.items():
            out.seek(offset)
            out.write(data)
    return path


def test_reads_on_both_sides_of_a_hole_and_not_in_it(tmp_path: Path) -> None:
    ram = ram_of((0, 0x3000), (0x8000, 0xA000))
    path = _file(tmp_path / "ram", 0x5000, {0x2FFC: b"last", 0x3000: b"next", 0x4FF8: b"\5" * 8})
    memory = RamFile(path, ram)
    assert memory.read(PhysAddr(0x2FFC), 4) == b"last"
    assert memory.read(PhysAddr(0x8000), 4) == b"next"
    assert memory.table(PhysAddr(0x9000))[511] == 0x0505_0505_0505_0505
    for pa, length, first in ((0x2FFE, 4, 0x3000), (0x7000, 1, 0x7000), (0x9FFF, 2, 0xA000)):
        with pytest.raises(Unreadable) as refused:
            memory.read(PhysAddr(pa), length)
        assert (refused.value.pa, refused.value.reason) == (first, "outside RAM")


def test_neighbouring_ranges_of_scattered_offsets_read_as_one(tmp_path: Path) -> None:
    ram = parse_ram_size("0x1000-0x2000,0x0-0x1000")
    memory = RamFile(_file(tmp_path / "ram", 0x2000, {0xFFF: b"A", 0x1000: b"C", 0: b"B"}), ram)
    assert memory.read(PhysAddr(0x0FFF), 2) == b"\0B"
    assert memory.read(PhysAddr(0x1FFF), 1) == b"A"
    assert memory.read(PhysAddr(0), 0x1001)[:1] == b"C"


def test_what_the_guest_writes_is_seen(tmp_path: Path) -> None:
    path = _file(tmp_path / "ram", 0x2000, {})
    memory = RamFile(path, ram_of((0, 0x2000)))
    table = memory.table(PhysAddr(0x1000))
    with path.open("r+b") as guest:
        guest.seek(0x1000)
        guest.write(b"\7")
    assert (table[0], memory.read(PhysAddr(0x1000), 1)) == (7, b"\7")


def test_holes_are_skipped_and_cost_nothing(tmp_path: Path) -> None:
    size = 8 * GIB
    path = _file(tmp_path / "ram", size, {5 << 20: b"x" * 0x2000, 7 * GIB: b"y" * 0x1000})
    if path.stat().st_blocks * 512 > 64 << 20:
        pytest.skip("this file system has no holes")
    memory = RamFile(path, ram_of_size(size))
    pieces = [(pa, len(data)) for pa, data in memory.filled()]
    assert sum(length for _, length in pieces) <= 16 << 20
    assert any(pa <= 5 << 20 < pa + length for pa, length in pieces)
    assert any(pa <= 8 * GIB < pa + length for pa, length in pieces), "behind the PCI hole"
    assert all(pa % 0x1000 == length % 0x1000 == 0 for pa, length in pieces)


def test_without_the_system_call_all_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_SAYS_HOLES", False)
    memory = RamFile(_file(tmp_path / "ram", 1 << 20, {0x5000: b"x"}), ram_of((0, 1 << 20)))
    assert [(pa, len(data)) for pa, data in memory.filled()] == [(0, 1 << 20)]


def test_a_file_smaller_than_its_map_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path / "ram", 0x2000, {})
    with pytest.raises(InputError, match="has 8192 bytes, the RAM map names 12288"):
        RamFile(path, ram_of((0, 0x3000)))
