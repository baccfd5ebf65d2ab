"""When findings first held, as a terminal and as JSON have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.finding import CODES
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.backtraces import brief, short
from breenix_gdbagent.report.model import Object, Report
from breenix_gdbagent.report.names import trace_text
from breenix_gdbagent.report.story import objects
from breenix_gdbagent.views.moments import Origin, Place

ReadLines = Callable[[str, int], list[tuple[int, str]]]
"""Lines of a source file around one; [] where it is not at hand."""


def origin_json(origin: Origin) -> dict[str, Json]:
    """One answer of `when --json`."""
    change = origin.change
    return {
        "code": origin.code,
        "subject": origin.subject,
        "status": origin.status,
        **place_json(origin.place),
        "change": None if change is None else {
            "pa": hex64(change.pa), "before": hex64(change.before), "after": hex64(change.after)
        },
        "probes": origin.probes,
        "checked_before": origin.checked_before,
    }  # fmt: skip


def place_json(place: Place | None) -> dict[str, Json]:
    """The instruction of an answer."""
    if place is None:
        nothing = ("icount", "seconds", "rip", "symbol", "function", "file", "line")
        return {**dict.fromkeys(nothing), "frames": [], "process": None, "thread": None}
    file, line = place.line
    return {
        "icount": place.icount,
        "seconds": place.seconds,
        "rip": None if place.rip is None else hex64(place.rip),
        "symbol": place.symbol,
        "function": place.function,
        "file": file,
        "line": line,
        "frames": list(place.names),
        "process": place.process,
        "thread": place.thread,
    }


def origin_text(origin: Origin, read: ReadLines, last: int) -> str:
    """One answer with its backtrace and the source around it; `last` is the instruction count at
    the recording's end."""
    named = origin.code if origin.subject is None else f"{origin.code}@{origin.subject}"
    title = f"{named}: {CODES[origin.code].title}"
    if origin.place is None:
        return f"{title}\n  never: it does not hold where the recording ends"
    place = origin.place
    lines = [title, f"  {_status(origin, last)}"]
    lines += [f"  {row}" for row in _place_rows(place)]
    if origin.change is not None:
        change = origin.change
        before, after = hex64(change.before), hex64(change.after)
        lines.append(f"  writes   physical {hex64(change.pa)}: {before} -> {after}")
    lines += _source(place, read)
    lines += ["", *(f"  {row}" for row in trace_text(place.trace).splitlines())]
    return "\n".join([*lines, "", *(f"  {row}" for row in _how_known(origin))])


def _status(origin: Origin, last: int) -> str:
    assert origin.place is not None
    at = f"instruction {origin.place.icount:,} of {last:,} ({origin.place.seconds:.6f} s)"
    match origin.status:
        case "found":
            return f"first held after {at}"
        case "always":
            return f"held at the first moment at which it could be told: after {at}"
    return f"holds only where the run was stopped: {at}"


def _place_rows(place: Place) -> list[str]:
    rows = []
    if place.rip is not None:
        name = f" <{place.symbol}>" if place.symbol else ""
        rows.append(f"at       {hex64(place.rip)}{name}  {place.text}".rstrip())
    file, line = place.line
    if place.function is not None:
        where = f", {short(file)}:{line}" if file and line else ""
        rows.append(f"in       {place.function}{where}")
    whose = [
        f"process {place.process}" if place.process else "",
        f"thread {place.thread}" if place.thread else "",
    ]
    if any(whose):
        rows.append(f"of       {', '.join(one for one in whose if one)}")
    return rows


def _source(place: Place, read: ReadLines) -> list[str]:
    file, line = place.line
    if file is None or line is None:
        return []
    rows = read(file, line)
    if not rows:
        return []
    mark = {line: ">"}
    width = len(str(rows[-1][0]))
    return ["", *(f"  {mark.get(n, ' ')} {n:{width}}  {text}".rstrip() for n, text in rows)]


def _how_known(origin: Origin) -> list[str]:
    rows = [
        f"{origin.probes} moments were examined for this, {origin.checked_before} of those that "
        "are known lie before it"
    ]
    if origin.untold_from is not None:
        rows.append(
            f"between instruction {origin.untold_from:,} and this one it could not be told: what "
            "broke it may lie there"
        )
    if origin.episodes:
        shown = ", ".join(f"{one:,}" for one in origin.episodes[:3])
        rows.append(f"it held for a moment before, and was gone again: at {shown}")
    return rows


def moments_text(origins: Sequence[Origin]) -> str:
    """The findings of a recording in the order in which they first held, a row each."""
    return moments_table([cast(Object, origin_json(one)) for one in origins])


def moments_table(moments: Sequence[Object]) -> str:
    """The same of a document."""
    rows = [HEADS, *moment_rows(moments)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADS))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if n < 2 else text.ljust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


HEADS = ("instruction", "seconds", "finding", "function", "line", "called by")
CALLERS = 3
_NOTES = {"end-only": " (at the end only)", "always": " (always)", "never": " (not at the end)"}


def moment_rows(moments: Sequence[Object]) -> list[tuple[str, ...]]:
    """A row of `HEADS` each."""
    rows: list[tuple[str, ...]] = []
    for one in moments:
        known = one["icount"] is not None
        place = f"{short(one['file'])}:{one['line']}" if one["file"] and one["line"] else ""
        code = f"{one['code']}@{one['subject']}" if one["subject"] else str(one["code"])
        rows.append(
            (
                f"{one['icount']:,}" if known else "", f"{one['seconds']:.6f}" if known else "",
                code + _NOTES.get(str(one["status"]), ""), brief(str(one["function"] or "?")),
                place,
                _callers(one),
            )
        )  # fmt: skip
    return rows


def _callers(moment: Object) -> str:
    """Who called that function, by the last part of their names."""
    names = [str(name) for name in cast(list[str], moment["frames"])]
    own = str(moment["function"])
    start = names.index(own) + 1 if own in names else 1
    callers = names[start : start + CALLERS]
    return " < ".join(brief(name).rpartition("::")[2] for name in callers)


def moments_of(report: Report) -> list[Object]:
    """The table that a report of a recorded run has; [] of another one."""
    return objects((report.recording or {}).get("moments"))
