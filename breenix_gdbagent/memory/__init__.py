"""Physical memory of a stopped guest: one protocol, whatever it is read through."""

from __future__ import annotations

from breenix_gdbagent.memory.interface import PhysicalMemory, RamMap, RamRange

__all__ = ["PhysicalMemory", "RamMap", "RamRange"]
