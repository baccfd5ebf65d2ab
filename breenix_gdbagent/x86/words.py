"""How the state of a CPU is said in words, for whoever needs no more of it than that."""

from __future__ import annotations

VECTOR_NAMES = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF",
    10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC",
    19: "#XM", 20: "#VE", 21: "#CP",
}  # fmt: skip
"""Exception vectors by their mnemonics (SDM vol. 3, 6.3.1)."""

_PE, _PG = 1 << 0, 1 << 31


def privilege(cr0: int | None, cpl: int | None) -> str:
    """``ring 3``, ``real mode``, ``ring 0, paging off``; ``ring ?`` where CS is not known."""
    if cr0 is not None and not cr0 & _PE:
        return "real mode"
    ring = f"ring {'?' if cpl is None else cpl}"
    return ring if cr0 is None or cr0 & _PG else f"{ring}, paging off"
