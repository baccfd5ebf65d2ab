"""CPU notes of QEMU's cores, read and written."""

from __future__ import annotations

from typing import Any

import pytest

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf import Note, split_notes
from breenix_gdbagent.snapshot.opening import open_snapshot
from breenix_gdbagent.x86.core_notes import cpus_of_notes, prstatus_note, qemu_note
from breenix_gdbagent.x86.cpu import Cpu, DescriptorTable, SystemSegment
from tests.unit.captures import NAMES, capture, truth_of
from tests.writers.core import note, registers_note


def _parsed(raw: bytes) -> tuple[Cpu, ...]:
    return cpus_of_notes(split_notes(memoryview(raw), "core"))


def test_every_field_is_its_own() -> None:
    names = ("rax", "rsi", "rsp", "rbp", "r15", "rip", "eflags", "cs", "gs", "cr0", "cr2", "cr4")
    known = {name: 0x1000 + n for n, name in enumerate(names)}
    (cpu,) = _parsed(
        registers_note(
            **known, k_gs_base=5, fs_base=6, gs_base=7, gdt_base=8, gdt_limit=9, idt_base=10,
            tr=11, tr_base=12, tr_limit=13, ldt=14, ldt_base=15, cr1=99,
        )
    )  # fmt: skip
    assert {name: cpu.registers[name] for name in names} == known
    assert [cpu.registers[n] for n in ("k_gs_base", "fs_base", "gs_base")] == [5, 6, 7]
    assert cpu.gdtr == DescriptorTable(VirtAddr(8), 9)
    assert cpu.idtr == DescriptorTable(VirtAddr(10), 0)
    assert cpu.tr == SystemSegment(11, VirtAddr(12), 13)
    assert cpu.ldtr == SystemSegment(14, VirtAddr(15), 0)
    assert "cr1" not in cpu.registers and "efer" not in cpu.registers


def test_without_qemus_notes_the_general_registers_remain() -> None:
    (cpu,) = _parsed(registers_note(rip=5, cs=0x33, fs_base=7))
    general = prstatus_note(cpu)
    (again,) = cpus_of_notes([general])
    assert again.registers["rip"] == 5 and again.registers["fs_base"] == 7
    assert again.get("cr3") is None and again.gdtr is None


@pytest.mark.parametrize("name", NAMES)
def test_what_we_write_is_what_qemu_wrote(name: str) -> None:
    """Byte for byte but for access rights, which we do not keep."""
    stop = open_snapshot(capture(name) / "core.elf")
    notes: Any = stop.memory.notes  # type: ignore[attr-defined]
    theirs = [n for n in notes if n.owner == "QEMU"]
    assert len(theirs) == len(truth_of(name).get("cpu_state", [0]))  # type: ignore[arg-type]
    for cpu, told in zip(stop.cpus, theirs, strict=True):
        ours = qemu_note(cpu)
        assert len(ours.data) == len(told.data)
        (same,) = cpus_of_notes([Note("QEMU", 0, ours.data)])
        assert same.registers == cpu.registers
        assert (same.gdtr, same.idtr, same.tr, same.ldtr) == (
            cpu.gdtr,
            cpu.idtr,
            cpu.tr,
            cpu.ldtr,
        )


@pytest.mark.parametrize(
    "raw",
    [
        note("QEMU", 0, bytes(100)),
        note("QEMU", 0, b"\2" + registers_note()[21:]),
        note("CORE", 1, bytes(335)),
    ],
)
def test_notes_that_are_cut_or_of_another_version(raw: bytes) -> None:
    with pytest.raises(InputError) as refused:
        _parsed(raw)
    assert len(str(refused.value).splitlines()) <= 3
