"""Memory maps for a picture: every range of every space on one axis that has no empty parts.

An address space is a few kilobytes in 256 TiB. The axis gives each stretch between two borders a
width by the logarithm of its size, and what nobody maps next to nothing: a guard page and a
4 GiB direct map are both there to be seen, and the order of addresses is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from typing import cast

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.report.mappings import rights
from breenix_gdbagent.report.model import Object, Report
from breenix_gdbagent.report.story import objects, texts
from breenix_gdbagent.views.stop_detail import StopDetail
from breenix_gdbagent.x86.paging import frame_of

MOST_PIECES = 900
"""Ranges drawn of one space: 64 spaces of it stay within a report's size."""

TOP = 1 << 64

_Mapped = tuple[int, int, str, int | None]
"""start, end, rights, and the frame of its first page (or what else tells it from another)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """[start, end) with one right, and how it is shared: ``all``, ``some`` or ``own``."""

    start: int
    end: int
    rights: str
    shared: str
    with_spaces: int


@dataclass(frozen=True, slots=True)
class Row:
    """One space: its root and its pieces in order; `left_out` were too many to draw."""

    root: str
    pieces: tuple[Piece, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A place that the report speaks of, in the row of `root` (None: in every row)."""

    root: str | None
    va: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of the axis that holds one thing, [left, right) in thousandths of it."""

    left: float
    right: float
    name: str
    first: int


@dataclass(frozen=True, slots=True)
class Atlas:
    """Rows on a common axis. `place` turns an address into thousandths of the axis."""

    rows: tuple[Row, ...]
    bands: tuple[Band, ...]
    marks: tuple[Mark, ...]
    borders: tuple[int, ...]
    offsets: tuple[float, ...]

    def place(self, va: int) -> float:
        """Where `va` is on the axis, 0 to 1000; linear between two borders."""
        at = bisect_right(self.borders, va) - 1
        if at < 0:
            return 0.0
        if at >= len(self.borders) - 1:
            return 1000.0
        low, high = self.borders[at], self.borders[at + 1]
        left, right = self.offsets[at], self.offsets[at + 1]
        return left + (right - left) * (va - low) / (high - low)


def build(report: Report, detail: StopDetail | None) -> Atlas | None:
    """The atlas of the document's drawn spaces: with their `detail` range by range, else region by
    region. None where the document has no maps."""
    maps = report.maps
    roots = texts(maps["spaces"])
    if maps["reason"] or not roots:
        return None
    rows = None if detail is None else _rows_of_detail(detail, roots)
    if rows is None:
        rows = _rows_of_document(maps, roots)
    marks = tuple(_marks(report))
    borders, offsets = _axis(rows, marks)
    atlas = Atlas(rows, (), marks, borders, offsets)
    return Atlas(rows, tuple(_bands(atlas, maps)), marks, borders, offsets)


def _rows_of_detail(detail: StopDetail, roots: Sequence[str]) -> tuple[Row, ...] | None:
    """None where the detail lacks a space: the document knows more than what can still be read."""
    pieces = detail.pieces or {}
    wanted = [int(text, 16) for text in roots]
    if any(root not in pieces for root in wanted):
        return None
    found: list[list[_Mapped]] = [
        [(one.range.start, one.range.end, rights(one.range), one.pa) for one in pieces[root]]
        for root in wanted
    ]
    return _rows(roots, found)


def _rows_of_document(maps: Object, roots: Sequence[str]) -> tuple[Row, ...]:
    own = cast(Sequence[Sequence[Object]], maps["own"])
    found: list[list[_Mapped]] = []
    for number in range(len(roots)):
        mine = [r for r in own[number] if r["mapped"]]
        changed = {tuple(cast(Sequence[int], r["slots"])) for r in own[number]}
        both = [
            *(r for r in objects(maps["common"]) if tuple(cast(Sequence[int], r["slots"]))
              not in changed),
            *mine,
        ]  # fmt: skip
        pieces: list[_Mapped] = []
        for region in both:
            start = int(str(region["start"]), 16)
            end = start + cast(int, region["mapped"])
            # No frames here: what a space has of its own is taken as shared with nobody.
            frame = -1 - number if region in mine else None
            pieces.append((start, end, texts(region["rights"])[0], frame))
        found.append(sorted(pieces, key=lambda piece: piece[0]))
    return _rows(roots, found)


def _rows(roots: Sequence[str], found: Sequence[Sequence[_Mapped]]) -> tuple[Row, ...]:
    """Pieces with how many spaces have the same one: same addresses, same frames."""
    holders: dict[tuple[int, int, int | None], int] = {}
    for pieces in found:
        for start, end, _, pa in pieces:
            holders[start, end, pa] = holders.get((start, end, pa), 0) + 1
    rows = []
    for root, pieces in zip(roots, found, strict=True):
        made = []
        for start, end, right, pa in pieces[:MOST_PIECES]:
            number = holders[start, end, pa]
            shared = "all" if number == len(roots) else "some" if number > 1 else "own"
            made.append(Piece(start, end, right, shared, number))
        rows.append(Row(root, tuple(made), max(0, len(pieces) - MOST_PIECES)))
    return tuple(rows)


def _marks(report: Report) -> Iterable[Mark]:
    """Where the CPUs stand, and what the findings are about."""
    last = report.stops[-1]
    for cpu in last.cpus:
        if cpu.cr3 is None:
            continue
        root = hex64(frame_of(int(cpu.cr3, 16)))
        for key in ("rip", "rsp"):
            text = getattr(cpu, key)
            if text is not None:
                yield Mark(root, int(text, 16), key, f"{key.upper()} of CPU {cpu.id}: {text}")
    if last.cr2 is not None:
        for cpu in last.cpus[:1]:
            space = hex64(frame_of(int(cpu.cr3, 16))) if cpu.cr3 else None
            yield Mark(space, int(last.cr2, 16), "cr2", f"CR2: {last.cr2}")
    for finding in report.findings:
        where = finding.where
        if where.va is not None and finding.severity == "error":
            yield Mark(
                where.root if where.root is not None else None,
                int(where.va, 16),
                "place",
                f"{finding.code}: {where.va}",
            )


def _axis(rows: Sequence[Row], marks: Sequence[Mark]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Borders of all pieces (and of the pages that marks name), and their places."""
    cuts = {border for row in rows for piece in row.pieces for border in (piece.start, piece.end)}
    for mark in marks:
        page = mark.va & ~0xFFF
        cuts.update((page, min(page + 0x1000, TOP)))
    borders = sorted(cuts)
    covered = _covered(rows, borders)
    widths = [
        _width(high - low, mapped)
        for low, high, mapped in zip(borders, borders[1:], covered, strict=False)
    ]
    scale = 1000 / (sum(widths) or 1)
    offsets = [0.0]
    for width in widths:
        offsets.append(offsets[-1] + width * scale)
    return tuple(borders), tuple(offsets)


