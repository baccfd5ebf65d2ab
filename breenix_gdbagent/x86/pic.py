"""The two interrupt controllers of a PC, as far as it says which vectors their lines have.

Source: Intel 8259A data sheet; IBM AT: the slave is cascaded on line 2 of the master.
"""

from __future__ import annotations

from typing import NamedTuple

LINES = 8

WIRED = {
    0: "the timer (PIT)", 1: "the keyboard", 3: "COM2", 4: "COM1", 6: "the floppy", 7: "LPT1",
    8: "the clock (RTC)", 12: "the mouse", 14: "the first IDE channel",
    15: "the second IDE channel",
}  # fmt: skip


class Chip(NamedTuple):
    """One controller: the vector of its line 0, and bit masks of the lines that are asked for, off,
    and being served (no end of interrupt has been written yet)."""

    base: int
    requested: int
    masked: int
    in_service: int


class Pic(NamedTuple):
    """Master and slave."""

    master: Chip
    slave: Chip

    def irq_at(self, vector: int) -> int | None:
        """The line, 0 to 15, that comes at `vector`; None: none does."""
        for first, chip in ((0, self.master), (LINES, self.slave)):
            if chip.base <= vector < chip.base + LINES:
                return first + vector - chip.base
        return None

    def serves(self, irq: int) -> bool:
        """Whether that line is being served."""
        chip = self.master if irq < LINES else self.slave
        return bool(chip.in_service >> irq % LINES & 1)
