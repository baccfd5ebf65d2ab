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

    @property
    def index(self) -> int | None:  # type: ignore[override]  # hides the search of a tuple
        """Which entry of its table it is; None where it takes the address to tell."""
        return None


class Effective(NamedTuple):
    """What all levels together permit: writing, use by programs, and (`nx`) no execution. `el0`
    and `el1` (``r-x``) say it of each level of privilege, where they have rights of their own."""

    w: bool
    u: bool
    nx: bool
    el0: str = ""
    el1: str = ""


class Walk(NamedTuple):
    """The way from `root` to where `va` is mapped, or to where the way ends.

    Mapped: `pa` (of the byte asked for), `size` (bytes of the page) and `effective` are set,
    `stopped_at` and `reason` None. Not mapped: the reverse; `reason` is ``non-canonical``
    (`stopped_at` None), ``not-present`` or ``reserved-bits`` (`stopped_at` the level of that entry,
    which is the last of `entries`) or ``unreadable`` (the level of the table that we do not have).
    `format` names that of the tables, "" for x86-64's.
    """

    va: VirtAddr
    root: PhysAddr
    entries: tuple[Entry, ...]
    pa: PhysAddr | None
    size: int | None
    effective: Effective | None
    stopped_at: int | None
    reason: str | None
    format: str = ""

    def __repr__(self) -> str:
        if self.pa is None or self.size is None or self.effective is None:
            level = "" if self.stopped_at is None else f" at level {self.stopped_at}"
            return f"<Walk of {self.va:#x} under {self.root:#x}: {self.reason}{level}>"
        w, u, nx = self.effective[:3]
        rights = f"r{'w' if w else '-'}{'-' if nx else 'x'}{'u' if u else 's'}"
        return (
            f"<Walk of {self.va:#x} under {self.root:#x}: {self.pa:#x}, "
            f"page of {self.size:#x} bytes, {rights}>"
        )

    def _repr_html_(self) -> str:
        """Its entries as a table, the outcome below."""
        rows = "".join(
            f"<tr><td>level {one.level}</td><td><code>{one.entry_pa:#x}</code></td>"
            f"<td><code>{one.raw:#x}</code></td><td>{' '.join(one.flags)}</td></tr>"
            for one in self.entries
        )
        return f"<table>{rows}</table><p><code>{repr(self)[1:-1]}</code></p>"

    @property
    def mapped(self) -> bool:
        return self.pa is not None

    @property
    def leaf(self) -> Entry | None:
        """The entry that maps the page, None where nothing does."""
        return self.entries[-1] if self.pa is not None else None
