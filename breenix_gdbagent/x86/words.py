"""The state of a CPU in words: ring, real mode, paging off."""

from __future__ import annotations

_PE, _PG = 1 << 0, 1 << 31


def privilege(cr0: int | None, cpl: int | None) -> str:
    """``ring 3``, ``real mode``, ``ring 0, paging off``; ``ring ?`` where CS is not known."""
    if cr0 is not None and not cr0 & _PE:
        return "real mode"
    ring = f"ring {'?' if cpl is None else cpl}"
    return ring if cr0 is None or cr0 & _PG else f"{ring}, paging off"
