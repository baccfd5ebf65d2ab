"""Watchpoints made of what a person writes: a value, a place in memory, a page-table entry."""

from __future__ import annotations

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.entry_watch import EntryWatch, find_root
from breenix_gdbagent.debugger.hits import watched_value
from breenix_gdbagent.debugger.point_table import WIDEST
from breenix_gdbagent.debugger.points import Access, Only, Point, Watched
from breenix_gdbagent.errors import InputError, NoSuchPart, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import Expression, parse
from breenix_gdbagent.evaluation.places import Place
from breenix_gdbagent.evaluation.values import split, value_of
from breenix_gdbagent.kernel.view import Kernel

LONGEST = 64
"""Bytes of a value that one watchpoint covers."""


def watch_value(
    debugger: Debugger, kernel: Kernel, text: str, access: Access, condition: str | None
) -> Point:
    """Watch the place of a value (``SCHEDULER.current_thread``), as it stands now; before the
    kernel runs it waits for that. Raises `InputError` for what has no place or is longer than
    `LONGEST`, `ReadError`."""
    expression = parse(text, debugger.loaded_or_linked)
    point = _point(debugger, text, condition)
    point.expressions = (expression,)

    def place(evaluation: Evaluation) -> bool:
        """Whether it has a place now. While the kernel has not made the value, the static that is
        to hold it is watched for that."""
        try:
            known = expression.value(evaluation) is not None
        except NoSuchPart:  # of an Option that is None still
            known = False
        watched = (_place_of if known else _holder_of)(expression, access, evaluation)
        if point.value is None:
            point.value = expression.shown(evaluation) if known else "None"
        if point.watched != (watched,):
            point.watched = (watched,)
            debugger.table.place(point)
        return known

    if kernel.stop.image is None and debugger.image is not None:
        debugger.hits.unplaced[point.number] = place
        return debugger.add(point)
    now = Evaluation.of(kernel)
    point.watched = (_place_of(expression, access, now),)
    point.value = watched_value(point, now)
    return debugger.add(point)


def _holder_of(expression: Expression, access: Access, evaluation: Evaluation) -> Watched:
    """The static that a path begins with. Raises `ReadError`, `InputError`."""
    name = split(expression.text)[0]
    value = value_of(evaluation.kernel, name)
    if value.address is None:
        raise InputError(f"{name} has no place in memory")
    return Watched(expression.text, value.address, min(value.type.size, WIDEST), "write")


def _place_of(expression: Expression, access: Access, evaluation: Evaluation) -> Watched:
    """Where a value lies now. Raises `InputError`, `ReadError`."""
    from breenix_gdbagent.symbols.values import Value

    text, value = expression.text, expression.value(evaluation)
    if not isinstance(value, Value) or value.address is None:
        raise InputError(
            f"{text!r} has no place in memory", fix="name a static, or an address and a length"
        )
    if not 0 < value.type.size <= LONGEST:
        raise InputError(
            f"{text} is {value.type.name}, {counted(value.type.size, 'byte')}",
            fix="watch one of its fields, or an address and a length",
        )
    return Watched(text, value.address, value.type.size, access)


def watch_memory(
    debugger: Debugger, kernel: Kernel, va: int, length: int, access: Access, condition: str | None
) -> Point:
    """Watch `length` bytes at a virtual address. Raises `InputError`, `ReadError`."""
    point = _point(debugger, hex64(va), condition)
    point.watched = (Watched(hex64(va), va, length, access),)
    point.value = watched_value(point, Evaluation.of(kernel))
    return debugger.add(point)


def _point(debugger: Debugger, name: str, condition: str | None) -> Point:
    image = debugger.loaded_or_linked
    only = Only(condition=parse(condition, image) if condition else None)
    return Point(debugger.table.number(), "watch", Place(name), only)


def watch_entry(debugger: Debugger, kernel: Kernel, va: int, process: str | None) -> EntryWatch:
    """Watch the page-table entries that map `va` in a process (by pid or name; None: in the space
    that the CPU is in), through every alias known now. Raises `InputError`, `ReadError`."""
    if process is not None:
        root, label = find_root(kernel, process)
    else:
        own = kernel.stop.cpu.root
        if own is None or kernel.stop.cpu.paging is None:
            raise ReadError(kernel.stop.no_paging)
        space = kernel.space_of(own)
        root, label = own, space.label if space is not None else hex64(own)
    point = Point(debugger.table.number(), "entry", Place(f"{hex64(va)} in {label}"))
    watch = EntryWatch(point, va, root, process, label)
    debugger.hits.entries[point.number] = watch
    try:
        debugger.add(point)
        watch.arm(debugger.vm, debugger.table, debugger.placed)
    except BaseException:
        debugger.remove(point)
        raise
    return watch
