"""Page walks, the stack matrix and the memory map of a report, drawn in characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from breenix_gdbagent.addresses import counted
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.backtraces import brief, rows
from breenix_gdbagent.report.cells import CELLS
from breenix_gdbagent.report.model import Object, Report
from breenix_gdbagent.report.page import Page
from breenix_gdbagent.report.shown_walk import ShownWalk
from breenix_gdbagent.report.story import (
    called,
    end_of_walk,
    end_of_way,
    entry_name,
    labels,
    matrix_classes,
    matrix_rows,
    objects,
    size_words,
    stack_names,
    texts,
)
from breenix_gdbagent.x86.paging import span

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MOST_GROUPS = 6
MOST_VARIABLES = 300  # characters of a frame's variables
INKS = {".": "good", "x": "note", "?": "note"}


def walk(
    page: Page,
    walked: ShownWalk,
    named: Mapping[str, str],
    indent: str = "  ",
    symbol: str | None = None,
) -> None:
    """A walk level by level; under the entry that stopped it, why."""
    what = f" <{symbol}>" if symbol else ""
    page.text(
        f"walk of {walked.va}{what} under {called(walked.root, named)}", indent, indent + "  "
    )
    ended = None
    for level in walked.levels:
        name, index = entry_name(walked, level)
        flags = " ".join(level.flags)
        raw = f"{int(str(level.entry), 16):#018x}"
        stopped = level.level == walked.stopped_at
        page.line(
            f"{indent}  ",
            ("bad" if stopped else "", f"{name:<4} [{index:3}]"),
            f"  {level.entry_pa:>12}  ",
            ("bad" if stopped else "", raw),
            ("dim", f"  {flags}"),
        )
        if stopped:
            ended = end_of_way(walked)
            page.line(f"{indent}  ", ("bad", f"^^^^^^^^^^ the walk ends here: {ended}"))
    if ended is None:
        kind = "good" if walked.pa is not None else "bad"
        page.line(f"{indent}  ", (kind, f"= {end_of_walk(walked)}"))


def all_well(maps: Object) -> bool:
    """Whether every stack is as it should be in every space."""
    return all(set(str(row["cells"])) <= {"."} for row in objects(maps["stacks"]))


def matrix(page: Page, report: Report) -> None:
    """Stack x space. Columns that are alike are one where not all of them fit the width."""
    maps = report.maps
    rows = matrix_rows(maps)
    roots = texts(maps["spaces"])
    if not rows or not roots:
        return
    page.line(("head", "Kernel stacks x address spaces"))
    page.items(_legend(maps), "  ")
    heads = [stack_names(names) for names, _, _ in rows]
    left = min(max(map(len, heads)), max(16, page.width - 2 * len(roots) - 26))
    classes = matrix_classes(maps)
    each = len(classes) > 1 and 2 * len(roots) + left + 4 <= page.width
    columns = [[n] for n in range(len(roots))] if each else [numbers for _, numbers in classes]
    if len(columns) > len(LETTERS):
        columns = columns[: len(LETTERS)]
    page.line(f"  {'':<{left}}  ", " ".join(LETTERS[: len(columns)]) if len(columns) > 1 else "")
    if len(columns) < 2:
        page.lines.pop()
    for head, (_, cells, users) in zip(heads, rows, strict=True):
        glyphs = [cells[column[0]] for column in columns]
        who = f"   {', '.join(users)}" if users else ""
        for number, part in enumerate(_cut(head, left)):
            if number:
                page.line(f"  {part}")
                continue
            page.line(
                f"  {part:<{left}}  ",
                *[(INKS.get(g, "bad"), g + (" " if len(columns) > 1 else "")) for g in glyphs],
                ("dim", who),
            )
    _columns(page, report, columns)


def _cut(head: str, width: int) -> list[str]:
    """A long list of slots broken at its commas."""
    parts = [""]
    for word in head.split(" "):
        joined = f"{parts[-1]} {word}".strip()
        if len(joined) > width and parts[-1]:
            parts.append("  " + word)
        else:
            parts[-1] = joined if parts[-1].strip() else parts[-1] + word
    return parts


def _legend(maps: Object) -> list[str]:
    used = {glyph for row in objects(maps["stacks"]) for glyph in str(row["cells"])}
    return [f"{glyph} {what}" for glyph, what in CELLS.items() if glyph in used]


def _columns(page: Page, report: Report, columns: Sequence[Sequence[int]]) -> None:
    maps = report.maps
    roots, named = texts(maps["spaces"]), labels(report)
    if len(columns) == 1:
        many = len(roots)
        page.line(("dim", f"  one column: {many} space{'s' * (many != 1)}, all alike"))
    else:
        said = []
        for letter, numbers in zip(LETTERS, columns, strict=False):
            first = called(roots[numbers[0]], named)
            more = f" and {len(numbers) - 1} more alike" if len(numbers) > 1 else ""
            said.append(f"{letter} {first}{more}")
        page.items(said, "  ")
    left_out = cast(int, maps["left_out"])
    if left_out:
        page.line(("dim", f"  not drawn: {counted(left_out, 'more space')}"))


def stacks_in_a_line(page: Page, report: Report) -> None:
    """The matrix where it has nothing to show."""
    maps = report.maps
    number, spaces = len(objects(maps["stacks"])), len(texts(maps["spaces"]))
    if number:
        page.text(
            f"{counted(number, 'kernel stack')} x {counted(spaces, 'address space')}: every page "
            "mapped, writable, supervisor, no-execute and the same frame; every guard page free"
        )


def memory_map(page: Page, report: Report) -> None:
    """What the spaces map, a line a region; what most have in common once."""
    maps = report.maps
    if maps["reason"]:
        page.text(f"No memory map: {maps['reason']}")
        return
    roots, named = texts(maps["spaces"]), labels(report)
    common = objects(maps["common"])
    own = [objects(regions) for regions in cast(Sequence[Sequence[Object]], maps["own"])]
    page.line(
        ("head", "Memory map"), ("dim", "  PML4 slots, from, mapped, effective rights (u/s), holds")
    )
    if common:
        page.line("  in every space, but for what stands below")
        for region in common:
            _region(page, region)
    groups: dict[str, list[int]] = {}
    for number, regions in enumerate(own):
        if regions or not common:
            groups.setdefault(repr(regions), []).append(number)
    shown = _worth_showing(report, list(groups.values()))
    starred = False
    usual = {tuple(cast(Sequence[int], r["slots"])) for r in common}
    for numbers in shown:
        names = [called(roots[n], named) for n in numbers]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        page.text("; ".join(names[:3]) + more, "  ", "    ")
        for region in own[numbers[0]]:
            changed = tuple(cast(Sequence[int], region["slots"])) in usual
            starred = starred or changed
            _region(page, region, changed)
    if starred:
        page.line("  ", ("bad", "*"), " a table of its own where the others share one")
    if any(line.startswith("  = ") for line in page.lines):
        page.line("  = one table in all of these slots")
    left_out = len(groups) - len(shown)
    if left_out:
        page.line(("dim", f"  with user memory of their own: {counted(left_out, 'more space')}"))


def _worth_showing(report: Report, groups: Sequence[list[int]]) -> list[list[int]]:
    """The groups of spaces that one screen has room for: those that a CPU stands in or a finding
    names, the master, and those that lack or change a region that the others have come first."""
    if len(groups) <= MOST_GROUPS:
        return list(groups)
    maps = report.maps
    roots, own = texts(maps["spaces"]), cast(Sequence[Sequence[Object]], maps["own"])
    common = {tuple(cast(Sequence[int], r["slots"])) for r in objects(maps["common"])}
    wanted = {cpu.cr3 for stop in report.stops for cpu in stop.cpus} | {
        str(f.where.root) for f in report.findings
    }
    wanted |= {s.root for s in report.spaces if s.role == "master"}

    def odd(number: int) -> bool:
        return any(
            not r["mapped"] or tuple(cast(Sequence[int], r["slots"])) in common for r in own[number]
        )

    first = [g for g in groups if any(roots[n] in wanted or odd(n) for n in g)]
    rest = [g for g in groups if g not in first]
    chosen = (first + rest)[:MOST_GROUPS]
    return [g for g in groups if g in chosen]


def _region(page: Page, region: Object, changed: bool = False) -> None:
    """One line, marked where `changed` (this space has the slot otherwise than the others) and
    where several slots name one table."""
    first, last = cast(Sequence[int], region["slots"])
    slots = f"{first}" if first == last else f"{first}-{last}"
    mapped = cast(int, region["mapped"])
    holds = str(region["holds"] or "")
    # Slots of one table are counted once: what is mapped is less than what they span.
    alias = last > first and mapped < (last - first) * span(4)
    sign = ("bad", "*") if changed else "=" if alias else " "
    head = f" {slots:<8}{region['start']!s:>18}  "
    if not mapped:
        page.line("  ", sign, head, ("bad", f"{'NOT MAPPED':<10}  {'':<15} {holds}"))
        return
    rights = texts(region["rights"])
    shown = " ".join(rights[:3]) + ("+" if len(rights) > 3 else "")
    page.line(
        "  ",
        sign,
        f"{head}{size_words(mapped):>10}  ",
        ("note" if any("wx" in r for r in rights) else "", f"{shown:<15}"),
        f" {holds}",
    )


def _variables(page: Page, row: Mapping[str, Json], indent: str) -> None:
    """What a frame's variables are, where that was read."""
    told = str(row["variables"])
    if told:
        shown = told if len(told) <= MOST_VARIABLES else f"{told[:MOST_VARIABLES]}..."
        page.text(shown, f"{indent}    ", f"{indent}    ", "dim")


