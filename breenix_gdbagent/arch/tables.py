"""The page-table frames of one stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import Unreadable

if TYPE_CHECKING:
    from breenix_gdbagent.memory import PhysicalMemory

_FRAME = 0x000F_FFFF_FFFF_F000


class Tables:
    """The page-table frames of one stop, each fetched once.

    Holds whatever was read for as long as it lives: make one for each stop.
    """

    __slots__ = ("_frames", "_missing", "memory")

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self._frames: dict[int, memoryview] = {}
        self._missing: dict[int, Unreadable] = {}

    def table(self, pa: int) -> memoryview:
        """The 512 entries of the table in the frame at `pa` (format "Q"), low 12 bits ignored.

        Raises `Unreadable`, each time anew for the same frame.
        """
        frame = pa & _FRAME
        known = self._frames.get(frame)
        if known is not None:
            return known
        missing = self._missing.get(frame)
        if missing is None:
            try:
                known = self._frames[frame] = self.memory.table(PhysAddr(frame))
                return known
            except Unreadable as reason:
                missing = self._missing[frame] = reason.with_traceback(None)
        raise Unreadable(missing.pa, missing.length, missing.reason)
