"""``points``: breakpoints, watchpoints, checkpoints and invariants, as the shell writes them."""

from __future__ import annotations

from collections.abc import Callable

from breenix_gdbagent.agents.answers import Row, Rows, page
from breenix_gdbagent.agents.session import Session
from breenix_gdbagent.api import stops
from breenix_gdbagent.debugger.held import HeldGuest
from breenix_gdbagent.debugger.points import Point
from breenix_gdbagent.debugger.user_breakpoints import (
    breakpoint_of,
    checkpoint_of,
    invariant_of,
    split_if,
)
from breenix_gdbagent.debugger.watchpoints import watch_entry, watch_memory, watch_value
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.locations import parse_number

LAST = 3
WORD = 8


def points(session: Session, action: str, what: str, start: int) -> Rows:
    """Do `action` with `what`, and answer with all points. Raises `InputError`, `ReadError`."""
    guest = session.held.live()
    if action != "list":
        ACTIONS[action](guest, what.strip())
    table = [point for point in guest.debugger.table if point.number > 0]
    return page([_row(guest, point) for point in table], start, guest.debugger.table.caution)


def _row(guest: HeldGuest, point: Point) -> Row:
    return {
        "number": point.number,
        "what": point.describe(),
        "hits": point.hits,
        "enabled": point.enabled,
        "pending": guest.debugger.table.pending(point) or None,
        "last": [one.text for one in list(point.records)[-LAST:]],
    }


def _break(guest: HeldGuest, text: str) -> None:
    debugger = guest.debugger
    debugger.add(breakpoint_of(text, debugger.loaded_or_linked, debugger.table.number()))


def _once(guest: HeldGuest, text: str) -> None:
    debugger = guest.debugger
    image, number = debugger.loaded_or_linked, debugger.table.number()
    debugger.add(breakpoint_of(text, image, number, once=True))


def _checkpoint(guest: HeldGuest, text: str) -> None:
    debugger = guest.debugger
    point = checkpoint_of(text, debugger.loaded_or_linked, debugger.table.number())
    point.quiet = True  # its hits are in its row
    debugger.add(point)


def _invariant(guest: HeldGuest, text: str) -> None:
    debugger = guest.debugger
    debugger.add(invariant_of(text, debugger.loaded_or_linked, debugger.table.number()))


def _watch(guest: HeldGuest, text: str) -> None:
    """``PATH``, or ``VA [LENGTH]``, and ``if COND``."""
    head, condition = split_if(text)
    words = head.split()
    if not words:
        raise InputError("points: watch what?", fix="a static (SCHEDULER.current_thread), or VA")
    va = parse_number(words[0])
    if va is None:
        watch_value(guest.debugger, guest.kernel, head, "write", condition)
        return
    length = parse_number(words[1]) if len(words) > 1 else WORD
    if not length:
        raise InputError(f"points: {words[1]!r} is no number of bytes")
    watch_memory(guest.debugger, guest.kernel, va, length, "write", condition)


def _entry(guest: HeldGuest, text: str) -> None:
    """``VA [process PID|NAME]``: the page-table entries that map it."""
    head, _, process = text.partition(" process ")
    va = stops.address(guest.kernel, head)
    watch_entry(guest.debugger, guest.kernel, va, process.strip() or None)


def _delete(guest: HeldGuest, text: str) -> None:
    guest.debugger.remove(*_named(guest, text))


def _enable(guest: HeldGuest, text: str) -> None:
    _switch(guest, text, on=True)


def _disable(guest: HeldGuest, text: str) -> None:
    _switch(guest, text, on=False)


def _switch(guest: HeldGuest, text: str, *, on: bool) -> None:
    for point in _named(guest, text):
        point.enabled = on
        guest.debugger.table.place(point)


def _named(guest: HeldGuest, text: str) -> list[Point]:
    """Points by number, or ``all``. Raises `InputError`."""
    table = guest.debugger.table
    if text == "all":
        return [point for point in table if point.number > 0]
    number = parse_number(text) if text else None
    if number is None:
        raise InputError(f"points: {text!r} is no number of a point", fix="a number, or all")
    return [table.get(number)]


ACTIONS: dict[str, Callable[[HeldGuest, str], None]] = {
    "break": _break,
    "tbreak": _once,
    "watch": _watch,
    "entry": _entry,
    "checkpoint": _checkpoint,
    "invariant": _invariant,
    "delete": _delete,
    "enable": _enable,
    "disable": _disable,
}
