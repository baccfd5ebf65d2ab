"""``set`` and ``interrupt VECTOR at``: what changes the guest, only with ``--write``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands.shell.line import Line
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.expressions import address_at, parse
from breenix_gdbagent.evaluation.operands import LOWER, REGISTERS, number
from breenix_gdbagent.symbols.values import Value

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.known import Known
    from breenix_gdbagent.live import LiveVm

_MEMORY = re.compile(r"(?:\{(u8|u16|u32|u64)\}\s*(.+)|(u8|u16|u32|u64)\[(.+)\])\Z")
_KEPT = re.compile(r"\$[A-Za-z_]\w*\Z")


def do_set(session: Session, line: Line) -> int:
    """``set $name = EXPR`` keeps a value; registers and memory are written behind --write."""
    text = re.sub(r"^var(iable)?\s+", "", line.text)
    target, sign, value_text = _split(text)
    if not sign:
        raise InputError(f"set {line.text}: no such setting", fix="set PLACE = EXPR")
    with session.while_stopped():
        evaluation = session.evaluation
        value = parse(value_text, kept=session.kept).value(evaluation)
        bare = target.removeprefix("$")
        if bare in REGISTERS or bare in LOWER:
            return _register(session, LOWER.get(bare, bare), number(value))
        if _KEPT.match(target):
            session.kept[target] = value
            return 0
        address, size = _place(session, target)
        return _memory(session, address, size, value)


def _split(text: str) -> tuple[str, str, str]:
    """(place, "=", value): at the first ``=`` that is no comparison."""
    found = re.search(r"(?<![=!<>])=(?!=)", text)
    if found is None:
        return text, "", ""
    return text[: found.start()].strip(), "=", text[found.end() :].strip()


def _place(session: Session, target: str) -> tuple[int, int]:
    """(address, bytes) of what is to be written."""
    memory = _MEMORY.match(target)
    evaluation = session.evaluation
    if memory is not None:
        kind = memory[1] or memory[3]
        return address_at(evaluation, memory[2] or memory[4]), int(kind[1:]) // 8
    if target.startswith("*") and not isinstance(
        found := parse(target, kept=session.kept).value(evaluation), Value
    ):
        return address_at(evaluation, target[1:]), 8
    found = parse(target, kept=session.kept).value(evaluation)
    if not isinstance(found, Value):
        raise InputError(f"{target} is no place in memory", fix="u64[ADDRESS], or a value by name")
    inner = found.scalar()
    if inner.address is None:
        raise ReadError(f"{target} is in no memory of its own: it cannot be written")
    return inner.address, inner.type.size


def _register(session: Session, name: str, value: int) -> int:
    vm = writable_vm(session)
    vm.write_register(session.view.stop.cpu.index, name, value & (1 << 64) - 1)
    written(session, f"{name} = {hex64(value & (1 << 64) - 1)}")
    return 0


def _memory(session: Session, address: int, size: int, value: Known) -> int:
    vm = writable_vm(session)
    data = (number(value) & (1 << 8 * size) - 1).to_bytes(size, "little")
    vm.write_memory(session.view.stop.cpu.index, address, data)
    written(session, f"{size} bytes at {hex64(address)} = {number(value):#x}")
    return 0


def writable_vm(session: Session) -> LiveVm:
    """The guest, for a command that changes it. Raises `InputError` without --write."""
    vm = session.debugger.vm
    if not session.writes:
        raise InputError(
            "this shell only looks: nothing is written into the guest",
            "a guest that was written into proves nothing about its kernel",
            "start it with --write",
        )
    return vm


def written(session: Session, what: str) -> None:
    """Keep what was written: the guest's reports say it from now on."""
    session.debugger.vm.was_changed()
    session.debugger.written.append(what)
    session.look_again()
    print(f"written: {what}")


def inject(session: Session, line: Line) -> int:
    """``interrupt timer|VECTOR at LOCATION [if COND]``: that interrupt, before that instruction."""
    from breenix_gdbagent.debugger.injection import Injection, parse_interrupt
    from breenix_gdbagent.debugger.user_breakpoints import breakpoint_of

    what, word, location = line.text.partition(" at ")
    if not word or not location.strip():
        raise InputError("which interrupt, where?", fix="interrupt timer|VECTOR at LOCATION")
    vm = writable_vm(session)
    with session.while_stopped():
        debugger = session.debugger
        vector = parse_interrupt(what.strip(), session.kernel)
        number = debugger.table.number()
        point = breakpoint_of(location.strip(), debugger.loaded_or_linked, number, once=True)
        debugger.add(point)
    injection = Injection(vm, debugger, point, vector)
    return session.run(injection.run)
