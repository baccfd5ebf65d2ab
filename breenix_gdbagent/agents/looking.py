"""``look``: what there is to see at a stop, each kind as rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.agents.answers import Row, Rows, page
from breenix_gdbagent.agents.session import Session
from breenix_gdbagent.agents.standing import at
from breenix_gdbagent.api import stops
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation import operands
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import parse
from breenix_gdbagent.evaluation.places import find_place
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.report import names
from breenix_gdbagent.report.backtraces import brief, rows, short
from breenix_gdbagent.report.frame import who_json
from breenix_gdbagent.report.mappings import rights
from breenix_gdbagent.report.shown_walk import ShownWalk, shown_walk
from breenix_gdbagent.report.story import objects
from breenix_gdbagent.report.tables import spaces_json
from breenix_gdbagent.symbols import LoadedImage
from breenix_gdbagent.symbols.spots import spots
from breenix_gdbagent.views.call_trace import located
from breenix_gdbagent.views.frame_users import frame_users
from breenix_gdbagent.views.instructions import named_instructions
from breenix_gdbagent.views.roots import root_of
from breenix_gdbagent.views.sources import text_of
from breenix_gdbagent.views.space_listing import space_listing
from breenix_gdbagent.views.thread_traces import number_of, of_cpus, of_process, of_threads, others

AROUND = 6
INSTRUCTIONS = 12
MEMORY_BYTES = 64
MOST_BYTES = 4096
ROW = 16

_EXPRESSION = re.compile(r"[\[\]()]|\s[-+*]\s")
"""What stands in an expression and in no location."""

Look = Callable[[Session, Kernel, str], tuple[Sequence[Row], str]]
"""(session, kernel, place) -> (all rows, a note or "")."""


def look(session: Session, what: str, place: str, start: int) -> Rows:
    """One page of what there is. Raises `InputError`, `ReadError`."""
    found, note = LOOKS[what](session, session.held.kernel, place.strip())
    if start and start >= len(found):
        raise InputError(f"look: there is no row {start}", f"there are {len(found)}, from 0")
    return page(found, start, note)


def walk(session: Session, va: str, root: str | None) -> ShownWalk:
    """One walk under `root`, a number, a pid or a process's name, else under CR3."""
    kernel = session.held.kernel
    chosen = None if root is None else _root(kernel, root)
    return shown_walk(stops.walk(kernel, va, chosen))


def _root(kernel: Kernel, text: str) -> int:
    """A root by its number (``0x...``), or of a process by pid or name. Raises `InputError`."""
    if text.startswith("0x"):
        return root_of(kernel, text)
    word = text.removeprefix("pid ").strip()
    named = [space for space in kernel.spaces if word in (str(space.pid), space.name, space.role)]
    if not named:
        raise InputError(
            f"no address space is {text!r}", fix="look what=roots lists them; or give 0x..."
        )
    return named[0].root


# Frames and registers ------------------------------------------------------------------------