def backtrace(page: Page, trace: Object, indent: str = "  ", most: int = 24) -> None:
    """A line a frame, innermost first, inlined functions above the one that holds them."""
    shown = [
        {**row, "name": brief(str(row["name"]))}
        for frame in objects(trace["frames"])
        for row in rows(frame)
    ]
    places = [str(row["place"] or row["pc"] or "") for row in shown]
    names = [
        f"{row['name']}" + (f"  x {row['times']}" if cast(int, row["times"]) > 1 else "")
        for row in shown
    ]
    room = page.width - len(indent) - 2 - max(map(len, places), default=0)
    widest = max((len(name) for name in names if len(name) <= room), default=0)
    for row, name, where in list(zip(shown, names, places, strict=True))[:most]:
        if row["interrupted"]:
            page.line(("bad", f"{indent}---- {row['interrupted']} ----"))
        if len(name) <= room or len(indent) + len(name) + 2 + len(where) <= page.width:
            page.line(f"{indent}{name:<{widest}}  ", ("dim", where))
            _variables(page, row, indent)
            continue
        most_of = page.width - len(indent) - 3
        page.line(indent + (name if len(name) <= most_of + 3 else f"{name[:most_of]}..."))
        if where:
            page.line(("dim", f"{indent}    {where}"))
        _variables(page, row, indent)
    left = max(0, len(shown) - most) + cast(int, trace["left_out"])
    if left > 0:
        page.line(("dim", f"{indent}... {left} more"))
    page.text(f"no more: {trace['end']}", indent, indent + "  ", "dim")
