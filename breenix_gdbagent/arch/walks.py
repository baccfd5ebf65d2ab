"""Walks through page tables, and what they permit: answers that any architecture can give."""

from __future__ import annotations

from typing import NamedTuple

from breenix_gdbagent.addresses import PhysAddr, VirtAddr

NON_CANONICAL = "non-canonical"
NOT_PRESENT = "not-present"
RESERVED_BITS = "reserved-bits"
UNREADABLE = "unreadable"


class Entry(NamedTuple):
    """One entry as it was read: of a table at `level` (1 is the last), found at `entry_pa`. Each
    architecture has a class of its own that says what the bits mean."""

    level: int
    entry_pa: PhysAddr
    raw: int

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the bits set, as the manual has them."""
        raise NotImplementedError

    @property
    def present(self) -> bool:
        """Whether the CPU looks at more of it than that."""
        raise NotImplementedError

    @property
    def leaf(self) -> bool:
        """Whether it maps a page (meant for a present entry)."""
        raise NotImplementedError

    @property
    def target(self) -> PhysAddr:
        """The table or page that a present entry names."""
        raise NotImplementedError


class Effective(NamedTuple):
    """What all levels together permit: writing, use by programs, and (`nx`) no execution."""

    w: bool
    u: bool
    nx: bool


class Walk(NamedTuple):
    """The way from `root` to where `va` is mapped, or to where the way ends.

    Mapped: `pa` (of the byte asked for), `size` (bytes of the page) and `effective` are set,
    `stopped_at` and `reason` None. Not mapped: the reverse; `reason` is ``non-canonical``
    (`stopped_at` None), ``not-present`` or ``reserved-bits`` (`stopped_at` the level of that entry,
    which is the last of `entries`) or ``unreadable`` (the level of the table that we do not have).
    """

    va: VirtAddr
    root: PhysAddr
    entries: tuple[Entry, ...]
    pa: PhysAddr | None
    size: int | None
    effective: Effective | None
    stopped_at: int | None
    reason: str | None

    @property
    def mapped(self) -> bool:
        return self.pa is not None

    @property
    def leaf(self) -> Entry | None:
        """The entry that maps the page, None where nothing does."""
        return self.entries[-1] if self.pa is not None else None
