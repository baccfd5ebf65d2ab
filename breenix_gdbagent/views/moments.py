"""Moments of a recording as values: an instruction with all that is known of it, and what it did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.symbols.spot import Spot
from breenix_gdbagent.views.call_trace import CallTrace

_LIBRARY = re.compile(r"/rustc/|/library/(?:core|alloc|std)/|/registry/src/|/git/checkouts/")
"""Source files that are not the kernel's own: of Rust's libraries, as compilers name them, and of
crates, where cargo puts them."""

Status = Literal["found", "always", "never", "end-only"]


@dataclass(frozen=True, slots=True)
class Place:
    """An instruction that is about to run: what it is, whose, and who called it. `process` and
    `thread` are None where the kernel does not say."""

    icount: int
    seconds: float
    rip: int | None
    symbol: str | None
    trace: CallTrace
    process: str | None
    thread: str | None
    text: str

    @property
    def spot(self) -> Spot | None:
        """The innermost line of the kernel's own source, in this function or in who called it, else
        the innermost one there is."""
        own = (
            spot for chain in self.trace.spots for spot in chain
            if spot.file and not _LIBRARY.search(spot.file)
        )  # fmt: skip
        return next(own, next((s for chain in self.trace.spots[:1] for s in chain), None))

    @property
    def function(self) -> str | None:
        """The function of that line, inlined or not; without lines the one at RIP."""
        if self.spot is not None:
            return self.spot.function
        frame = next(iter(self.trace.trace.frames), None)
        return None if frame is None or frame.symbol is None else frame.symbol.name

    @property
    def line(self) -> tuple[str | None, int | None]:
        """File and number of that line."""
        return (None, None) if self.spot is None else (self.spot.file, self.spot.line)

    @property
    def names(self) -> tuple[str, ...]:
        """The functions from the innermost out, those that were inlined among them."""
        out: list[str] = []
        for frame, chain in zip(self.trace.trace.frames, self.trace.spots, strict=True):
            if chain:
                out += [spot.function for spot in chain]
            else:
                out.append(frame.name if frame.ring == 0 else f"ring {frame.ring}")
        return tuple(out)


@dataclass(frozen=True, slots=True)
class Change:
    """A word of physical memory that the instruction changed."""

    pa: PhysAddr
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Origin:
    """When a finding first held. `place` is the instruction after which it holds (for ``end-only``
    the one at which the run ended, for ``never`` None). `untold_from` is the last moment at which
    it was known not to hold, where between that and `place` it could not be told; `episodes` are
    moments before at which it held and after which it was gone again."""

    code: str
    subject: str | None
    status: Status
    place: Place | None = None
    change: Change | None = None
    finding: Finding | None = None
    probes: int = 0
    checked_before: int = 0
    untold_from: int | None = None
    episodes: tuple[int, ...] = ()


WriteKind = Literal["store", "walker", "dma", "push"]
"""Who wrote: an instruction, the page walker (accessed and dirty bits), a device, or the CPU as it
delivered an exception or interrupt."""


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a word: the instruction that was about to run, the virtual address it was made
    by (None where no instruction made it), how many bytes at once, and the word before and after.
    """

    kind: WriteKind
    place: Place
    pa: PhysAddr
    va: int | None
    size: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Writers:
    """Every write of a physical range, oldest first. `how`: by a plugin, or by seeks alone;
    `lacking` says why it may not be every one, and `complete` that it is."""

    pa: PhysAddr
    length: int
    how: Literal["plugin", "seek"]
    complete: bool
    lacking: tuple[str, ...]
    writes: tuple[Write, ...]
