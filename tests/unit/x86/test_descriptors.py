"""Gates, descriptors and the TSS against what the captures tell of themselves."""

from __future__ import annotations

import struct
from typing import Any

import construct
import pytest
from hypothesis import given
from hypothesis import strategies as st

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import NotMapped, ReadError, Unreadable
from breenix_gdbagent.snapshot.opening import open_snapshot
from breenix_gdbagent.x86.cpu import DescriptorTable
from breenix_gdbagent.x86.descriptors import (
    parse_gate,
    parse_segment,
    read_gates,
    read_segment,
    read_segments,
    read_tss,
)
from breenix_gdbagent.x86.paging import Tables, VirtualMemory
from tests.unit.captures import NAMES, capture, truth_of


def _read(name: str) -> tuple[Any, VirtualMemory]:
    stop = open_snapshot(capture(name) / "core.elf")
    assert stop.cpu.root is not None
    return stop.cpu, VirtualMemory(Tables(stop.memory), stop.cpu.root)


@pytest.mark.parametrize("name", NAMES)
def test_every_gate_of_a_capture(name: str) -> None:
    truth: Any = truth_of(name)
    cpu, memory = _read(name)
    gates = read_gates(memory.read, cpu.idtr)
    told = {
        int(vector): (
            int(gate["handler"], 16),
            gate["selector"],
            gate["ist"],
            int(gate["flags"], 16),
        )
        for vector, gate in truth["gates"].items()
    }
    said = {
        vector: (g.offset, g.selector, g.ist, 0x80 * g.present | g.dpl << 5 | g.type)
        for vector, g in gates.items()
    }
    assert said == told
    read_gates(memory.read, cpu.idtr)


@pytest.mark.parametrize("name", ["breenix-head-cow-fault", "breenix-seed-syscall"])
def test_the_tss_of_a_capture(name: str) -> None:
    truth: Any = truth_of(name)
    cpu, memory = _read(name)
    tss = read_tss(memory.read, cpu.tr.base)
    assert hex(tss.rsp0) == truth["tss"]["rsp0"]
    assert [hex(top) for top in tss.ist] == truth["tss"]["ist"]


@pytest.mark.parametrize("name", NAMES)
def test_the_gdt_has_the_tss_and_the_code_that_the_cpu_uses(name: str) -> None:
    cpu, memory = _read(name)
    tss = read_segment(memory.read, cpu.gdtr, cpu.tr.selector)
    assert tss is not None
    assert (tss.base, tss.limit) == (cpu.tr.base, cpu.tr.limit)
    assert tss.system and tss.type == 0xB, "busy: it is loaded"
    code = read_segment(memory.read, cpu.gdtr, cpu.registers["cs"])
    assert code is not None
    assert code.code and code.long and not code.default_big and code.present
    assert code.dpl == cpu.cpl
    everything = read_segments(memory.read, cpu.gdtr)
    assert tss.base in [s.base for s in everything if s.wide]
    assert read_segment(memory.read, cpu.gdtr, 0) is None
    assert read_segment(memory.read, cpu.gdtr, 0xFFF8) is None


def test_fields_of_a_gate_that_differ_from_one_another() -> None:
    raw = struct.pack("<HHBBHII", 0x1234, 0x8, 0xF8 | 5, 0xEF, 0x5678, 0x9ABCDEF0, 7)
    gate = parse_gate(14, raw)
    assert gate.offset == 0x9ABC_DEF0_5678_1234
    assert (gate.selector, gate.ist, gate.type, gate.dpl, gate.present) == (8, 5, 0xF, 3, True)


@pytest.mark.parametrize(
    ("raw", "base", "limit", "code", "long", "dpl"),
    [
        (0x00AF9A000000FFFF, 0, 0xFFFFFFFF, True, True, 0),
        (0x00CFF2000000FFFF, 0, 0xFFFFFFFF, False, False, 3),
        (0x12409234567800FF, 0x12345678, 0xFF, False, False, 0),
    ],
)
def test_fields_of_a_segment(
    raw: int, base: int, limit: int, code: bool, long: bool, dpl: int
) -> None:
    found = parse_segment(8, raw.to_bytes(8, "little"))
    assert (found.base, found.limit, found.code, found.long, found.dpl) == (
        base,
        limit,
        code,
        long,
        dpl,
    )


DESCRIPTOR = construct.ByteSwapped(
    construct.BitStruct(
        "base_high" / construct.BitsInteger(8),
        "granularity" / construct.Flag,
        "default_big" / construct.Flag,
        "long" / construct.Flag,
        construct.Padding(1),
        "limit_high" / construct.BitsInteger(4),
        "present" / construct.Flag,
        "dpl" / construct.BitsInteger(2),
        "code_or_data" / construct.Flag,
        "type" / construct.BitsInteger(4),
        "base_low" / construct.BitsInteger(24),
        "limit_low" / construct.BitsInteger(16),
    )
)
"""SDM vol. 3, figure 3-8, written down a second time."""


@given(raw=st.binary(min_size=8, max_size=8))
def test_any_segment_is_as_the_figure_has_it(raw: bytes) -> None:
    told = DESCRIPTOR.parse(raw)
    found = parse_segment(8, raw)
    assert found.base == told.base_high << 24 | told.base_low
    pages = told.limit_high << 16 | told.limit_low
    assert found.limit == (pages * 4096 + 4095 if told.granularity else pages)
    for name in ("default_big", "long", "present", "dpl", "type"):
        assert getattr(found, name) == told[name]
    assert found.system is not told.code_or_data


def test_a_table_that_is_half_there() -> None:
    """Gates on a page that cannot be read are not known; without any page it is an error."""
    gate = struct.pack("<HHBBHII", 0x1000, 8, 0, 0x8E, 0, 0x80, 0)

    def half(va: int, length: int) -> bytes:
        if va >= 0x2000:
            raise NotMapped(VirtAddr(va), 0, 1, "not-present")  # type: ignore[arg-type]
        return gate * (length // 16)

    gates = read_gates(half, DescriptorTable(VirtAddr(0x1800), 0xFFF))
    assert list(gates) == list(range(0x80))

    def none(va: int, length: int) -> bytes:
        raise Unreadable(0, length, "nowhere")  # type: ignore[arg-type]

    with pytest.raises(ReadError):
        read_gates(none, DescriptorTable(VirtAddr(0x1800), 0xFFF))
    assert read_gates(half, DescriptorTable(VirtAddr(0x1000), 0xF)).keys() == {0}