def _width(size: int, mapped: bool) -> float:
    pages = max(1.0, size / 4096)
    if mapped:
        return 2 + log2(pages + 1)
    return 1 if pages <= 64 else 3


def _covered(rows: Sequence[Row], borders: Sequence[int]) -> list[bool]:
    """Whether any space maps something between each border and the next."""
    change = dict.fromkeys(borders, 0)
    for row in rows:
        for piece in row.pieces:
            change[piece.start] += 1
            change[piece.end] -= 1
    depth, covered = 0, []
    for border in borders[:-1]:
        depth += change[border]
        covered.append(depth > 0)
    return covered


def _bands(atlas: Atlas, maps: Object) -> Iterable[Band]:
    """What lies where: a name for each top slot, neighbours of one name together."""
    names: dict[int, str] = {}
    reach: dict[int, tuple[int, int]] = {}
    own = cast(Sequence[Sequence[Object]], maps["own"])
    for region in [*objects(maps["common"]), *(r for regions in own for r in regions)]:
        first = cast(Sequence[int], region["slots"])[0]
        name = str(region["holds"] or "kernel memory")
        if names.get(first) in (None, "kernel memory", "identity map"):
            names[first] = name
        low, high = int(str(region["start"]), 16), int(str(region["last"]), 16) + 1
        known = reach.get(first, (low, high))
        reach[first] = (min(low, known[0]), max(high, known[1]))
    for first, (low, high) in sorted(reach.items(), key=lambda item: item[1]):
        inside = [p for row in atlas.rows for p in row.pieces if p.start < high and p.end > low]
        if inside:
            start = max(low, min(p.start for p in inside))
            end = min(high, max(p.end for p in inside))
            yield Band(atlas.place(start), atlas.place(end), names[first], first)
