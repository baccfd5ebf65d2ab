"""A CPU's registers in the notes of an ELF core, read and written.

Per CPU a core of QEMU's has ``CORE``/NT_PRSTATUS (general registers, as Linux lays them out) and
``QEMU`` type 0 (QEMU target/i386/arch_dump.c, `QEMUCPUState` version 1), which adds the hidden
parts of the segments, descriptor tables, CR0 to CR4 and the kernel's GS base. Neither has EFER.
While CPU 0 is not in long mode yet (firmware, a boot loader) the core is one of an i386, and its
NT_PRSTATUS is the shorter one of 32-bit Linux (`x86_elf_prstatus` there).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf import Note
from breenix_gdbagent.x86.cpu import Cpu, DescriptorTable, SystemSegment

NT_PRSTATUS = 1
QEMU_VERSION = 1

_GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "eflags"),
)
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
_TABLES = ("ldt", "tr", "gdt", "idt")
_CONTROL = ("cr0", "cr1", "cr2", "cr3", "cr4")

_HEAD = Struct("<II18Q")
_SEGMENT = Struct("<IIIIQ")
_TAIL = Struct("<5Q")
_KERNEL_GS = Struct("<Q")
_SMALLEST = _HEAD.size + 10 * _SEGMENT.size + _TAIL.size
_SIZE = _SMALLEST + _KERNEL_GS.size

_PRSTATUS_REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
    *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss"),
    *("fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
_PRSTATUS = Struct("<32xI76x27Q8x")

_SHORT_REGISTERS = (
    *("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rax", "ds", "es", "fs", "gs"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss"),
)
_SHORT_PRSTATUS = Struct("<24xI44x17I4x")
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


def _of_qemu_note(data: bytes, index: int) -> Cpu:
    if len(data) < _SMALLEST:
        raise InputError(f"the registers of CPU {index} in the core are cut short")
    version, size, *general = _HEAD.unpack_from(data)
    if version != QEMU_VERSION:
        raise InputError(
            f"the core has QEMU's CPU notes of version {version}", "only version 1 is known"
        )
    registers = dict(zip(_GENERAL, general, strict=True))
    parts: dict[str, tuple[int, int, int]] = {}
    long_mode = None
    at = _HEAD.size
    for name in (*_SEGMENTS, *_TABLES):
        selector, limit, flags, _pad, base = _SEGMENT.unpack_from(data, at)
        if name == "cs" and flags & _LONG_CODE:
            long_mode = True
        parts[name] = selector, limit, base
        at += _SEGMENT.size
    for name in _SEGMENTS:
        registers[name] = parts[name][0]
    registers["fs_base"] = parts["fs"][2]
    registers["gs_base"] = parts["gs"][2]
    control = dict(zip(_CONTROL, _TAIL.unpack_from(data, at), strict=True))
    del control["cr1"]  # a slot without a register: it is always 0
    registers |= control
    if min(size, len(data)) >= _SIZE:
        (registers["k_gs_base"],) = _KERNEL_GS.unpack_from(data, at + _TAIL.size)
    return Cpu(
        index=index,
        registers=registers,
        gdtr=_table(parts["gdt"]),
        idtr=_table(parts["idt"]),
        tr=_system(parts["tr"]),
        ldtr=_system(parts["ldt"]),
        long_mode=long_mode,
    )


def _table(part: tuple[int, int, int]) -> DescriptorTable:
    return DescriptorTable(VirtAddr(part[2]), part[1])


def _system(part: tuple[int, int, int]) -> SystemSegment:
    return SystemSegment(part[0], VirtAddr(part[2]), part[1])


def _of_prstatus(data: bytes, index: int) -> Cpu:
    if len(data) == _SHORT_PRSTATUS.size:
        _pid, *values = _SHORT_PRSTATUS.unpack(data)
        short = dict(zip(_SHORT_REGISTERS, values, strict=True))
        del short["orig_rax"]
        for name in ("ds", "es", "fs", "gs", "cs", "ss"):
            short[name] &= 0xFFFF  # the other half is padding
        return Cpu(index=index, registers=short)
    if len(data) < _PRSTATUS.size:
        raise InputError(f"the registers of CPU {index} in the core are cut short")
    _pid, *values = _PRSTATUS.unpack_from(data)
    registers = dict(zip(_PRSTATUS_REGISTERS, values, strict=True))
    del registers["orig_rax"]
    return Cpu(index=index, registers=registers)


def prstatus_note(cpu: Cpu) -> Note:
    """The ``CORE``/NT_PRSTATUS note of a CPU: what gdb, drgn and the rest take registers from.

    A register that is not known is 0 there: the format has no way to leave one out.
    """
    known: Mapping[str, int] = cpu.registers
    values = [known.get(name, 0) for name in _PRSTATUS_REGISTERS]
    # QEMU numbers threads from 1, as gdb does (target/i386/arch_dump.c, x86_64_write_elf64_note).
    return Note("CORE", NT_PRSTATUS, _PRSTATUS.pack(cpu.index + 1, *values))


def qemu_note(cpu: Cpu) -> Note:
    """The ``QEMU`` note of a CPU, as QEMU writes it; a register not known is 0 there.

    Access rights of segments, which nothing of ours reads, are those of a flat 64-bit CPU.
    """
    known = cpu.registers
    head = _HEAD.pack(QEMU_VERSION, _SIZE, *(known.get(name, 0) for name in _GENERAL))
    parts = []
    for name in _SEGMENTS:
        base = known.get(f"{name}_base", 0)
        flags = 0xAF9B00 if name == "cs" else 0xCF9300
        parts.append(_SEGMENT.pack(known.get(name, 0), 0xFFFF_FFFF, flags, 0, base))
    for system, flags in ((cpu.ldtr, 0x8200), (cpu.tr, 0x8B00)):
        selector, base = (system.selector, system.base) if system else (0, 0)
        limit = (system.limit if system else None) or 0
        parts.append(_SEGMENT.pack(selector, limit, flags, 0, base))
    for table in (cpu.gdtr, cpu.idtr):
        base, limit = (table.base, table.limit or 0) if table else (0, 0)
        parts.append(_SEGMENT.pack(0, limit, 0, 0, base))
    control = _TAIL.pack(*(known.get(name, 0) for name in _CONTROL))
    kernel_gs = _KERNEL_GS.pack(known.get("k_gs_base", 0))
    return Note("QEMU", 0, b"".join((head, *parts, control, kernel_gs)))
