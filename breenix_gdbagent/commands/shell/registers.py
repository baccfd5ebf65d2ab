"""Registers in columns, what changed marked, control registers and flags by name."""

from __future__ import annotations

from collections.abc import Sequence

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.commands.shell.screen import columns_of
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.report.ink import Ink
from breenix_gdbagent.x86.bits import flags

GENERAL = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
    "r13", "r14", "r15",
)  # fmt: skip
GRID = (*GENERAL, "rip", "cr3")
DECODED = ("eflags", "cr0", "cr4", "efer")
OTHERS = ("cr2", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base", "k_gs_base")
CELL = 26  # columns of one register


def registers(session: Session, cpu: Cpu, width: int) -> list[str]:
    """All registers of one CPU in as many columns as fit, then the flags by name. `*` marks what
    has changed since the stop before."""
    before = session.previous.get(cpu.index, {})
    ink = session.screen.ink
    cells = [_cell(cpu, name, before, ink) for name in GRID]
    columns = max(1, width // CELL)
    lines = [
        "".join(cells[first : first + columns]).rstrip() for first in range(0, len(cells), columns)
    ]
    parts = [_flags(cpu, name, before, ink) for name in DECODED]
    parts += [_cell(cpu, name, before, ink, 0).rstrip() for name in OTHERS]
    return [*lines, *_filled(parts, width)]


def _cell(cpu: Cpu, name: str, before: dict[str, int], ink: Ink, pad: int = 3) -> str:
    value = cpu.get(name)
    shown = "not known" if value is None else hex64(value)
    changed = value is not None and before.get(name, value) != value
    text = f"{'*' if changed else ' '}{name:<{pad}} {shown}"
    return (ink("note", text) if changed else text) + " " * max(1, CELL - len(text))


def _flags(cpu: Cpu, name: str, before: dict[str, int], ink: Ink) -> str:
    value = cpu.get(name)
    if value is None:
        return f" {name} not known"
    changed = before.get(name, value) != value
    text = f"{'*' if changed else ' '}{name} {hex64(value)} [{' '.join(flags(name, value))}]"
    return ink("note", text) if changed else text


def _filled(parts: Sequence[str], width: int) -> list[str]:
    """Parts in lines, as many in one as fit."""
    lines = [""]
    for part in parts:
        if lines[-1] and columns_of(lines[-1]) + columns_of(part) + 1 > width:
            lines.append("")
        lines[-1] += part if not lines[-1] else " " + part
    return lines
