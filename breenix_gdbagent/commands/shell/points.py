"""Breakpoints, watchpoints, checkpoints and invariants at the prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.commands.shell.session import Line, Session, arguments, count_of
from breenix_gdbagent.control.debugger import Debugger, watched_value
from breenix_gdbagent.control.entries import UNSEEN, EntryWatch, find_root
from breenix_gdbagent.control.expressions import Expression, parse, parse_list
from breenix_gdbagent.control.places import (
    Place,
    find_place,
    joined,
    parse_vector,
    split_location,
    vector_place,
)
from breenix_gdbagent.control.points import Only, Point, Watched
from breenix_gdbagent.control.scene import Scene
from breenix_gdbagent.control.waypoints import ALIASES
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.locations import parse_address, parse_number

_WORD = re.compile(r"\s*(process|cpu|count|if)\b\s*")
LAST = 10
LONGEST_WATCH = 64


# Setting --------------------------------------------------------------------------------------


def do_break(session: Session, line: Line, *, once: bool = False) -> int:
    if not line.text:
        return listed(session)
    with session.standing():
        debugger = session.debugger
        place, rest = _place(debugger, line.text)
        only, ignore = _when(debugger, rest)
        point = Point(debugger.table.number(), "break", place, only, ignore, once)
        _added(debugger, debugger.add(point))
    return 0


def do_tbreak(session: Session, line: Line) -> int:
    if not line.text:
        raise InputError("no location", fix="see: help tbreak")
    return do_break(session, line, once=True)


def do_checkpoint(session: Session, line: Line) -> int:
    number = parse_number(line.text) if line.text.isdigit() else None
    if number is not None:
        return _told(session.debugger.table.get(number))
    quiet = line.text.startswith("--quiet ")
    text = line.text.removeprefix("--quiet ")
    with session.standing():
        debugger = session.debugger
        place, rest = _place(debugger, text)
        head, condition = _split_if(rest)
        image = debugger.loaded_or_linked
        expressions = parse_list(head, image) if head else ()
        only = Only(condition=parse(condition, image) if condition else None)
        point = Point(debugger.table.number(), "checkpoint", place, only, quiet=quiet)
        point.expressions = tuple(expressions)
        _added(debugger, debugger.add(point))
    return 0


def do_invariant(session: Session, line: Line) -> int:
    name, _, location = line.text.partition(" at ")
    check = ALIASES.get(name.strip(), name.strip())
    known = [n for n, _ in CHECKS]
    if check not in (*known, "audit") or not location.strip():
        raise InputError(
            f"{line.text!r} is no invariant",
            f"checks: {', '.join(known)}, audit",
            "write: invariant CHECK at LOCATION",
        )
    with session.standing():
        debugger = session.debugger
        place, rest = _place(debugger, location.strip())
        only, ignore = _when(debugger, rest)
        point = Point(debugger.table.number(), "invariant", place, only, ignore, check=check)
        _added(debugger, debugger.add(point))
    return 0


def do_watch(session: Session, line: Line) -> int:
    words = line.text.split()
    if not words:
        raise InputError("watch what?", fix="see: help watch")
    with session.standing():
        if words[0] == "entry":
            return _watch_entry(session, words[1:])
        access = {"-r": "read", "-a": "access", "-w": "write"}.get(words[0], "")
        text = line.text[2:].strip() if access else line.text
        watched, shown, only = _watched(session, text)
        debugger = session.debugger
        if access:
            watched = Watched(watched.name, watched.address, watched.length, access)  # type: ignore[arg-type]
        point = Point(debugger.table.number(), "watch", Place(watched.name), only)
        point.watched = (watched,)
        point.expressions = () if shown is None else (shown,)
        point.value = watched_value(point, Scene.of(session.view))
        debugger.add(point)
        print(
            f"{point.number}: {point.describe()}, {watched.length} bytes at "
            f"{hex64(watched.address)}, now {point.value}"
        )
    return 0


def _watched(session: Session, text: str) -> tuple[Watched, Expression | None, Only]:
    """(what is watched, how its value is shown, when it counts)."""
    debugger = session.debugger
    head, condition = _split_if(text)
    image = debugger.loaded_or_linked
    only = Only(condition=parse(condition, image) if condition else None)
    words = head.split()
    number = parse_number(words[0]) if words else None
    if number is not None:
        length = count_of(words[1] if len(words) > 1 else None, "bytes", 8)
        return Watched(words[0], number, length), None, only
    from breenix_gdbagent.symbols.values import Value

    expression = parse(head)
    value = expression.value(Scene.of(session.view))
    if not isinstance(value, Value) or value.address is None:
        raise InputError(
            f"{head!r} has no place in memory", fix="name a static, or write: watch VA LENGTH"
        )
    if not 0 < value.type.size <= LONGEST_WATCH:
        raise InputError(
            f"{head} is {value.type.name}, {value.type.size} bytes",
            fix="watch one of its fields, or write: watch VA LENGTH",
        )
    return Watched(head, value.address, value.type.size), expression, only


def _watch_entry(session: Session, words: list[str]) -> int:
    if len(words) not in (1, 3) or (len(words) == 3 and words[1] != "process"):
        raise InputError("watch which entry?", fix="watch entry VA [process PID|NAME]")
    debugger, kernel = session.debugger, session.view
    va = parse_address(words[0], kernel.stop.image)
    if len(words) == 3:
        root, label = find_root(kernel, words[2])
    else:
        own = kernel.stop.cpu.root
        if own is None or kernel.stop.cpu.paging is None:
            raise ReadError("paging is not on yet: nothing maps an address")
        space = kernel.space_of(own)
        root, label = own, space.label if space is not None else hex64(own)
    point = Point(debugger.table.number(), "entry", Place(f"{hex64(va)} in {label}"))
    watch = EntryWatch(point, va, root, words[2] if len(words) == 3 else None, label)
    debugger.entries[point.number] = watch
    try:
        debugger.add(point)
        watch.arm(debugger)
    except BaseException:
        debugger.remove(point)
        raise
    print(f"{point.number}: {point.describe()}")
    for one in watch.entries:
        more = f" and {one.more} more, which are not watched" if one.more else ""
        places = joined(one.aliases, 16) or "no mapping that could be written through"
        flags = " ".join(one.entry.flags) or "not present"
        print(f"  level {one.entry.level} entry {hex64(one.entry.raw)} ({flags}) at physical "
              f"{hex64(one.entry.entry_pa)}: {places}{more}")  # fmt: skip
    print(f"  {UNSEEN}")
    return 0


def _place(debugger: Debugger, text: str) -> tuple[Place, str]:
    """(the place, the rest of the line)."""
    location, rest = split_location(text)
    if location == "exception":
        vector, rest = split_location(rest)
        return vector_place(parse_vector(vector)), rest
    return find_place(location, debugger.image), rest


def _when(debugger: Debugger, text: str) -> tuple[Only, int]:
    """``[process P] [cpu N] [count N] [if COND]``. Raises `InputError`."""
    process = cpu = condition = None
    ignore = 0
    rest = text.strip()
    while rest:
        found = _WORD.match(rest)
        if found is None:
            raise InputError(
                f"cannot read {rest!r}", fix="write: [process P] [cpu N] [count N] [if COND]"
            )
        rest = rest[found.end() :]
        if found[1] == "if":
            condition = parse(rest, debugger.loaded_or_linked)
            break
        word, _, rest = rest.partition(" ")
        if found[1] == "process":
            process = word
        elif found[1] == "cpu":
            cpu = parse_number(word)
        else:
            ignore = count_of(word, "hits") - 1
        if not word or (found[1] == "cpu" and cpu is None):
            raise InputError(f"{found[1]} which?", fix=f"write: {found[1]} N")
        rest = rest.strip()
    return Only(process, cpu, condition), ignore


def _split_if(text: str) -> tuple[str, str]:
    """(what stands before ``if``, the condition)."""
    if text.startswith("if "):
        return "", text[3:].strip()
    head, _, condition = text.partition(" if ")
    return head.strip(), condition.strip()


def _added(debugger: Debugger, point: Point) -> None:
    addresses = debugger.table.addresses(point.place)
    where = debugger.table.pending(point)
    if not where and debugger.vm.bias is None and point.place.links:
        where = f"at {len(addresses)} addresses where the kernel may be loaded"
    elif not where:
        where = "at " + ", ".join(debugger.describe(a) for a in addresses[:3])
        where += f" and {len(addresses) - 3} more" if len(addresses) > 3 else ""
    note = f" ({point.place.note})" if point.place.note else ""
    print(f"{point.number}: {point.describe()}{note}, {where}")


# Listing and changing -------------------------------------------------------------------------


def listed(session: Session) -> int:
    """All points: number, what, where, hits."""
    table = session.debugger.table
    points = [p for p in table if p.number > 0]
    for point in points:
        state = "" if point.enabled else "off  "
        pending = table.pending(point)
        hits = f"  {point.hits} hits" if point.hits else ""
        rate = f", {point.rate:.1f} a second" if point.rate is not None else ""
        left = f", {point.ignore} to pass" if point.ignore else ""
        print(
            f"{point.number:>3}  {state}{point.describe()}{hits}{rate}{left}"
            f"{f'  ({pending})' if pending else ''}"
        )
    if not points:
        print("no points")
    if session.debugger.catching != "unexpected":
        print(f"faults that stop the guest: {session.debugger.catching}")
    return 0


def _told(point: Point) -> int:
    """The last hits of a checkpoint."""
    rate = f", {point.rate:.1f} a second" if point.rate is not None else ""
    print(f"{point.number}: {point.describe()}: {point.hits} hits{rate}")
    for one in list(point.records)[-LAST:]:
        print(f"  {one.seconds:9.3f}  CPU {one.cpu}  {one.text}")
    return 0


def do_delete(session: Session, line: Line) -> int:
    with session.standing():
        session.debugger.remove(*_chosen(session, line))
    return 0


def do_enable(session: Session, line: Line) -> int:
    return _switch(session, line, on=True)


def do_disable(session: Session, line: Line) -> int:
    return _switch(session, line, on=False)


def _switch(session: Session, line: Line, *, on: bool) -> int:
    with session.standing():
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
    condition = parse(text, debugger.loaded_or_linked) if text.strip() else None
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
