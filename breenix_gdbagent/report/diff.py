"""Two stops compared, working against broken: findings, spaces, stacks, allocators, serial text.

Spaces are paired by name, so that two boots compare: their frames differ everywhere and say
nothing. Of two stops of one run the frames are compared as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.mappings import Change, rights, space_changes
from breenix_gdbagent.report.model import Object, Report, ShownFinding
from breenix_gdbagent.report.story import (
    log_text,
    objects,
    record,
    stop_words,
    target_words,
    texts,
)
from breenix_gdbagent.x86.paging import (
    effective_of,
    index_at,
    present,
    same_target,
    slot_start,
    span,
    table_named,
)

SCHEMA = 1
MOST_CHANGES = 200
MOST_PAGES = 40_000


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: what its file is called, its report and its stop."""

    name: str
    document: Report
    kernel: Kernel


def compare(before: Side, after: Side) -> dict[str, Json]:
    """What differs, as a document of its own (``differs`` false: nothing)."""
    same_run = _same_run(before, after)
    found: dict[str, Json] = {
        "findings": _findings(before, after),
        "spaces": _spaces(before, after, same_run),
        "sharing": _sharing(before, after),
        "stacks": _stacks(before, after),
        "allocators": _allocators(before.kernel, after.kernel),
        "serial": _serial(before, after),
    }
    return {
        "schema": SCHEMA,
        "a": _side_json(before),
        "b": _side_json(after),
        "same_run": same_run,
        "differs": differs(found),
        **found,
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
    last = side.document.stops[-1]
    return {
        "file": side.name,
        "target": target_words(side.document),
        "outcome": side.document.run.outcome,
        "stop": stop_words(last),
        "seconds": last.seconds,
    }


def _same_run(before: Side, after: Side) -> bool:
    """Whether both are of one boot: the same master, and one serial text begins the other."""
    first, second = before.kernel, after.kernel
    if first.reference_root != second.reference_root:
        return False
    ports = first.stop.serial.ports
    if not ports or ports != second.stop.serial.ports:
        return False
    for port in ports:
        one, other = first.stop.serial.port(port), second.stop.serial.port(port)
        if not (one.startswith(other) or other.startswith(one)):
            return False
    return True


def _findings(before: Side, after: Side) -> dict[str, Json]:
    first = {f.fingerprint: f for f in before.document.findings}
    second = {f.fingerprint: f for f in after.document.findings}
    return {
        "new": [_finding(f) for key, f in second.items() if key not in first],
        "gone": [_finding(f) for key, f in first.items() if key not in second],
        "both": len(first.keys() & second.keys()),
    }


def _finding(finding: ShownFinding) -> dict[str, Json]:
    names = ("code", "severity", "summary", "cause", "fingerprint")
    return {name: getattr(finding, name) for name in names}


def paired(before: Kernel, after: Kernel) -> Iterator[tuple[Space | None, Space | None]]:
    """Spaces of both stops by what they are called: master with master, processes by name, those
    of one name in the order of their pids, nameless ones by their root."""
    first, second = _by_name(before), _by_name(after)
    for key in sorted(first.keys() | second.keys()):
        yield first.get(key), second.get(key)


def _by_name(kernel: Kernel) -> dict[tuple[str, str, int], Space]:
    found: dict[tuple[str, str, int], Space] = {}
    for space in sorted(kernel.audited, key=lambda s: (s.pid or 0, s.root)):
        name = space.name or ("" if space.role == "master" else hex64(space.root))
        number = 0
        while (space.role, name, number) in found:
            number += 1
        found[space.role, name, number] = space
    return found


def _spaces(before: Side, after: Side, same_run: bool) -> dict[str, Json]:
    new: list[Json] = []
    gone: list[Json] = []
    changed: list[Json] = []
    pairs: list[tuple[Space, Space]] = []
    for a, b in paired(before.kernel, after.kernel):
        if a is not None and b is not None:
            pairs.append((a, b))
        elif a is not None:
            gone.append(_space(a))
        elif b is not None:
            new.append(_space(b))
    # What changed in the master is said there, and not again in each process that shares it.
    pairs.sort(key=lambda pair: pair[0].role != "master")
    common: set[tuple[int, int, str, str]] = set()
    for a, b in pairs:
        found = _changes(before.kernel, a, after.kernel, b)
        mine = [c for c in found if _key(c) not in common]
        if a.role == "master":
            common = {_key(c) for c in found}
        entry = _pair(a, b, mine)
        entry["frames"] = _frames(before.kernel, a, after.kernel, b) if same_run else []
        if any(entry[k] for k in ("added", "removed", "moved", "rights", "frames")):
            changed.append(entry)
    return {"new": new, "gone": gone, "paired": len(pairs), "changed": changed}


def _space(space: Space) -> dict[str, Json]:
    return {"root": hex64(space.root), "role": space.role, "pid": space.pid, "name": space.name}


def _changes(first: Kernel, a: Space, second: Kernel, b: Space) -> list[Change]:
    return space_changes(first.merged.space(a.root), second.merged.space(b.root))


def _key(change: Change) -> tuple[int, int, str, str]:
    return change.start, change.end, rights(change.before), rights(change.after)


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


def _frames(first: Kernel, a: Space, second: Kernel, b: Space) -> list[Json]:
    """Pages that lie on other frames than before, neighbours together. What a process shares
    with the master is looked at in the master alone."""
    found: list[tuple[int, int, int, int]] = []
    looked = 0
    own = _own_slots(first, a) | _own_slots(second, b)
    for one in first.merged.space(a.root).ranges:
        va = int(one.start)
        while va < one.end and looked < MOST_PAGES:
            if index_at(va, first.levels) not in own:
                va = (va | span(first.levels) - 1) + 1
                continue
            looked += 1
            here, there = first.walk(a.root, va), second.walk(b.root, va)
            step = min(here.size or 4096, there.size or 4096)
            if here.pa is not None and there.pa is not None and here.pa != there.pa:
                last = found[-1] if found else None
                if last is not None and last[1] == va:
                    found[-1] = (last[0], va + step, last[2], last[3])
                else:
                    found.append((va, va + step, here.pa, there.pa))
            va += step
    return [
        {"start": hex64(s), "last": hex64(e - 1), "size": e - s, "before": hex64(p),
         "after": hex64(q)}
        for s, e, p, q in found[:MOST_CHANGES]
    ]  # fmt: skip


def _own_slots(kernel: Kernel, space: Space) -> set[int]:
    """Top slots that `space` does not have from the master; of the master itself, of slots that
    name one table the first."""
    table = kernel.tables.table(space.root).tolist()
    if kernel.master is None:
        return set(range(512))
    if space.root == kernel.master.root:
        return {n for n, raw in enumerate(table) if present(raw) and raw not in table[:n]}
    model = kernel.tables.table(kernel.master.root).tolist()
    return {n for n, raw in enumerate(table) if not same_target(raw, model[n])}


def _sharing(before: Side, after: Side) -> list[Json]:
    """Tables of user memory that two spaces share in one stop and not in the other."""
    first, second = _shared(before.kernel), _shared(after.kernel)
    return [
        {"slot": slot, "start": hex64(slot_start(slot)), "spaces": list(names), "only_in": side}
        for side, mine, other in (("a", first, second), ("b", second, first))
        for slot, names in sorted(mine - other)
    ]


def _shared(kernel: Kernel) -> set[tuple[int, tuple[str, ...]]]:
    """(lower top-level slot, names of the spaces whose user-accessible entries are one table)."""
    found: set[tuple[int, tuple[str, ...]]] = set()
    widths = span(kernel.levels) // span(4)  # slots are counted as those of 4-level paging
    holders: dict[tuple[int, int], list[str]] = {}
    for space in kernel.audited:
        try:
            table = kernel.tables.table(space.root)
        except ReadError:
            continue
        for slot in range(256):
            below = table_named(kernel.levels, table[slot])
            if below is not None and effective_of(table[slot]).u:
                holders.setdefault((slot * widths, below), []).append(space.subject)
    for (slot, _), names in holders.items():
        if len(names) > 1:
            found.add((slot, tuple(sorted(names))))
    return found


def _stacks(before: Side, after: Side) -> list[Json]:
    """Cells of the stack matrix that differ, by stack and the name of the space."""
    first, second = _cells(before), _cells(after)
    return [
        {"stack": key[0], "space": key[1], "before": first.get(key), "after": second.get(key)}
        for key in sorted(first.keys() & second.keys())
        if first[key] != second[key]
    ]


def _cells(side: Side) -> dict[tuple[str, str], str]:
    maps = side.document.maps
    named = {s.root: s.name or s.role for s in side.document.spaces}
    return {
        (str(row["stack"]), named[root]): cell
        for row in objects(maps["stacks"])
        for root, cell in zip(texts(maps["spaces"]), str(row["cells"]), strict=True)
    }


def _allocators(first: Kernel, second: Kernel) -> list[Json]:
    """What the allocators hand out, before and after; what cannot be read is null."""
    one, other = _amounts(first), _amounts(second)
    rows: list[Json] = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        delta = b - a if a is not None and b is not None else None
        rows.append({"what": name, "a": a, "b": b, "delta": delta})
    return rows


def _amounts(kernel: Kernel) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    try:
        found["frames in use"] = kernel.structures.frames.used
        found["bytes of heap in use"] = kernel.structures.heap.used
        processes = kernel.structures.processes.processes
        found["live processes"] = sum(1 for p in processes if p.alive)
    except (ReadError, NotChecked):
        pass
    found["kernel stack slots"] = len(kernel.stacks) if kernel.is_breenix else None
    return found


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


def _serial(before: Side, after: Side) -> list[Json]:
    """For each port the first line that differs."""
    first, second = before.kernel.stop.serial, after.kernel.stop.serial
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
