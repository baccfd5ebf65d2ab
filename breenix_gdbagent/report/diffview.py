"""A comparison of two stops as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from breenix_gdbagent.addresses import counted
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.cells import CELLS
from breenix_gdbagent.report.diff import headline
from breenix_gdbagent.report.ink import PLAIN, Ink
from breenix_gdbagent.report.model import Object
from breenix_gdbagent.report.page import Page
from breenix_gdbagent.report.story import log_text, objects, record, size_words, texts

ENDS = "(ends here)"
MOST_LINES = 12
"""Changes shown of one space in text; JSON and HTML have more."""


def text(found: Object, width: int = 100, colour: bool = False) -> str:
    """The comparison for a terminal."""
    page = Page(width, Ink(True) if colour else PLAIN)
    verdict, ink = ("DIFFERENT", "error") if found["differs"] else ("SAME", "good")
    page.text(f"{verdict}: {headline(found)}", "", "  ", ink)
    for key in ("a", "b"):
        side = record(found[key])
        page.text(
            f"{key.upper()}  {side['file']}: {side['target']}; {side['outcome']}; {side['stop']}",
            "", "   ", "dim",
        )  # fmt: skip
    if found["same_run"]:
        page.line(("dim", "   both are of one run: frames are compared too"))
    _findings(page, record(found["findings"]))
    _spaces(page, record(found["spaces"]))
    _rest(page, found)
    return str(page)


def _findings(page: Page, findings: Object) -> None:
    for key, sign, ink in (("new", "+", "bad"), ("gone", "-", "good")):
        rows = objects(findings[key])
        if rows:
            page.blank()
            page.line(("head", f"Findings {key} in B"))
        for row in rows:
            page.text(
                f"{sign} {row['severity']} {row['code']}: {row['summary']}", "  ", "    ", ink
            )


def _spaces(page: Page, spaces: Object) -> None:
    for key, sign in (("new", "+"), ("gone", "-")):
        rows = objects(spaces[key])
        if rows:
            page.blank()
            page.line(("head", f"Address spaces {key} in B"))
        for row in rows:
            page.line(f"  {sign} {space_name(row)}, root {row['root']}")
    for row in objects(spaces["changed"]):
        page.blank()
        page.line(("head", pair_name(row)))
        lines = list(changed_lines(row))
        for kind, line in lines[:MOST_LINES]:
            page.line(("bad" if kind == "removed" else "", f"  {line}"))
        left_out = len(lines) - MOST_LINES + cast(int, row["left_out"])
        if left_out > 0:
            page.line(("dim", f"  ... {counted(left_out, 'more change')}"))


def space_name(space: Object) -> str:
    """``init (pid 1)``, ``master``."""
    if space["name"] is not None:
        return f"{space['name']} (pid {space['pid']})"
    return str(space["role"]) if space["role"] != "process" else f"process {space['root']}"


def pair_name(row: Object) -> str:
    """One name where both sides are called the same, else both."""
    a, b = space_name(record(row["a"])), space_name(record(row["b"]))
    return a if a == b else f"{a} against {b}"


def changed_lines(row: Object) -> Iterator[tuple[str, str]]:
    """(kind, line) for each change of one space."""
    for kind, sign in (("added", "+"), ("removed", "-")):
        for c in objects(row[kind]):
            yield kind, f"{sign} {_span(c)}  {c['rights']}"
    for c in objects(row["moved"]):
        yield "moved", f"> {_span(c)}  {c['rights']}  moved to {c['to']}"
    for c in objects(row["rights"]):
        yield "rights", f"~ {_span(c)}  {c['rights']} -> {c['after']}"
    for c in objects(row["frames"]):
        yield "frames", f"= {_span(c)}  other frames: {c['before']} -> {c['after']} and on"


def _span(change: Object) -> str:
    """From, to (the first address behind it, as everywhere in text) and size."""
    size = cast(int, change["size"])
    start = int(str(change["start"]), 16)
    return f"{start:#018x}-{start + size:#018x} {size_words(size):>9}"


def cell_words(cell: Json) -> str:
    """A glyph of the stack matrix in words."""
    return CELLS.get(str(cell), str(cell))


def _rest(page: Page, found: Object) -> None:
    if found["sharing"]:
        page.blank()
        page.line(("head", "Tables of user memory shared"))
    for row in objects(found["sharing"]):
        side = str(row["only_in"]).upper()
        page.text(
            f"only in {side}: PML4[{row['slot']}] of {' and '.join(texts(row['spaces']))}",
            "  ", "    ", "bad" if side == "B" else "good",
        )  # fmt: skip
    if found["stacks"]:
        page.blank()
        page.line(("head", "Kernel stacks"))
    for row in objects(found["stacks"]):
        page.line(
            f"  {row['stack']} in {row['space']}: "
            f"{cell_words(row['before'])} -> {cell_words(row['after'])}"
        )
    amounts = [a for a in objects(found["allocators"]) if a["delta"]]
    if amounts:
        page.blank()
        page.line(("head", "Allocators"))
    for amount in amounts:
        page.line(
            f"  {amount['what']}: {amount['a']} -> {amount['b']}  ({cast(int, amount['delta']):+d})"
        )
    for row in objects(found["serial"]):
        page.blank()
        page.line(("head", f"COM{cast(int, row['port']) + 1} differs from line {row['line']} on"))
        if row["before"] is not None:
            page.line(("dim", f"    {log_text(str(row['before']))}"))
        for key, sign in (("a", "A"), ("b", "B")):
            page.line(f"  {sign} {ENDS if row[key] is None else log_text(str(row[key]))}")


def html(found: Object) -> str:
    """The comparison as one HTML file, in the dress of the report."""
    from breenix_gdbagent.report.html import environment, style

    page = environment().get_template("diff.html.j2")
    changed = [
        {"name": pair_name(row), "lines": list(changed_lines(row)), "left_out": row["left_out"]}
        for row in objects(record(found["spaces"])["changed"])
    ]
    return page.render(
        found=found, headline=headline(found), changed=changed, style=style(),
        space_name=space_name, cell_words=cell_words, log_text=log_text,
    )  # fmt: skip
