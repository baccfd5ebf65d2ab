"""Top-level tables compared with a model table, 512 entries as one number."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from breenix_gdbagent.x86.paging import ADDRESS, P, U, W, present

_COMPARED = ADDRESS | P | W | U
"""Bits of an entry that tell whether two spaces share it; A and D are the CPU's business."""
_TABLE = 4096


class TopTable:
    """The entries of the model, and which of its slots count."""

    __slots__ = ("_mask", "_model", "_own", "model", "slots")

    def __init__(self, model: Sequence[int], slots: Iterable[int]) -> None:
        self.model = tuple(model)
        self.slots = tuple(sorted(slots))
        counts = [False] * len(self.model)
        for slot in self.slots:
            counts[slot] = True
        self._model = _one_number(self.model)
        self._mask = _one_number([_COMPARED if one else 0 for one in counts])
        self._own = _one_number([0 if one else P for one in counts])

    def differing(self, table: memoryview) -> list[int]:
        """Slots that count in which a top table names another table, or with other rights (P, W,
        U)."""
        raw = int.from_bytes(table.tobytes(), "little")
        other = (raw ^ self._model) & self._mask
        return _slots_set(other) if other else []

    def own(self, table: memoryview) -> list[int]:
        """Slots present in a top table that do not count."""
        return _slots_set(int.from_bytes(table.tobytes(), "little") & self._own)

    def elsewhere(self, table: memoryview) -> list[int]:
        """Slots that count in which a top table names another table than the model."""
        return [
            slot
            for slot in self.differing(table)
            if present(table[slot]) and (table[slot] ^ self.model[slot]) & ADDRESS
        ]


def _one_number(entries: Sequence[int]) -> int:
    return int.from_bytes(struct.pack(f"<{len(entries)}Q", *entries), "little")


def _slots_set(bits: int) -> list[int]:
    """Slots of which any bit is set, of 512 entries in one number."""
    found = []
    data = bits.to_bytes(_TABLE, "little")
    rest = data.lstrip(b"\0")
    while rest:
        slot = (_TABLE - len(rest)) // 8
        found.append(slot)
        rest = rest[8 * (slot + 1) - (_TABLE - len(rest)) :].lstrip(b"\0")
    return found
