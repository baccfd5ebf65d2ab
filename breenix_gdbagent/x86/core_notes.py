"""A CPU's registers in the notes of an ELF core, read and written.

Per CPU a core of QEMU's has ``CORE``/NT_PRSTATUS (general registers, as Linux lays them out) and
``QEMU`` type 0 (QEMU target/i386/arch_dump.c, ``QEMUCPUState`` version 1), which adds the hidden
parts of the segments, descriptor tables, CR0 to CR4 and the kernel's GS base. Neither has EFER.
While CPU 0 is not in long mode yet (firmware, a boot loader) the core is one of an i386, and its
NT_PRSTATUS is the shorter one of 32-bit Linux (``x86_elf_prstatus`` there).

Each note is declared once, to read and to write, with `construct`: its import takes 30 ms, so
whoever meets no such note does not import this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from construct import (
    ConstructError,
    If,
    Int32ul,
    Int64ul,
    Optional,
    Padding,
    Struct,
    this,
)

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.arch.cpu import Cpu, DescriptorTable, SystemSegment
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf import Note

NT_PRSTATUS = 1
QEMU_VERSION = 1

_GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "eflags"),
)
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
_TABLES = ("ldt", "tr", "gdt", "idt")
_CONTROL = ("cr0", "cr2", "cr3", "cr4")

_SEGMENT = Struct(
    "selector" / Int32ul, "limit" / Int32ul, "flags" / Int32ul, Padding(4), "base" / Int64ul
)
_ALWAYS = (
    "version" / Int32ul,
    "size" / Int32ul,
    *(name / Int64ul for name in _GENERAL),
    *(name / _SEGMENT for name in (*_SEGMENTS, *_TABLES)),
    "cr0" / Int64ul,
    Padding(8),  # a slot for CR1, which is no register: always 0
    *(name / Int64ul for name in _CONTROL[1:]),
)
_SIZE = Struct(*_ALWAYS).sizeof() + Int64ul.sizeof()
_QEMU = Struct(*_ALWAYS, "k_gs_base" / If(this.size >= _SIZE, Optional(Int64ul)))
"""``QEMUCPUState``; older QEMUs end it before the kernel's GS base."""

