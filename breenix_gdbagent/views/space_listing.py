"""One address space range by range, with what begins there; and what a root is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from breenix_gdbagent.arch.spaces import Gap, MappedSpace, Range
from breenix_gdbagent.kernel.spaces import find_spaces
from breenix_gdbagent.kernel.view import Kernel


@dataclass(frozen=True, slots=True)
class SpaceListing:
    """Some ranges of the space of `root`, in order of address; `symbols` names what begins at
    each of them, where that is known, and `gaps` are all where nothing could be told. `label` is
    what people call the space, None where nobody knows it."""

    root: int
    label: str | None
    levels: int
    ranges: tuple[Range, ...]
    symbols: tuple[str | None, ...]
    gaps: tuple[Gap, ...]


def space_listing(kernel: Kernel, space: MappedSpace, ranges: Sequence[Range]) -> SpaceListing:
    """`ranges` of `space`, named."""
    known = kernel.space_of(space.root)
    return SpaceListing(
        space.root,
        None if known is None else known.label,
        kernel.levels,
        tuple(ranges),
        tuple(kernel.symbol(one.start) for one in ranges),
        space.gaps,
    )


def root_label(kernel: Kernel, root: int, *, typed: bool = True) -> str | None:
    """What the space of `root` is called: by the kernel's process table, or (not `typed`) by what
    needs no DWARF, serial text and CR3. None where nobody names it."""
    named = (
        kernel.named_spaces
        if typed
        else find_spaces(
            kernel.tables, kernel.stop.cpus, kernel.percpus, {}, kernel.log, listed=None
        )
    )
    return next((s.label for s in named if s.root == root), None)
