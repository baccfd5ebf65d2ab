"""Memory of one stop: reading it once the guest has run on raises an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import StopGone, Unreadable
from breenix_gdbagent.memory import PhysicalMemory, RamMap

MOVED_ON = "the guest has run since this stop"


class FrozenMemory:
    """A `PhysicalMemory` of `source` for as long as `epoch()` is what it was at the stop."""

    def __init__(self, source: PhysicalMemory, epoch: Callable[[], int]) -> None:
        self.ram: RamMap | None = source.ram
        self._source = source
        self._epoch = epoch
        self._at = epoch()

    @property
    def stale(self) -> bool:
        """Whether the guest has run since the stop."""
        return self._epoch() != self._at

    def _check(self, pa: int, length: int) -> None:
        if self.stale:
            raise StopGone(PhysAddr(pa), length, MOVED_ON)

    def read(self, pa: PhysAddr, length: int) -> bytes:
        """As the source; raises `StopGone` when the guest has moved on."""
        self._check(pa, length)
        return self._source.read(pa, length)

    def table(self, pa: PhysAddr) -> memoryview:
        """As the source; raises `StopGone` when the guest has moved on."""
        self._check(pa, 4096)
        return self._source.table(pa)

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """As the source; raises `StopGone` when the guest has moved on."""
        for pa, piece in self._source.filled():
            self._check(pa, len(piece))
            yield pa, piece


class NoMemory:
    """The memory of a guest that is gone."""

    ram: RamMap | None = None

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def read(self, pa: PhysAddr, length: int) -> bytes:
        """Raises `Unreadable`."""
        raise Unreadable(pa, length, self._reason)

    def table(self, pa: PhysAddr) -> memoryview:
        """Raises `Unreadable`."""
        raise Unreadable(pa, 4096, self._reason)

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        """Nothing."""
        return iter(())
