"""Registers in columns, what changed marked, control registers and flags by name."""

from __future__ import annotations

from collections.abc import Sequence

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.commands.shell.screen import columns_of
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.report.ink import Ink

CELL = 26  # columns of one register


def registers(session: Session, cpu: Cpu, width: int) -> list[str]:
    """All registers of one CPU in as many columns as fit, then the flags by name. `*` marks what
    has changed since the stop before."""
    before = session.previous.get(cpu.index, {})
    ink = session.screen.ink
    cells = [_cell(cpu, name, before, ink) for name in cpu.arch.shown.grid]
    columns = max(1, width // CELL)
    lines = [
        "".join(cells[first : first + columns]).rstrip() for first in range(0, len(cells), columns)
    ]
    parts = [_flags(cpu, name, before, ink) for name in cpu.arch.shown.decoded]
    parts += [_cell(cpu, name, before, ink, 0).rstrip() for name in cpu.arch.shown.others]
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
    said = " ".join(cpu.arch.bits(name, value))
    text = f"{'*' if changed else ' '}{name} {hex64(value)} [{said}]"
    return ink("note", text) if changed else text


def _filled(parts: Sequence[str], width: int) -> list[str]:
    """Parts in lines, as many in one as fit."""
    lines = [""]
    for part in parts:
        if lines[-1] and columns_of(lines[-1]) + columns_of(part) + 1 > width:
            lines.append("")
        lines[-1] += part if not lines[-1] else " " + part
    return lines
