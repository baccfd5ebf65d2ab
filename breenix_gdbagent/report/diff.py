"""Two stops compared, working against broken: findings, spaces, stacks, allocators, serial text.

What their memory tells is `views/comparison.py`'s; here it meets the two reports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.report.mappings import rights
from breenix_gdbagent.report.model import Object, Report, ShownFinding
from breenix_gdbagent.report.story import (
    log_text,
    objects,
    record,
    stop_words,
    target_words,
    texts,
)
from breenix_gdbagent.stop import SerialText
from breenix_gdbagent.views.changes import Change
from breenix_gdbagent.views.comparison import Comparison, PairedSpaces

SCHEMA = 1
MOST_CHANGES = 200


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: what its file is called, and its report."""

    name: str
    report: Report


def compare(before: Side, after: Side, found: Comparison) -> dict[str, Json]:
    """What differs, as a document of its own (``differs`` false: nothing)."""
    parts: dict[str, Json] = {
        "findings": _findings(before, after),
        "spaces": _spaces(found),
        "sharing": [
            {
                "slot": one.slot, "start": hex64(one.start), "spaces": list(one.spaces),
                "only_in": one.only_in,
            }
            for one in found.sharing
        ],
        "stacks": _stacks(before, after),
        "allocators": _allocators(*found.amounts),
        "serial": _serial(*found.serial),
    }  # fmt: skip
    return {
        "schema": SCHEMA,
        "a": _side_json(before),
        "b": _side_json(after),
        "same_run": found.same_run,
        "differs": differs(parts),
        **parts,
    }


def differs(found: Mapping[str, Json]) -> bool:
    """Whether anything in the parts of a comparison is a difference."""
    findings, spaces = record(found["findings"]), record(found["spaces"])
    parts = (
        findings["new"], findings["gone"], spaces["new"], spaces["gone"], spaces["changed"],
        found["sharing"], found["stacks"], found["serial"],
    )  # fmt: skip
    return any(parts) or any(a["delta"] for a in objects(found["allocators"]))


def _side_json(side: Side) -> dict[str, Json]:
    last = side.report.stops[-1]
    return {
        "file": side.name,
        "target": target_words(side.report),
        "outcome": side.report.run.outcome,
        "stop": stop_words(last),
        "seconds": last.seconds,
    }


def _findings(before: Side, after: Side) -> dict[str, Json]:
    first = {f.fingerprint: f for f in before.report.findings}
    second = {f.fingerprint: f for f in after.report.findings}
    return {
        "new": [_finding(f) for key, f in second.items() if key not in first],
        "gone": [_finding(f) for key, f in first.items() if key not in second],
        "both": len(first.keys() & second.keys()),
    }


def _finding(finding: ShownFinding) -> dict[str, Json]:
    names = ("code", "severity", "summary", "cause", "fingerprint")
    return {name: getattr(finding, name) for name in names}


def _spaces(found: Comparison) -> dict[str, Json]:
    entries = [
        {**_pair(one.before, one.after, one.changes), "frames": _frames(one)}
        for one in found.paired
    ]
    parts = ("added", "removed", "moved", "rights", "frames")
    return {
        "new": [_space(space) for space in found.new],
        "gone": [_space(space) for space in found.gone],
        "paired": len(found.paired),
        "changed": [entry for entry in entries if any(entry[part] for part in parts)],
    }


def _space(space: Space) -> dict[str, Json]:
    return {"root": hex64(space.root), "role": space.role, "pid": space.pid, "name": space.name}


def _pair(a: Space, b: Space, found: Sequence[Change]) -> dict[str, Json]:
    added = [c for c in found if c.before is None]
    removed = [c for c in found if c.after is None]
    moved: list[Json] = []
    for gone in list(removed):
        same = (c for c in added if (c.end - c.start, rights(c.after)) == _shape(gone))
        home = next(same, None)
        if home is not None:
            added.remove(home)
            removed.remove(gone)
            moved.append({**_stretch(gone, rights(gone.before)), "to": hex64(home.start)})
    other = [c for c in found if c.before is not None and c.after is not None]
    return {
        "a": _space(a),
        "b": _space(b),
        "added": [_stretch(c, rights(c.after)) for c in added[:MOST_CHANGES]],
        "removed": [_stretch(c, rights(c.before)) for c in removed[:MOST_CHANGES]],
        "moved": moved[:MOST_CHANGES],
        "rights": [
            {**_stretch(c, rights(c.before)), "after": rights(c.after)}
            for c in other[:MOST_CHANGES]
        ],
        "left_out": sum(max(0, len(part) - MOST_CHANGES) for part in (added, removed, other)),
    }


