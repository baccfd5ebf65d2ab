"""Where a CPU goes for its exceptions, if that is a table of code at the address in a register."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

Read = Callable[[int, int], bytes | None]
"""(address, length) -> memory as the guest sees it, None where it is not mapped."""


class VectorTable(ABC):
    """What catching faults needs to know of such a table. `register` holds its base."""

    register: str

    @abstractmethod
    def sites(self, code: bytes) -> Iterator[int]:
        """Offsets, in an executable segment, of the instructions that set `register`."""

    @abstractmethod
    def places(self, base: int, read: Read) -> Mapping[int, tuple[int, ...]]:
        """Address -> the vectors of faults that come by it, of the table at `base`: their first
        instruction, or one further on behind which nothing but faults come."""

    @abstractmethod
    def fault_at(self, registers: Mapping[str, int], vectors: tuple[int, ...]) -> int | None:
        """The vector of the fault for which a CPU has come to a place of those `vectors`; None
        where it is there for something that is none, as a system call."""
