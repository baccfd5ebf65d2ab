"""One place in the source, as a line table names it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spot:
    """One place in the source: `function` as people write it, `raw` its linkage name.

    `line` None: the compiler gave none. `inlined`: the code was put into the next spot's function.
    """

    function: str
    raw: str
    file: str | None
    line: int | None
    inlined: bool

    def __str__(self) -> str:
        return f"{self.function} at {self.file or '??'}:{self.line or '?'}"
