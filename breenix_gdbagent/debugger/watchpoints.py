"""Watchpoints made of what a person writes: a value, a place in memory, a page-table entry."""

from __future__ import annotations

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.entry_watch import EntryWatch, find_root
from breenix_gdbagent.debugger.hits import watched_value
from breenix_gdbagent.debugger.points import Access, Only, Point, Watched
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import Expression, parse
from breenix_gdbagent.evaluation.places import Place
from breenix_gdbagent.kernel.view import Kernel

LONGEST = 64
"""Bytes of a value that one watchpoint covers."""


def watch_value(
    debugger: Debugger, kernel: Kernel, text: str, access: Access, condition: str | None
) -> Point:
    """Watch the place of a value (``SCHEDULER.current_thread``), as it stands now. Raises
    `InputError` for what has no place or is longer than `LONGEST`, `ReadError`."""
    from breenix_gdbagent.symbols.values import Value

    expression = parse(text)
    value = expression.value(Evaluation.of(kernel))
    if not isinstance(value, Value) or value.address is None:
        raise InputError(
            f"{text!r} has no place in memory", fix="name a static, or an address and a length"
        )
    if not 0 < value.type.size <= LONGEST:
        raise InputError(
            f"{text} is {value.type.name}, {counted(value.type.size, 'byte')}",
            fix="watch one of its fields, or an address and a length",
        )
    watched = Watched(text, value.address, value.type.size, access)
    return _added(debugger, kernel, watched, condition, (expression,))


def watch_memory(
    debugger: Debugger, kernel: Kernel, va: int, length: int, access: Access, condition: str | None
) -> Point:
    """Watch `length` bytes at a virtual address. Raises `InputError`, `ReadError`."""
    return _added(debugger, kernel, Watched(hex64(va), va, length, access), condition, ())


def _added(
    debugger: Debugger,
    kernel: Kernel,
    watched: Watched,
    condition: str | None,
    shown: tuple[Expression, ...],
) -> Point:
    image = debugger.loaded_or_linked
    only = Only(condition=parse(condition, image) if condition else None)
    point = Point(debugger.table.number(), "watch", Place(watched.name), only)
    point.watched = (watched,)
    point.expressions = shown
    point.value = watched_value(point, Evaluation.of(kernel))
    return debugger.add(point)


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
