"""The source as a step sees it: rows of lines, and the calls that were inlined at an address.

As in gdb (gdb/inline-frame.c, skip_inline_frames): a guest that stands on the first instruction of
an inlined call is shown at the call, and a step goes into it without moving.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols import LoadedImage
from breenix_gdbagent.symbols.line_program import Row
from breenix_gdbagent.symbols.lines import LineTable
from breenix_gdbagent.symbols.spot import Spot


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """Where in the source a CPU stands. `frames` are the function and the inlined calls at `pc`,
    outermost first, `hidden` how many of the innermost begin just here and are not shown."""

    pc: int
    frames: tuple[int, ...]
    spots: tuple[Spot, ...]
    row: Row | None
    hidden: int

    @property
    def shown(self) -> tuple[int, ...]:
        """The frames without the hidden ones."""
        return self.frames[: len(self.frames) - self.hidden]

    @property
    def inlined(self) -> bool:
        """Whether the innermost frame shown is an inlined call."""
        return len(self.shown) > 1

    @property
    def line(self) -> tuple[str | None, int | None]:
        """(file, line) of the innermost frame shown."""
        if self.hidden:
            spot = self.spots[self.hidden]
            return spot.file, spot.line
        return (None, None) if self.row is None else (self.row.file, self.row.line)

    @property
    def function(self) -> str | None:
        """Its name, None where DWARF has no function."""
        return self.spots[self.hidden].function if self.hidden < len(self.spots) else None


class Source:
    """Lines and inlined calls of one loaded kernel, by virtual address."""

    def __init__(self, image: LoadedImage) -> None:
        self.image = image
        # A step comes by the same addresses again and again: a loop is stepped round by round.
        self._positions: dict[int, SourcePosition] = {}
        self._lines: LineTable | None = None
        if image.image.has_dwarf:
            try:
                self._lines = image.image.debug.lines
            except InputError:
                self._lines = None

    def row(self, pc: int) -> Row | None:
        """The row that holds `pc`, at virtual addresses; None where no line is known."""
        if self._lines is None or not self.image.holds(pc):
            return None
        try:
            found = self._lines.row_at(self.image.link(pc))
        except InputError:
            return None
        if found is None:
            return None
        start, end = self.image.va(found.start), self.image.va(found.end)
        return Row(start, end, found.file, found.line, found.statement)

    def extent(self, pc: int) -> tuple[int, int] | None:
        """[start, end) of the symbol that holds `pc`; None where there is none."""
        hit = self.image.symbol_at(pc)
        if hit is None:
            return None
        symbols = self.image.image.symbols
        end = hit.address + hit.size
        if not hit.size:
            end = symbols.next_start(hit.address) or symbols.section_end(hit.address)
        return self.image.va(hit.address), self.image.va(end)

    def is_entry(self, pc: int) -> bool:
        """Whether `pc` is in the assembly that an interrupt or a system call enters by."""
        if not self.image.holds(pc):
            return False
        try:
            return self.image.image.frames.is_signal_frame(self.image.link(pc))
        except InputError:
            return False

    def position(self, pc: int, hidden: int | None = None) -> SourcePosition:
        """Where `pc` is; `hidden` when a step has gone into calls that begin here."""
        position = self._positions.get(pc)
        if position is None:
            position = self._positions[pc] = self._position(pc)
        if hidden is None:
            return position
        return replace(position, hidden=min(hidden, position.hidden))

    def _position(self, pc: int) -> SourcePosition:
        if self._lines is None or not self.image.holds(pc):
            return SourcePosition(pc, (), (), None, 0)
        link = self.image.link(pc)
        try:
            frames = self._lines.frames_at(link)
            spots = self._lines.at(link)
        except InputError:
            return SourcePosition(pc, (), (), None, 0)
        return SourcePosition(pc, frames, spots, self.row(pc), self._beginning(link, frames))

    def _beginning(self, link: int, frames: tuple[int, ...]) -> int:
        """How many of the innermost inlined calls begin at `link`: at their entry, or coming from
        outside of them (gdb's block_starting_point_at)."""
        assert self._lines is not None
        before: tuple[int, ...] | None = None
        count = 0
        for frame in reversed(frames[1:]):
            if self._lines.entry_of(frame) != link:
                if before is None:
                    before = self._lines.frames_at(link - 1)
                if frame in before:
                    break
            count += 1
        return count

    def inside(self, pc: int, frame: int) -> bool:
        """Whether `pc` is in the code of a frame (see `LineTable.frames_at`), but not where that
        begins: it may be in the part of it that lies somewhere else."""
        if self._lines is None or frame not in self.position(pc).frames:
            return False
        return self._lines.entry_of(frame) != self.image.link(pc)

    def end_of_calls(self, position: SourcePosition) -> int | None:
        """Where the outermost call that begins at `position` ends, or its part there."""
        if self._lines is None or not position.hidden:
            return None
        link = self.image.link(position.pc)
        spans = self._lines.spans_of(position.frames[len(position.shown)])
        return next((self.image.va(high) for low, high in spans if low <= link < high), None)

    def body(self, pc: int) -> int | None:
        """Where the body of the function that begins at `pc` starts: behind the first row, as gdb
        skips a prologue of LLVM's (gdb/symtab.c, skip_prologue_using_sal). None: no lines."""
        first = self.row(pc)
        if first is None or self._lines is None:
            return None
        function = self._lines.function_at(self.image.link(pc))
        end = self.image.va(function.high) if function is not None else first.end
        if first.end >= end:
            return pc
        start = first.end
        row = self.row(start)
        # A prologue that ends in the middle of a row goes on to its end.
        if row is not None and row.start != start and row.end < end:
            return row.end
        return start