def _backtrace(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    """``CPU``, ``pid N``, ``thread N`` or ``all``; else the CPU that stopped."""
    kind, _, number = place.partition(" ")
    if kind == "pid":
        wanted = of_process(kernel, number)
    elif kind == "thread":
        wanted = of_threads(kernel, {number_of(number, "thread")})
    elif place == "all":
        wanted = (one for part in (of_cpus(kernel, None), others(kernel)) for one in part)
    else:
        wanted = of_cpus(kernel, number if kind == "cpu" else place or str(kernel.stop.cpu.index))
    found: list[Row] = []
    ends = []
    for title, unwind in wanted:
        try:
            told = names.trace_json(located(kernel, unwind()))
        except ReadError as lacking:
            ends.append(f"{title}: not checked: {lacking.what}")
            continue
        found += _frames(title, objects(told["frames"]))
        ends.append(f"{title}: ends: {told['end']}")
    return found, "; ".join(ends[:4])


def _frames(title: str, frames: Sequence[Row]) -> list[Row]:
    """Frames as rows, equal ones in a row once, with the calls inlined in them."""
    out: list[Row] = []
    groups = [list(same) for _, same in groupby(frames, key=lambda f: (f["pc"], f["vector"]))]
    for number, same in enumerate(groups):
        for row in rows({**same[0], "times": len(same)}):
            shown: dict[str, Json] = {"of": title, "frame": number, "place": row["pc"]}
            line = f"{short(row['file'])}:{row['line']}" if row["place"] else None
            shown |= {"name": brief(str(row["name"])), "at": line}
            if row["interrupted"]:
                shown["after"] = row["interrupted"]
            if row["times"] != 1:
                shown["times"] = row["times"]
            out.append(shown)
    return out


def _registers(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    """``CPU``, or ``all``; else the CPU that stopped."""
    word = place.removeprefix("cpu").strip() or str(kernel.stop.cpu.index)
    if word == "all":
        cpus = list(kernel.stop.cpus)
    else:
        wanted = number_of(word, "CPU")
        cpus = [cpu for cpu in kernel.stop.cpus if cpu.index == wanted]
    if not cpus:
        raise InputError(f"there is no CPU {place}", fix=f"there are {len(kernel.stop.cpus)}")
    shown: list[Row] = []
    for cpu in cpus:
        listed = cpu.arch.shown
        every = (*listed.grid, *listed.decoded, *listed.others)
        values = ((name, cpu.get(name)) for name in every)
        known: dict[str, Json] = {name: hex64(v) for name, v in values if v is not None}
        shown.append({"cpu": cpu.index, "ring": cpu.cpl, **known})
    return shown, ""


# Memory and values ---------------------------------------------------------------------------


def _memory(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    """``VA [LENGTH]``."""
    head, _, last = _needed(place, "VA [LENGTH]").rpartition(" ")
    length = parse_number(last) if head and parse_number(last) is not None else None
    va = stops.address(kernel, head if length is not None else place)
    size = MEMORY_BYTES if length is None else length
    if not 0 < size <= MOST_BYTES:
        raise InputError(f"look: {size} bytes", fix=f"1 to {MOST_BYTES} at once")
    out: list[Row] = []
    for begin in range(va, va + size, ROW):
        data = stops.read(kernel, begin, min(ROW, va + size - begin))
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in data)
        out.append({"va": hex64(begin), "hex": data.hex(" "), "text": text})
    return out, ""


def _value(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    """An expression, as ``print`` of the shell takes it."""
    from breenix_gdbagent.symbols.tree_text import render
    from breenix_gdbagent.symbols.values import Value

    expression = parse(_needed(place, "an expression"))
    evaluation = Evaluation.of(kernel)
    found = expression.value(evaluation)
    if isinstance(found, Value):
        return [{"text": line} for line in render(found)], found.type.name
    return [{"text": expression.shown(evaluation)}], ""


def _symbol(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    """A name or an address."""
    image = kernel.stop.loaded
    va = _address(kernel, _needed(place, "a name or an address"), image)
    hit = image.symbol_at(va)
    row: dict[str, Json] = {"place": hex64(va), "name": None, "at": at(kernel, va)}
    if hit is not None:
        row |= {"name": hit.name, "offset": hex64(hit.offset), "also": list[Json](hit.also)}
    return [row], "" if hit is not None else f"no symbol covers {hex64(va)}"


def _source(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    """A location; else where the CPU stands."""
    stop = kernel.stop
    image = stop.elf.loaded(0) if stop.image is None else stop.image
    va = stop.cpu.rip if not place else _address(kernel, place, image)
    chain = spots(image, va)
    if not chain or chain[0].file is None or chain[0].line is None:
        why = "" if image.image.has_dwarf else "the ELF has no debug information (DWARF)"
        raise ReadError(f"no source line is known for {hex64(va)}", why, "look what=disassembly")
    file, line = chain[0].file, chain[0].line
    text = text_of(session.sources, file)
    first = max(line - AROUND, 1)
    last = min(line + AROUND, len(text))
    found: list[Row] = [
        {"line": n, "text": text[n - 1], **({"here": True} if n == line else {})}
        for n in range(first, last + 1)
    ]
    note = f"{chain[0].function} at {short(file)}:{line}"
    if not text:
        note += "; its source is not at hand: start the server with --source DIR"
    return found, note


def _disassembly(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    """A location; else where the CPU stands."""
    root = kernel.stop.cpu.root
    if root is None:
        raise ReadError("no CPU's CR3 is known")
    va = kernel.stop.cpu.rip if not place else _address(kernel, place, kernel.stop.image)
    found = named_instructions(kernel, root, va, INSTRUCTIONS)
    return [
        {"place": hex64(i.address), "text": i.text, "symbol": i.symbol} for i in found
    ], f"at {at(kernel, va)}"


def _address(kernel: Kernel, text: str, image: LoadedImage | None) -> int:
    """A location (``0x...``, ``symbol+offset``, ``file.rs:12``), or a register or expression."""
    word = text.strip("$ ").lower()
    if word in {"pc", "sp"} or operands.is_register(word) or _EXPRESSION.search(text):
        return stops.address(kernel, text)
    place = find_place(text, None if image is None else image.image)
    return place.at(0 if image is None else image.bias)[0]


def _needed(place: str, what: str) -> str:
    if not place:
        raise InputError("look: this needs a place", fix=f"place is {what}")
    return place


# The kernel's own structures ------------------------------------------------------------------


def _processes(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    table = kernel.structures.processes
    note = "PROCESS_MANAGER is locked: a row may be half changed" if table.locked else ""
    wanted = ("pid", "name", "state", "exit_code", "root", "threads", "parent")
    rows_ = (names.process_json(one) for one in table.processes)
    return [{key: row[key] for key in wanted} for row in rows_], note


def _threads(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    scheduler = kernel.structures.scheduler
    note = "SCHEDULER is locked: a row may be half changed" if scheduler.locked else ""
    return [names.thread_json(one, scheduler) for one in scheduler.threads], note


def _heap(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    return [names.heap_json(kernel.structures.heap)], ""


def _frame_allocator(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    return [names.frames_json(kernel.structures.frames)], ""


def _roots(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    found = objects(spaces_json(kernel.spaces))
    return found, "" if found else str(kernel.no_roots)


def _map(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    """A root, a pid or a process's name; else CR3."""
    root = _root(kernel, place) if place else root_of(kernel, None)
    space = kernel.merged.space(root)
    listing = space_listing(kernel, space, space.ranges)
    found: list[Row] = [
        {"start": hex64(one.start), "end": hex64(one.end), "rights": rights(one), "symbol": symbol}
        for one, symbol in zip(listing.ranges, listing.symbols, strict=True)
    ]
    gaps = f"; {len(listing.gaps)} parts could not be read" if listing.gaps else ""
    return found, f"{listing.label or hex64(root)}, rights: read write execute user{gaps}"


def _who(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    """A physical address."""
    pa = parse_number(_needed(place, "a physical address (0x...); walk gives one for a virtual"))
    if pa is None:
        raise InputError(f"{place!r} is no number", fix="walk gives the physical address of one")
    told = who_json(frame_users(kernel, pa))
    maps = [{"as": "page", **one} for one in objects(told["mappings"])]
    tables = [{"as": "table", **one} for one in objects(told["tables"])]
    state = f"RAM: {told['ram']}; frame allocator: {told['allocator'] or told['reason']}"
    return [*maps, *tables], state


def _checks(session: Session, kernel: Kernel, place: str) -> tuple[Sequence[Row], str]:
    report = session.held.report()
    return [{"name": c.name, "status": c.status, "reason": c.reason} for c in report.checks], ""


LOOKS: dict[str, Look] = {
    "backtrace": _backtrace,
    "registers": _registers,
    "memory": _memory,
    "value": _value,
    "symbol": _symbol,
    "source": _source,
    "disassembly": _disassembly,
    "processes": _processes,
    "threads": _threads,
    "heap": _heap,
    "frames": _frame_allocator,
    "roots": _roots,
    "map": _map,
    "who": _who,
    "checks": _checks,
}
