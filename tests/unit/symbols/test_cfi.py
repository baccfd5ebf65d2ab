"""Call-frame information, row by row as readelf interprets it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.cfi import FrameTable
from tests.writers.elf import SHF_ALLOC, Elf, Sec, text

Rows = dict[tuple[int, int], list[tuple[int, dict[str, str]]]]


def by_readelf(readelf: str, path: Path) -> list[Rows]:
    """Per section: [low, high) of each description -> (from where, column -> rule)."""
    out = subprocess.run(
        [readelf, "--debug-dump=frames-interp", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sections: list[Rows] = []
    columns: list[str] = []
    rows: list[tuple[int, dict[str, str]]] | None = None
    for line in out.splitlines():
        span = re.search(r"FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)", line)
        row = re.match(r"\s*([0-9a-f]{16}) (.*)", line)
        if line.startswith("Contents of"):
            sections.append({})
        elif span:
            rows = []
            sections[-1][int(span[1], 16), int(span[2], 16)] = rows
        elif " CIE" in line:
            rows = None
        elif line.strip().startswith("LOC"):
            columns = line.split()[1:]
        elif row and rows is not None:
            rows.append((int(row[1], 16), dict(zip(columns, row[2].split(), strict=False))))
    return sections


def ours(table: FrameTable, link: int) -> dict[str, str]:
    rules = table.rules(link)
    if rules is None:
        return {}
    found = {"CFA": f"{rules.cfa_register}{rules.cfa_offset:+d}"}
    for register, offset in rules.saved.items():
        found["ra" if register == "rip" else register] = f"c{offset:+d}"
    return found


def check(readelf: str, path: Path) -> int:
    table = FrameTable(Image.open(path).elf)
    compared = 0
    for section in by_readelf(readelf, path):
        for (low, high), rows in section.items():
            # A description without instructions of its own is printed without rows.
            ends = [start for start, _ in rows[1:]] + [high] * bool(rows)
            for (start, expected), end in zip(rows, ends, strict=True):
                if low == 0 or start == end or "exp" in "".join(expected.values()):
                    continue
                known = {k: v for k, v in expected.items() if v not in ("u", "s")}
                assert ours(table, start) == known, hex(start)
                assert ours(table, end - 1) == known, hex(end - 1)
                compared += 1
    return compared


def test_debug_frame(labguest_path: Path, tool: Callable[[str], str]) -> None:
    assert check(tool("readelf"), labguest_path) > 1000


def test_eh_frame(built: dict[int, Path], tool: Callable[[str], str]) -> None:
    assert check(tool("readelf"), built[4]) > 2000


def cie(program: bytes, augmentation: bytes = b"\0", body: bytes = b"\x01\x78\x10") -> bytes:
    entry = b"\xff\xff\xff\xff\x04" + augmentation + b"\x08\x00" + body + program
    return len(entry).to_bytes(4, "little") + entry


def fde(program: bytes, low: int = 0x1000, span: int = 0x40) -> bytes:
    entry = bytes(4) + low.to_bytes(8, "little") + span.to_bytes(8, "little") + program
    return len(entry).to_bytes(4, "little") + entry


def table_of(tmp_path: Path, data: bytes, name: str = ".debug_frame") -> FrameTable:
    path = tmp_path / "kernel"
    section = Sec(name, data, 0x3000 if name == ".eh_frame" else 0, SHF_ALLOC)
    path.write_bytes(Elf([text(bytes(64)), section]).build())
    return FrameTable(Image.open(path).elf)


ENTRY = b"\x0c\x07\x08\x90\x01"


def test_remembered_and_restored_state(tmp_path: Path) -> None:
    program = b"\x41\x0e\x10\x86\x02\x41\x0a\x0c\x07\x08\xc6\x41\x0b\x41\x06\x06"
    table = table_of(tmp_path, cie(ENTRY) + fde(program))
    shown = [ours(table, 0x1000 + i) for i in range(5)]
    plain = {"CFA": "rsp+8", "ra": "c-8"}
    pushed = {"CFA": "rsp+16", "ra": "c-8", "rbp": "c-16"}
    assert shown == [plain, pushed, plain, pushed, {"CFA": "rsp+16", "ra": "c-8"}]
    assert table.rules(0xFFF) is None and table.rules(0x1040) is None


def test_an_expression_is_not_guessed(tmp_path: Path) -> None:
    table = table_of(tmp_path, cie(ENTRY) + fde(b"\x0f\x02\x77\x08"))
    assert table.covers(0x1000) and table.rules(0x1000) is None


@pytest.mark.parametrize(
    "data",
    [
        cie(ENTRY) + fde(b"")[:-4],
        cie(ENTRY) + fde(b"\x0b"),
        cie(ENTRY) + fde(b"\x0a" * 100),
        cie(ENTRY, b"oops\0") + fde(b""),
        cie(ENTRY) + fde(b"\x0e" + b"\xff" * 30),
        b"\xff\xff\xff\xff" + bytes(20),
        (40).to_bytes(4, "little") + (0x9999).to_bytes(4, "little") + bytes(36),
    ],
)
def test_damage_names_the_section(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match=r"section \.debug_frame"):
        table_of(tmp_path, data).rules(0x1000)


def test_no_frames_at_all(tmp_path: Path) -> None:
    table = table_of(tmp_path, b"")
    assert len(table) == 0 and table.rules(0x1000) is None
