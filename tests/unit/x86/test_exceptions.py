"""Frames and error codes, by the figures of the manual and the frames of the captures."""

from __future__ import annotations

import ast
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.snapshot.opening import open_snapshot
from breenix_gdbagent.x86.exceptions import (
    VECTORS,
    PageFaultCode,
    SelectorCode,
    parse_frame,
    read_frame,
)
from breenix_gdbagent.x86.paging import Tables, VirtualMemory
from breenix_gdbagent.x86.vectors import WITH_ERROR_CODE
from tests.unit.captures import BREENIX, capture, truth_of


@pytest.mark.parametrize("name", BREENIX)
def test_the_frame_of_a_capture(name: str) -> None:
    truth: Any = truth_of(name)
    cpu = (stop := open_snapshot(capture(name) / "core.elf")).cpu
    assert cpu.root is not None
    memory = VirtualMemory(Tables(stop.memory), cpu.root)
    frame = read_frame(memory.read, cpu.rsp, truth["stop"]["vector"])
    told = {name: int(value, 16) for name, value in truth["stop"]["frame"].items()}
    assert frame.error_code == told.pop("error_code", None)
    assert {name: getattr(frame, name) for name in told} == told
    assert frame.cpl == 3


def test_with_and_without_an_error_code() -> None:
    pushed = [0xFFFF_0000_0002, 0x1111, 0xABCD_0033, 0x246, 0x2222, 0x1_002B]
    data = struct.pack("<6Q", *pushed)
    frame = read_frame(lambda va, length: data[va : va + length], 0, 14)
    assert (frame.error_code, frame.rip, frame.cs, frame.ss) == (2, 0x1111, 0x33, 0x2B)
    assert frame.size == 48
    frame = read_frame(lambda va, length: data[va : va + length], 8, 6)
    assert (frame.error_code, frame.rip, frame.rsp, frame.size) == (None, 0x1111, 0x2222, 40)


def test_which_vectors_push_a_code() -> None:
    """SDM vol. 3, table 6-1, and of AMD's own (APM vol. 2, table 8-1) #VC and #SX, not #HV."""
    pushing = {8, 10, 11, 12, 13, 14, 17, 21, 29, 30}
    assert pushing == WITH_ERROR_CODE
    assert {v for v in VECTORS if VECTORS[v].error_code} == pushing
    data = struct.pack("<6Q", 5, 0x1111, 0x33, 0x246, 0x2222, 0x2B)
    for vector in range(256):
        frame = read_frame(lambda va, length: data[va : va + length], 0, vector)
        assert (frame.error_code == 5) == (vector in pushing), vector


def test_the_table_of_the_exceptions_is_written_once() -> None:
    """A second table would drift, as one did at 29 and 30: neither the vectors that push a code
    nor the names are listed anywhere else."""
    package = Path(__file__).parents[3] / "breenix_gdbagent"
    tables = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Set | ast.Tuple | ast.List | ast.Dict):
                said = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                if (said >= {8, 13, 14, 17} and 6 not in said) or said >= {"#GP", "#PF", "#DF"}:
                    tables.add(str(path.relative_to(package)))
    assert tables == {"x86/vectors.py"}


@pytest.mark.parametrize(
    ("value", "access", "user", "present", "names"),
    [
        (0x0, "read", False, False, ()),
        (0x2, "write", False, False, ("W",)),
        (0x7, "write", True, True, ("P", "W", "U")),
        (0x1, "read", False, True, ("P",)),
        (0x11, "fetch", False, True, ("P", "I")),
        (0x15, "fetch", True, True, ("P", "U", "I")),
        (0xD, "read", True, True, ("P", "U", "RSVD")),
        (0x27, "write", True, True, ("P", "W", "U", "PK")),
    ],
)
def test_page_fault_codes(
    value: int, access: str, user: bool, present: bool, names: tuple[str, ...]
) -> None:
    code = PageFaultCode(value)
    assert (code.access, code.user, code.present, code.names) == (access, user, present, names)
    assert code.reserved == ("RSVD" in names) and code.protection_key == ("PK" in names)
    assert PageFaultCode(value | 1 << 20).undefined == 1 << 20 and not code.undefined


@pytest.mark.parametrize(
    ("value", "table", "index", "selector", "external"),
    [
        (0, "gdt", 0, 0, False),
        (0x18, "gdt", 3, 0x18, False),
        (0x1C, "ldt", 3, 0x1C, False),
        (0x72, "idt", 14, 0x70, False),
        (0x103, "idt", 32, 0x100, True),
    ],
)
def test_selector_codes(value: int, table: str, index: int, selector: int, external: bool) -> None:
    code = SelectorCode(value)
    assert (code.table, code.index, code.selector, code.external) == (
        table,
        index,
        selector,
        external,
    )


def test_plausible_frames() -> None:
    words = (0x1000, 8, 0x46, 0xFFFF_8000_0000_0FF8, 0)
    frame = parse_frame(struct.pack("<5Q", *words))
    assert frame.plausible() and frame.clean
    assert not replace(frame, rflags=frame.rflags | 1 << 3).plausible()
    assert not replace(frame, rflags=frame.rflags | 1 << 40).plausible()
    assert not replace(frame, rflags=frame.rflags & ~2).plausible()
    assert not replace(frame, cs=0).plausible()
    assert not replace(frame, ss=0x13).plausible(), "SS of ring 3 with CS of ring 0"
    assert not replace(frame, rsp=VirtAddr(1 << 63)).plausible()
    assert not replace(frame, rsp=VirtAddr(1 << 55)).plausible()
    assert not parse_frame(struct.pack("<5Q", 0x1000, 8 | 1 << 16, *words[2:])).clean
    assert not parse_frame(struct.pack("<5Q", *words), 1 << 32).clean


def test_a_frame_cut_short() -> None:
    with pytest.raises(ReadError, match="cut short"):
        read_frame(lambda va, length: bytes(length - 1), 0x1000, 14)
