"""Who wrote a place, as a terminal and as JSON have it."""

from __future__ import annotations

from collections.abc import Sequence

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.backtraces import short
from breenix_gdbagent.report.moments import place_json
from breenix_gdbagent.views.moments import Place, Write, Writers

CALLERS = 4


def writers_json(found: Writers) -> dict[str, Json]:
    """``who-wrote --json``."""
    return {
        "pa": hex64(found.pa),
        "how": found.how,
        "complete": found.complete,
        "writes": [write_json(one) for one in found.writes],
    }


def write_json(write: Write) -> dict[str, Json]:
    """One write."""
    place = place_json(write.place)
    names = ("rip", "symbol", "function", "file", "line", "frames")
    return {
        "icount": place["icount"],
        "seconds": place["seconds"],
        "kind": write.kind,
        **{name: place[name] for name in names},
        "va": None if write.va is None else hex64(write.va),
        "size": write.size,
        "before": hex64(write.before),
        "after": hex64(write.after),
    }


def writers_text(found: Writers) -> str:
    """A write a paragraph, oldest first; rounds of one instruction that follow each other are one.
    """
    end = found.pa + found.length
    title = f"physical {hex64(found.pa)} to {hex64(end)}: {counted(len(found.writes), 'write')}"
    lines = [title]
    for same in _rounds(found.writes):
        lines += ["", *write_rows(same)]
    lines.append("")
    if found.complete:
        lines.append("these are all: every store was seen, and nothing else can have changed it")
    else:
        lines += [f"there may be more: {why}" for why in found.lacking]
    return "\n".join(lines)


def _rounds(writes: Sequence[Write]) -> list[list[Write]]:
    out: list[list[Write]] = []
    for one in writes:
        before = out[-1][-1] if out else None
        follows = before is not None and one.place.icount - before.place.icount <= 1
        if before is not None and follows and one.place.rip == before.place.rip:
            out[-1].append(one)
        else:
            out.append([one])
    return out


def write_rows(same: Sequence[Write]) -> list[str]:
    """One write, or rounds of one."""
    first, last = same[0], same[-1]
    place = first.place
    rounds = "" if len(same) == 1 else f" ({len(same)} rounds)"
    by = "" if first.va is None else f" by {hex64(first.va)}"
    word = "" if len(same) == 1 and first.pa == last.pa else f" {hex64(first.pa)}"
    rows = [
        f"{place.icount:>14,}  {place.seconds:.6f} s  {first.kind}{by}, "
        f"{counted(first.size, 'byte')}{word}{rounds}: {hex64(first.before)} -> "
        f"{hex64(last.after)}"
    ]
    if place.rip is not None:
        name = f" <{place.symbol}>" if place.symbol else ""
        rows.append(f"                {hex64(place.rip)}{name}  {place.text}".rstrip())
    rows.append(f"                {called(place)}")
    return rows


def called(place: Place) -> str:
    """The line of a place and who called it, innermost first."""
    file, line = place.line
    where = f" ({short(file)}:{line})" if file and line else ""
    names = list(place.names)
    own = place.function
    start = names.index(own) + 1 if own in names else 1
    callers = names[start : start + CALLERS]
    return " < ".join([f"{own or '?'}{where}", *callers])