_PRSTATUS_REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
    *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss"),
    *("fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
_PRSTATUS = Struct(
    Padding(32),
    "pid" / Int32ul,
    Padding(76),
    *(name / Int64ul for name in _PRSTATUS_REGISTERS),
    Padding(8),
)
_SHORT_REGISTERS = (
    *("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rax", "ds", "es", "fs", "gs"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss"),
)
_SHORT_PRSTATUS = Struct(
    Padding(24),
    "pid" / Int32ul,
    Padding(44),
    *(name / Int32ul for name in _SHORT_REGISTERS),
    Padding(4),
)
_LONG_CODE = 1 << 21
"""The L bit of a code segment's access rights, as QEMU keeps them."""


def cpus_of_notes(notes: Iterable[Note], *, long_mode: bool | None = None) -> tuple[Cpu, ...]:
    """Every CPU that the notes describe, in their order.

    The ``QEMU`` notes where there are any, else what NT_PRSTATUS has (no control registers then).
    `long_mode` is whether CPU 0 was in it, where the core's machine tells. Raises `InputError` for
    a note too short or of another version.
    """
    general: list[Note] = []
    full: list[Note] = []
    for note in notes:
        if note.owner == "QEMU" and note.type == 0:
            full.append(note)
        elif note.owner == "CORE" and note.type == NT_PRSTATUS:
            general.append(note)
    read = _of_qemu_note if full else _of_prstatus
    cpus = [read(note.data, index) for index, note in enumerate(full or general)]
    if cpus and long_mode is not None:
        cpus[0] = cpus[0]._replace(long_mode=long_mode)
    return tuple(cpus)


def _parsed(layout: Any, data: bytes, index: int) -> Any:
    try:
        return layout.parse(data)
    except ConstructError:
        raise InputError(f"the registers of CPU {index} in the core are cut short") from None


def _of_qemu_note(data: bytes, index: int) -> Cpu:
    told = _parsed(_QEMU, data, index)
    if told.version != QEMU_VERSION:
        raise InputError(
            f"the core has QEMU's CPU notes of version {told.version}", "only version 1 is known"
        )
    registers = {name: told[name] for name in _GENERAL}
    registers |= {name: told[name].selector for name in _SEGMENTS}
    registers |= {"fs_base": told.fs.base, "gs_base": told.gs.base}
    registers |= {name: told[name] for name in _CONTROL}
    if told.k_gs_base is not None:
        registers["k_gs_base"] = told.k_gs_base
    return Cpu(
        index=index,
        registers=registers,
        gdtr=DescriptorTable(VirtAddr(told.gdt.base), told.gdt.limit),
        idtr=DescriptorTable(VirtAddr(told.idt.base), told.idt.limit),
        tr=SystemSegment(told.tr.selector, VirtAddr(told.tr.base), told.tr.limit),
        ldtr=SystemSegment(told.ldt.selector, VirtAddr(told.ldt.base), told.ldt.limit),
        long_mode=True if told.cs.flags & _LONG_CODE else None,
        code_64=bool(told.cs.flags & _LONG_CODE),
    )


def _of_prstatus(data: bytes, index: int) -> Cpu:
    if len(data) == _SHORT_PRSTATUS.sizeof():
        told = _parsed(_SHORT_PRSTATUS, data, index)
        short = {name: told[name] for name in _SHORT_REGISTERS if name != "orig_rax"}
        for name in ("ds", "es", "fs", "gs", "cs", "ss"):
            short[name] &= 0xFFFF  # the other half is padding
        return Cpu(index=index, registers=short)
    told = _parsed(_PRSTATUS, data, index)
    registers = {name: told[name] for name in _PRSTATUS_REGISTERS if name != "orig_rax"}
    return Cpu(index=index, registers=registers)


def prstatus_note(cpu: Cpu) -> Note:
    """The ``CORE``/NT_PRSTATUS note of a CPU: what gdb, drgn and the rest take registers from.

    A register that is not known is 0 there: the format has no way to leave one out.
    """
    known: Mapping[str, int] = cpu.registers
    # QEMU numbers threads from 1, as gdb does (target/i386/arch_dump.c, x86_64_write_elf64_note).
    values = {"pid": cpu.index + 1, **{name: known.get(name, 0) for name in _PRSTATUS_REGISTERS}}
    return Note("CORE", NT_PRSTATUS, _PRSTATUS.build(values))


def qemu_note(cpu: Cpu) -> Note:
    """The ``QEMU`` note of a CPU, as QEMU writes it; a register not known is 0 there.

    Access rights of segments, which nothing of ours reads, are those of a flat 64-bit CPU.
    """
    known: Mapping[str, int] = cpu.registers
    values: dict[str, object] = {"version": QEMU_VERSION, "size": _SIZE}
    values |= {name: known.get(name, 0) for name in (*_GENERAL, *_CONTROL, "k_gs_base")}
    for name in _SEGMENTS:
        flags = 0xCF9300
        if name == "cs":
            flags = 0xCF9B00 if cpu.code_64 is False else 0xAF9B00
        base = known.get(f"{name}_base", 0)
        values[name] = _segment(known.get(name, 0), 0xFFFF_FFFF, flags, base)
    for name, system, flags in (("ldt", cpu.ldtr, 0x8200), ("tr", cpu.tr, 0x8B00)):
        held = system or SystemSegment(0, VirtAddr(0), 0)
        values[name] = _segment(held.selector, held.limit or 0, flags, held.base)
    for name, table in (("gdt", cpu.gdtr), ("idt", cpu.idtr)):
        values[name] = _segment(0, table.limit or 0, 0, table.base) if table else _segment()
    return Note("QEMU", 0, _QEMU.build(values))


def _segment(selector: int = 0, limit: int = 0, flags: int = 0, base: int = 0) -> dict[str, int]:
    return {"selector": selector, "limit": limit, "flags": flags, "base": base}
