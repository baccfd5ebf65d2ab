"""The one ledger of a guest's break- and watchpoints: who wants which, and which are set.

Owners (the catching of faults, the user's points, each gdb at a bridge, the test bench) say what
they want; nothing of that is sent. `gdbstub.GdbStub` sends all changes in one write just before the
guest moves, and tells the ledger what the stub made of them (the shape is pyOCD's
``BreakpointManager.flush``). Two owners of the same place share one breakpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

_KINDS = {"software": 0, "hardware": 1, "write": 2, "read": 3, "access": 4}
CODE = ("hardware", "software")
"""Kinds that stop before an instruction; the others stop behind an access to data."""


class Break(NamedTuple):
    """A breakpoint (``software``, ``hardware``) or watchpoint (``write``, ``read``, ``access``)
    at a virtual address, `length` bytes long."""

    kind: str
    address: int
    length: int = 1

    def packet(self, *, insert: bool) -> bytes:
        """The Z or z packet (gdb manual, Packets)."""
        letter = "Z" if insert else "z"
        return f"{letter}{_KINDS[self.kind]},{self.address:x},{self.length:x}".encode()

    @property
    def is_code(self) -> bool:
        """Whether it stops before an instruction."""
        return self.kind in CODE

    def covers(self, address: int) -> bool:
        """Whether `address` is one of its bytes."""
        return self.address <= address < self.address + self.length


class Refused(NamedTuple):
    """An insertion that the stub answered with an error number."""

    one: Break
    number: int


class Ledger:
    """What is wanted, by owner, and what is in the guest (`inserted`)."""

    def __init__(self) -> None:
        self.inserted: set[Break] = set()
        self._owners: dict[Break, dict[str, None]] = {}
        self._settled = True

    # What is wanted ------------------------------------------------------------------------

    def want(self, owner: str, *breaks: Break) -> None:
        """`owner` wants these too, in this order: it counts where a CPU has only few."""
        for one in breaks:
            if one not in self._owners:
                self._owners[one] = {}
                self._settled = False
            self._owners[one][owner] = None

    def release(self, owner: str, *breaks: Break) -> None:
        """`owner` wants these no more; they stay for as long as another one does."""
        for one in breaks:
            owners = self._owners.get(one, {})
            if owner not in owners:
                continue
            del owners[owner]
            if not owners:
                del self._owners[one]
                self._settled = False

    def set_wanted(self, owner: str, breaks: Iterable[Break]) -> None:
        """`owner` wants these and no others."""
        wanted = dict.fromkeys(breaks)
        self.release(owner, *(one for one in self.of(owner) if one not in wanted))
        self.want(owner, *wanted)

    def of(self, owner: str) -> frozenset[Break]:
        """All that one owner wants."""
        return frozenset(one for one, owners in self._owners.items() if owner in owners)

    def owners(self, one: Break) -> tuple[str, ...]:
        """Who wants it, () when nobody does."""
        return tuple(self._owners.get(one, ()))

    def watching(self, address: int) -> list[Break]:
        """The watchpoints over an address."""
        return [one for one in self._owners if not one.is_code and one.covers(address)]

    def code_at(self, address: int) -> Break | None:
        """The breakpoint in the guest at an address."""
        for kind in CODE:
            one = Break(kind, address)
            if one in self.inserted:
                return one
        return None

    @contextmanager
    def nothing_wanted(self) -> Iterator[None]:
        """Nobody wants any meanwhile: the guest passes where they stand."""
        owners, self._owners, self._settled = self._owners, {}, False
        try:
            yield
        finally:
            self._owners, self._settled = owners, False

    # What is in the guest --------------------------------------------------------------------

    def changes(self) -> tuple[list[Break], list[Break]]:
        """(to take out, to put in) so that the guest has what is wanted."""
        if self._settled:
            return [], []
        gone = sorted(one for one in self.inserted if one not in self._owners)
        new = [one for one in self._owners if one not in self.inserted]
        self._settled = not gone and not new
        return gone, new

    def was_inserted(self, one: Break) -> None:
        """The stub has put it in."""
        self.inserted.add(one)
        self._settled = False

    def was_removed(self, one: Break) -> None:
        """The stub has taken it out, for good or for a step."""
        self.inserted.discard(one)
        self._settled = False
