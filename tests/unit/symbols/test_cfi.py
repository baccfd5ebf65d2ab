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
            rules = re.sub(r"(\w+) \(\w+\)", r"\1", row[2]).split()  # of DW_CFA_register
            rows.append((int(row[1], 16), dict(zip(columns, rules, strict=False))))
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


SLEB_M65 = b"\xbf\x7f"  # -65 takes two bytes


@pytest.mark.parametrize(
    ("code", "rules"),
    [
        # DWARF 5, 6.4.2.2: how the CFA is found; the CIE says rsp+8, factors 1 and -8.
        (b"\x0c\x06\xc1\x01", {"CFA": "rbp+193"}),  # DW_CFA_def_cfa
        (b"\x12\x06" + SLEB_M65, {"CFA": "rbp+520"}),  # DW_CFA_def_cfa_sf
        (b"\x0d\x06", {"CFA": "rbp+8"}),  # DW_CFA_def_cfa_register
        (b"\x0e\xc1\x01", {"CFA": "rsp+193"}),  # DW_CFA_def_cfa_offset
        (b"\x13" + SLEB_M65, {"CFA": "rsp+520"}),  # DW_CFA_def_cfa_offset_sf
        (b"\x13\x7e", {"CFA": "rsp+16"}),
        (b"\x13\xc0\x00", {"CFA": "rsp-512"}),  # +64: bit 6 of a first byte is no sign yet
        # 6.4.2.3: where a register's value is.
        (b"\x86\xc1\x01", {"rbp": "c-1544"}),  # DW_CFA_offset
        (b"\x05\x06\xc1\x01", {"rbp": "c-1544"}),  # DW_CFA_offset_extended
        (b"\x11\x06" + SLEB_M65, {"rbp": "c+520"}),  # DW_CFA_offset_extended_sf
        (b"\x2f\x06\xc1\x01", {"rbp": "c+1544"}),  # DW_CFA_GNU_negative_offset_extended
        (b"\x14\x06\xc1\x01", {"rbp": "v-1544"}),  # DW_CFA_val_offset
        (b"\x15\x06" + SLEB_M65, {"rbp": "v+520"}),  # DW_CFA_val_offset_sf
        (b"\x07\x06", {"rbp": "?"}),  # DW_CFA_undefined
        (b"\x09\x06\x03", {"rbp": "?"}),  # DW_CFA_register
        (b"\x10\x06\x02\x77\x08", {"rbp": "?"}),  # DW_CFA_expression
        (b"\x16\x06\x02\x77\x08", {"rbp": "?"}),  # DW_CFA_val_expression
        (b"\x86\x02\x08\x06", {}),  # DW_CFA_same_value
        (b"\x86\x02\xc6", {}),  # DW_CFA_restore: the CIE said nothing of it
        (b"\x90\x02\xd0", {"ra": "c-8"}),
        (b"\x90\x02\x06\x10", {"ra": "c-8"}),  # DW_CFA_restore_extended
        (b"\x0a\x86\x02\x0e\x20\x0b", {}),  # DW_CFA_remember_state, DW_CFA_restore_state
        # 6.4.2.4 and what GNU has added.
        (b"\x00\x2d\x2e\xc1\x01", {}),
    ],
)
def test_each_instruction(tmp_path: Path, code: bytes, rules: dict[str, str]) -> None:
    table = table_of(tmp_path, cie(ENTRY) + fde(code))
    found = table.rules(0x1000)
    assert found is not None
    shown = ours(table, 0x1000)
    shown |= {register: f"v{offset:+d}" for register, offset in found.values.items()}
    shown |= dict.fromkeys(found.unknown, "?")
    assert shown == {"CFA": "rsp+8", "ra": "c-8", **rules}


@pytest.mark.parametrize(
    ("code", "where"),
    [
        (b"\x41", 1),  # DW_CFA_advance_loc
        (b"\x02\xc8", 200),  # DW_CFA_advance_loc1
        (b"\x03\x2c\x01", 300),  # DW_CFA_advance_loc2
        (b"\x04\x70\x11\x01\x00", 70_000),  # DW_CFA_advance_loc4
        (b"\x1d\x70\x11\x01\x00\x00\x00\x00\x00", 70_000),  # DW_CFA_MIPS_advance_loc8
        (b"\x01\x40\x11\x00\x00\x00\x00\x00\x00", 0x140),  # DW_CFA_set_loc
    ],
)
def test_each_way_onward(tmp_path: Path, code: bytes, where: int) -> None:
    table = table_of(tmp_path, cie(ENTRY) + fde(code + b"\x0e\x10", span=1 << 20))
    assert ours(table, 0x1000 + where - 1)["CFA"] == "rsp+8"
    assert ours(table, 0x1000 + where)["CFA"] == "rsp+16"


def test_set_loc_of_eh_frame_is_an_encoded_pointer(tmp_path: Path) -> None:
    """LSB Core: as the addresses of the FDE itself, here relative and of four bytes."""
    first = b"\x01zR\0" + b"\x01\x78\x10" + b"\x01\x1b" + ENTRY
    head = (4 + len(first)).to_bytes(4, "little") + bytes(4) + first
    at = 0x3000 + len(head) + 8
    low = (0x1000 - at).to_bytes(4, "little", signed=True)
    moved = at + 4 + 4 + 1 + 1
    code = b"\x01" + (0x1010 - moved).to_bytes(4, "little", signed=True) + b"\x0e\x10"
    body = (len(head) + 4).to_bytes(4, "little") + low + (0x40).to_bytes(4, "little") + b"\0" + code
    table = table_of(tmp_path, head + len(body).to_bytes(4, "little") + body, ".eh_frame")
    assert ours(table, 0x100F)["CFA"] == "rsp+8" and ours(table, 0x1010)["CFA"] == "rsp+16"


@pytest.mark.parametrize("code", [b"\x10\x10\x02\x77\x08", b"\x09\x10\x03", b"\x3f"])
def test_a_return_address_that_is_not_told(tmp_path: Path, code: bytes) -> None:
    table = table_of(tmp_path, cie(ENTRY) + fde(code))
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
