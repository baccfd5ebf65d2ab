"""A CPU's registers in the notes of an ELF core of aarch64, read and written.

QEMU writes ``CORE``/NT_PRSTATUS, as Linux lays it out (target/arm/arch_dump.c,
``aarch64_elf_prstatus``), and those of floating point and SVE. None has a system register: a bare
core of QEMU's tells of no table of translations.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import calcsize, pack, unpack_from

from breenix_gdbagent.aarch64.registers import GENERAL, NAME
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf import Note

NT_PRSTATUS = 1
_REGISTERS = (*GENERAL, "sp", "pc", "cpsr")
_LAYOUT = f"<32xI76x{len(_REGISTERS)}Qi4x"
"""Process id, registers, and whether there are floating-point ones."""


def prstatus_note(cpu: Cpu) -> Note:
    """The note that gdb and drgn take registers from; one that is not known is 0 there."""
    values = [cpu.registers.get(name, 0) for name in _REGISTERS]
    return Note("CORE", NT_PRSTATUS, pack(_LAYOUT, cpu.index + 1, *values, 0))


def cpus_of_notes(notes: Iterable[Note]) -> tuple[Cpu, ...]:
    """Every CPU that the notes describe, in their order. Raises `InputError` for one cut short."""
    found = [n for n in notes if n.owner == "CORE" and n.type == NT_PRSTATUS]
    return tuple(_cpu(note.data, index) for index, note in enumerate(found))


def _cpu(data: bytes, index: int) -> Cpu:
    if len(data) < calcsize(_LAYOUT):
        raise InputError(f"the registers of CPU {index} in the core are cut short")
    _, *values, _ = unpack_from(_LAYOUT, data)
    return Cpu(index, dict(zip(_REGISTERS, values, strict=True)), arch_name=NAME)