def _shape(change: Change) -> tuple[int, str]:
    return change.end - change.start, rights(change.before)


def _stretch(change: Change, right: str) -> dict[str, Json]:
    return {
        "start": hex64(change.start),
        "last": hex64(change.end - 1),
        "size": change.end - change.start,
        "rights": right,
    }


def _frames(one: PairedSpaces) -> list[Json]:
    return [
        {
            "start": hex64(f.start), "last": hex64(f.end - 1), "size": f.end - f.start,
            "before": hex64(f.before), "after": hex64(f.after),
        }
        for f in one.frames[:MOST_CHANGES]
    ]  # fmt: skip


def _stacks(before: Side, after: Side) -> list[Json]:
    """Cells of the stack matrix that differ, by stack and the name of the space."""
    first, second = _cells(before), _cells(after)
    return [
        {"stack": key[0], "space": key[1], "before": first.get(key), "after": second.get(key)}
        for key in sorted(first.keys() & second.keys())
        if first[key] != second[key]
    ]


def _cells(side: Side) -> dict[tuple[str, str], str]:
    maps = side.report.maps
    named = {s.root: s.name or s.role for s in side.report.spaces}
    return {
        (str(row["stack"]), named[root]): cell
        for row in objects(maps["stacks"])
        for root, cell in zip(texts(maps["spaces"]), str(row["cells"]), strict=True)
    }


def _allocators(
    one: Mapping[str, int | None], other: Mapping[str, int | None]
) -> list[Json]:
    """What the allocators hand out, before and after; what cannot be read is null."""
    rows: list[Json] = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        delta = b - a if a is not None and b is not None else None
        rows.append({"what": name, "a": a, "b": b, "delta": delta})
    return rows


_CHANGING = (
    (re.compile(r"^\[ *\d+\.\d+\] ?"), ""),
    (re.compile(r"0x[0-9a-fA-F_]+"), "0x?"),
    (re.compile(r"\b[0-9a-f]{8,16}\b"), "?"),
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:ms|us|µs|ns|s|ticks?|cycles?)\b"), "?"),
    (re.compile(r"\b(?:tsc|time|ticks?|timestamp)[=: ]+\d+", re.IGNORECASE), "?"),
)


def normalised(line: str) -> str:
    """A line without what differs from boot to boot: times, addresses, terminal codes."""
    text = log_text(line).strip()
    for shape, instead in _CHANGING:
        text = shape.sub(instead, text)
    return text


def _serial(first: SerialText, second: SerialText) -> list[Json]:
    """For each port the first line that differs."""
    rows: list[Json] = []
    for port in sorted({*first.ports, *second.ports}):
        a, b = _told(first.port(port)), _told(second.port(port))
        unlike = (
            n
            for n, (x, y) in enumerate(zip(a, b, strict=False))
            if normalised(x[1]) != normalised(y[1])
        )
        at = next(unlike, min(len(a), len(b)))
        if at < max(len(a), len(b)):
            rows.append(
                {
                    "port": port,
                    "line": (a if at < len(a) else b)[at][0],
                    "a": a[at][1] if at < len(a) else None,
                    "b": b[at][1] if at < len(b) else None,
                    "before": a[at - 1][1] if at else None,
                }
            )
    return rows


def _told(text: str) -> list[tuple[int, str]]:
    """Numbered lines, without those in which the lab guest tells its tests the truth."""
    return [(n, t) for n, t in enumerate(text.splitlines(), 1) if not t.startswith("@{")]


def headline(found: Object) -> str:
    """``2 findings new, 1 gone; 3 spaces changed``; ``no difference``."""
    findings, spaces = record(found["findings"]), record(found["spaces"])
    parts = []
    for value, noun, rest in (
        (findings["new"], "finding", " new"), (findings["gone"], "finding", " gone"),
        (spaces["new"], "space", " new"), (spaces["gone"], "space", " gone"),
        (spaces["changed"], "space", " changed"), (found["sharing"], "shared table", ""),
        (found["stacks"], "stack cell", " changed"),
    ):  # fmt: skip
        number = len(cast(Sequence[Json], value))
        if number:
            parts.append(f"{number} {noun}{'s' * (number != 1)}{rest}")
    if found["serial"]:
        parts.append("serial text")
    if any(a["delta"] for a in objects(found["allocators"])):
        parts.append("allocators")
    return ", ".join(parts) or "no difference"
