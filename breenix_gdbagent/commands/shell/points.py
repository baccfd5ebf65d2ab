"""Breakpoints, watchpoints, checkpoints and invariants at the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.commands.shell.line import Line, arguments, count_of
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.entry_watch import UNSEEN
from breenix_gdbagent.debugger.points import Access, Only, Point
from breenix_gdbagent.debugger.user_breakpoints import (
    breakpoint_of,
    checkpoint_of,
    invariant_of,
    links_of,
    split_if,
)
from breenix_gdbagent.debugger.watchpoints import watch_entry, watch_memory, watch_value
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import address_at, parse
from breenix_gdbagent.evaluation.places import joined
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.symbols import LoadedImage

LAST = 10


# Setting --------------------------------------------------------------------------------------


def do_break(session: Session, line: Line) -> int:
    if not line.text:
        return listed(session)
    text = in_file_at_hand(session, line.text)
    here = _here(session)
    return _set(session, lambda image, n: breakpoint_of(text, image, n, evaluation=here))


def do_tbreak(session: Session, line: Line) -> int:
    if not line.text:
        raise InputError("no location", fix="see: help tbreak")
    text = in_file_at_hand(session, line.text)
    here = _here(session)
    return _set(session, lambda image, n: breakpoint_of(text, image, n, once=True, evaluation=here))


def _here(session: Session) -> Evaluation | None:
    """Where the guest stands, for a location that is an expression; None before it has run."""
    return None if session.known is None or session.running else session.evaluation


def in_file_at_hand(session: Session, text: str) -> str:
    """A location that begins with a bare line number, as `FILE:NUMBER`: of the file where the CPU
    stands, as gdb has it. Raises `InputError`."""
    from breenix_gdbagent.commands.shell.named import file_at_hand

    head, blank, rest = text.partition(" ")
    if not head.isdecimal():
        return text
    with session.while_stopped():
        return f"{file_at_hand(session, head)}:{head}{blank}{rest}"


def do_checkpoint(session: Session, line: Line) -> int:
    number = parse_number(line.text) if line.text.isdigit() else None
    if number is not None:
        return _told(session.debugger.table.get(number))
    here = _here(session)
    return _set(session, lambda image, n: checkpoint_of(line.text, image, n, evaluation=here))


def do_invariant(session: Session, line: Line) -> int:
    here = _here(session)
    return _set(session, lambda image, n: invariant_of(line.text, image, n, evaluation=here))


def _set(session: Session, make: Callable[[LoadedImage | None, int], Point]) -> int:
    """Put a point in, and say where."""
    with session.while_stopped():
        debugger = session.debugger
        point = make(debugger.loaded_or_linked, debugger.table.number())
        _added(debugger, debugger.add(point))
    return 0


def do_watch(session: Session, line: Line) -> int:
    words = line.text.split()
    if not words:
        raise InputError("watch what?", fix="see: help watch")
    with session.while_stopped():
        if words[0] == "entry":
            return _watch_entry(session, words[1:])
        access = _ACCESS.get(words[0])
        point = _watch(session, line.text if access is None else line.text[2:], access or "write")
        where = session.debugger.table.pending(point)
        for watched in point.watched:
            length = counted(watched.length, "byte")
            where = f"{length} at {hex64(watched.address)}, now {point.value}"
        print(f"{point.number}: {point.describe()}, {where}")
    return 0


_ACCESS: dict[str, Access] = {"-r": "read", "-a": "access", "-w": "write"}


def _watch(session: Session, text: str, access: Access) -> Point:
    """``VA [LENGTH]`` or a value, and ``if COND``."""
    head, condition = split_if(text.strip())
    words = head.split()
    va = parse_number(words[0]) if words else None
    if va is None:
        return watch_value(session.debugger, session.view, head, access, condition)
    length = count_of(words[1] if len(words) > 1 else None, "bytes", 8)
    return watch_memory(session.debugger, session.view, va, length, access, condition)


def _watch_entry(session: Session, words: list[str]) -> int:
    if len(words) not in (1, 3) or (len(words) == 3 and words[1] != "process"):
        raise InputError("watch which entry?", fix="watch entry VA [process PID|NAME]")
    va = address_at(session.evaluation, words[0])
    process = words[2] if len(words) == 3 else None
    watch = watch_entry(session.debugger, session.view, va, process)
    print(f"{watch.point.number}: {watch.point.describe()}")
    for one in watch.entries:
        more = f" and {one.more} more, which are not watched" if one.more else ""
        places = joined(one.aliases, 16) or "no mapping that could be written through"
        flags = " ".join(one.entry.flags) or "not present"
        print(f"  level {one.entry.level} entry {hex64(one.entry.raw)} ({flags}) at physical "
              f"{hex64(one.entry.entry_pa)}: {places}{more}")  # fmt: skip
    print(f"  {UNSEEN}")
    return 0


def _added(debugger: Debugger, point: Point) -> None:
    addresses = debugger.table.addresses(point.place)
    where = debugger.table.pending(point)
    if not where and debugger.vm.arming.bias is None and point.place.links:
        where = f"at {len(addresses)} addresses where the kernel may be loaded"
    elif not where:
        where = "at " + ", ".join(debugger.describe(a) for a in addresses[:3])
        where += f" and {len(addresses) - 3} more" if len(addresses) > 3 else ""
    note = f" ({point.place.note})" if point.place.note else ""
    print(f"{point.number}: {point.describe()}{note}, {where}")
    if point.kind in ("checkpoint", "invariant") and debugger.table.caution:
        print(f"  {debugger.table.caution}")


# Listing and changing -------------------------------------------------------------------------


def listed(session: Session) -> int:
    """All points: number, what, where, hits."""
    table = session.debugger.table
    points = [p for p in table if p.number > 0]
    for point in points:
        state = "" if point.enabled else "off  "
        pending = table.pending(point)
        hits = f"  {point.count}" if point.hits else ""
        left = f", {point.ignore} to pass" if point.ignore else ""
        print(
            f"{point.number:>3}  {state}{point.describe()}{hits}{left}"
            f"{f'  ({pending})' if pending else ''}"
        )
    if not points:
        print("no points")
    if session.debugger.catching != "unexpected":
        print(f"faults that stop the guest: {session.debugger.catching}")
    return 0


def _told(point: Point) -> int:
    """The last hits of a checkpoint."""
    print(f"{point.number}: {point.describe()}: {point.count}")
    for one in list(point.records)[-LAST:]:
        print(f"  {one.seconds:9.3f}  CPU {one.cpu}  {one.text}")
    return 0


def do_delete(session: Session, line: Line) -> int:
    with session.while_stopped():
        session.debugger.remove(*_chosen(session, line))
    return 0


def do_enable(session: Session, line: Line) -> int:
    return _switch(session, line, on=True)


def do_disable(session: Session, line: Line) -> int:
    return _switch(session, line, on=False)


def _switch(session: Session, line: Line, *, on: bool) -> int:
    with session.while_stopped():
        for point in _chosen(session, line):
            point.enabled = on
            session.debugger.table.place(point)
    return 0


def do_ignore(session: Session, line: Line) -> int:
    options = arguments(line, ("number", ""), ("count", ""))
    point = session.debugger.table.get(_number(options.number))
    count = parse_number(options.count)
    if count is None:
        raise InputError(f"{options.count!r} is no number of hits")
    point.ignore = count
    return 0


def do_condition(session: Session, line: Line) -> int:
    word, _, text = line.text.partition(" ")
    point = session.debugger.table.get(_number(word))
    debugger = session.debugger
    image = debugger.loaded_or_linked
    condition = parse(text, image, links_of(point.place, image)) if text.strip() else None
    point.only = Only(point.only.process, point.only.cpu, condition)
    return 0


def do_catch(session: Session, line: Line) -> int:
    options = arguments(line, ("which", "?"))
    debugger = session.debugger
    if options.which is None:
        print(f"faults that stop the guest: {debugger.catching} ({debugger.benign} were passed)")
    elif options.which in ("all", "unexpected", "none"):
        debugger.catching = options.which
    else:
        raise InputError(
            f"{options.which!r} is none of all, unexpected, none",
            fix="one vector: break exception 14 [if COND]",
        )
    return 0


def _chosen(session: Session, line: Line) -> list[Point]:
    """The points named by number, or all."""
    return list(_points(session, line.words))


def _points(session: Session, words: list[str]) -> Iterator[Point]:
    table = session.debugger.table
    if not words:
        yield from [p for p in table if p.number > 0]
    for word in words:
        yield table.get(_number(word))


def _number(text: str) -> int:
    number = parse_number(text) if text else None
    if number is None:
        raise InputError(f"{text!r} is no number of a point", fix="list them: break")
    return number
