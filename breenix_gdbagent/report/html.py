"""The report as one HTML file: no network, every text readable without scripts.

What the guest wrote is escaped by the template engine, and the page's own policy names the one
script that may run by its hash: a process called ``<script>`` stays a name.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import fields
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report import atlas as atlases
from breenix_gdbagent.report import tree
from breenix_gdbagent.report.advice import code_of
from breenix_gdbagent.report.causes import groups
from breenix_gdbagent.report.cells import CELLS
from breenix_gdbagent.report.coverage import counts, last_checks, lost, verdict
from breenix_gdbagent.report.htmllog import log_rows
from breenix_gdbagent.report.htmltrace import ReadSource, stops_of
from breenix_gdbagent.report.machine import tables_of
from breenix_gdbagent.report.model import Report, ShownFinding
from breenix_gdbagent.report.runline import moments
from breenix_gdbagent.report.shown_walk import ShownWalk
from breenix_gdbagent.report.story import (
    called,
    chain_of,
    drawn_by_check,
    effect_words,
    end_of_walk,
    entry_name,
    facts,
    heading,
    labels,
    matrix_rows,
    paragraph,
    printable,
    run_words,
    size_words,
    source_words,
    stack_names,
    table_rows,
    target_words,
    tests_words,
    texts,
    value_words,
)
from breenix_gdbagent.views.stop_detail import StopDetail

CELL_CLASS = {
    ".": "ok", "-": "gone", "p": "part", "g": "guard", "u": "user", "r": "ro", "d": "other",
    "x": "exec", "?": "unknown",
}  # fmt: skip
MOST_ROWS = 24
MOMENT_LINES = 8
"""Serial lines that are shown beside the stop; the whole log has its own place."""

_SPAN = re.compile(r"`([^`]+)`")
_NUMBERS = re.compile(r"0x[0-9a-f]{3}|::")
"""Text that is easier read in a fixed pitch: addresses and paths."""


def render(
    report: Report, detail: StopDetail | None = None, source: ReadSource | None = None
) -> str:
    """The page. With `detail` the maps show every range, the tables open and the log is whole;
    `source` reads lines of source files for the backtraces."""
    script = _asset("script.js")
    policy = b64encode(sha256(script.encode()).digest()).decode()
    context = {
        **_context(report, detail),
        "stops": stops_of(report, detail, source),
        "style": style(),
        "script": Markup(script),
        "script_hash": policy,
    }
    return environment().get_template("report.html.j2").render(context)


def environment() -> Environment:
    """The template engine, everything escaped, guest text made printable by ``plain``."""
    made = Environment(
        loader=PackageLoader("breenix_gdbagent.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["words"] = lambda value: printable(value_words(value, MOST_ROWS))
    made.filters["size"] = size_words
    made.filters["plain"] = lambda text: printable(str(text))
    made.filters["prose"] = prose
    return made


def prose(text: object) -> Markup:
    """Sentences of ours: everything escaped, and what stands between backticks as code."""
    parts = _SPAN.split(printable(str(text)))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def style() -> Markup:
    """The one style sheet, as it stands in the file."""
    return Markup(_asset("style.css"))


def _asset(name: str) -> str:
    return (files("breenix_gdbagent.report") / "templates" / name).read_text(encoding="utf-8")


def _context(report: Report, detail: StopDetail | None) -> dict[str, Any]:
    made = groups(report)
    told = [f for group in made for f in group.told]
    findings = [_finding(report, n, f) for n, f in enumerate(told)]
    cards = iter(findings)
    shown = [
        {
            "cards": list(islice(cards, len(group.shown))),
            "inside": list(islice(cards, len(group.told) - len(group.shown))),
            "words": group.followed_words,
        }
        for group in made
    ]
    by_code = {f["code"]: f["id"] for f in reversed(findings)}
    for finding in findings:
        finding["cause_id"] = by_code.get(finding["cause"])
    atlas = atlases.build(report, detail)
    named = labels(report)
    roots = texts(report.maps["spaces"])
    now = last_checks(report)
    return {
        "report": report,
        "outcome": verdict(report),
        "counts": counts(report),
        "target": target_words(report),
        "run": ", ".join(p for p in (run_words(report), tests_words(report)) if p),
        "findings": findings,
        "groups": shown,
        "lost": " ".join(said for said in (lost(report), effect_words(report)) if said),
        "unsure": 2 * sum(c.status == "not_checked" for c in now) > len(now),
        "matrix": _matrix(report),
        "cells": CELLS,
        "cell_class": CELL_CLASS,
        "names": [named.get(r, r) for r in roots],
        "roots": roots,
        "map": None if atlas is None else _map(atlas, named),
        "listing": _listing(report, atlas),
        "tables": _script_json(tree.build(detail.tables, roots)) if detail and roots else "",
        "log": log_rows(report, detail),
        "moment": report.serial.tail[-MOMENT_LINES:],
        "moments": moments(report),
        "machine": tables_of(None if detail is None else detail.state),
        "checks": _checks(report),
        "labels": named,
        "provenance": json.dumps(report.provenance, indent=1, ensure_ascii=False),
    }


def _finding(report: Report, number: int, finding: ShownFinding) -> dict[str, Any]:
    named, walk = labels(report), finding.evidence.walk
    known = code_of(finding.code, report.adapter)
    return {
        **{part.name: getattr(finding, part.name) for part in fields(finding)},
        "id": f"finding-{number}",
        "heading": heading(finding),
        "paragraph": paragraph(finding),
        "place": source_words(finding),
        "chain": chain_of(finding),
        "walks": [] if walk is None else [_walk(walk, named)],
        "drawn": drawn_by_check(finding),
        "facts": list(_facts(finding)),
        "confirm": known.confirm if known is not None else "",
        "arises": known.arises if known is not None else "",
    }


def _walk(walked: ShownWalk, named: Mapping[str, str]) -> dict[str, Any]:
    levels = []
    for level in walked.levels:
        table, index = entry_name(walked, level)
        levels.append(
            {
                "name": f"{table}[{index}]",
                "at": level.entry_pa,
                "entry": f"{int(level.entry, 16):#018x}",
                "flags": " ".join(level.flags),
                "stopped": level.level == walked.stopped_at,
            }
        )
    return {
        "va": walked.va,
        "root": called(walked.root, named),
        "levels": levels,
        "end": end_of_walk(walked),
        "mapped": walked.pa is not None,
    }


def _facts(finding: ShownFinding) -> Iterator[tuple[str, str, Any]]:
    """Evidence for the page: (name, kind, value), lists of like objects as tables."""
    for name, value in facts(finding):
        rows = table_rows(value)
        if rows:
            heads = list(rows[0])
            body = [[value_words(row[h]) for h in heads] for row in rows[:MOST_ROWS]]
            yield name, "table", (heads, body, len(rows) - len(body))
        else:
            words = value_words(value, MOST_ROWS)
            yield name, "mono" if _NUMBERS.search(words) else "text", words


def _matrix(report: Report) -> list[dict[str, Any]]:
    return [
        {"name": stack_names(names), "cells": cells, "users": ", ".join(users)}
        for names, cells, users in matrix_rows(report.maps)
    ]


def _map(atlas: atlases.Atlas, named: Mapping[str, str]) -> dict[str, Any]:
    rows = []
    for row in atlas.rows:
        pieces = [
            {
                "x": f"{atlas.place(p.start):.2f}",
                "w": f"{max(atlas.place(p.end) - atlas.place(p.start), 0.3):.2f}",
                "rights": p.rights,
                "shared": p.shared,
                "title": f"{_span(p.start, p.end)}  {size_words(p.end - p.start)}  {p.rights}  "
                f"{_shared(p, len(atlas.rows))}",
            }
            for p in row.pieces
        ]
        marks = [
            {"x": f"{atlas.place(m.va):.2f}", "kind": m.kind, "title": m.text}
            for m in atlas.marks
            if m.root in (None, row.root)
        ]
        name = named.get(row.root, row.root)
        rows.append({"root": row.root, "name": name, "pieces": pieces, "marks": marks,
                     "left_out": row.left_out})  # fmt: skip
    bands = [
        {"x": f"{b.left / 10:.3f}", "w": f"{(b.right - b.left) / 10:.3f}", "name": b.name,
         "slot": b.first}
        for b in atlas.bands
    ]  # fmt: skip
    rights = sorted({p.rights for row in atlas.rows for p in row.pieces})
    return {"rows": rows, "bands": bands, "rights": rights, "spaces": len(atlas.rows)}


def _span(start: int, end: int) -> str:
    """From, to: the first address behind it, as everywhere in text."""
    return f"{hex64(start)} - {hex64(end)}"


def _shared(piece: atlases.Piece, spaces: int) -> str:
    if piece.shared == "own":
        return "in this space only"
    return (
        "the same in every space"
        if piece.shared == "all"
        else (f"the same in {piece.with_spaces} of {spaces} spaces")
    )


def _listing(report: Report, atlas: atlases.Atlas | None) -> list[tuple[str, list[str]]]:
    """The map in words: what all spaces have once, then what is not in every space."""
    if atlas is None or not atlas.rows:
        return []
    named = labels(report)

    def line(p: atlases.Piece) -> str:
        return f"{p.start:#018x}-{p.end - 1:#018x}  {size_words(p.end - p.start):>9}  {p.rights}"

    common = [line(p) for p in atlas.rows[0].pieces if p.shared == "all"]
    parts = [("in every space", common)] if common and len(atlas.rows) > 1 else []
    for row in atlas.rows:
        mine = [line(p) for p in row.pieces if p.shared != "all" or len(atlas.rows) == 1]
        if row.left_out:
            mine.append(f"... {counted(row.left_out, 'more range')}")
        parts.append((called(row.root, named), mine))
    return parts


def _checks(report: Report) -> list[dict[str, Any]]:
    """Checks by stop, the last stop first."""
    checks = report.checks
    stops = sorted({c.stop for c in checks}, reverse=True)
    return [{"stop": s, "checks": [c for c in checks if c.stop == s]} for s in stops]


def _script_json(value: Json) -> Markup:
    """JSON that no HTML parser can end early."""
    text = json.dumps(value, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)
