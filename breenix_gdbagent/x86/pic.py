"""The two interrupt controllers of a PC, as far as it says which vectors their lines have.

Source: Intel 8259A data sheet; IBM AT: the slave is cascaded on line 2 of the master.
"""

from __future__ import annotations

from typing import NamedTuple

LINES, CASCADE = 8, 2

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

    @property
    def served(self) -> int | None:
        """The vector of the line being served, None where that is none or more than one. The
        slave's line is served through line 2 of the master."""
        lines = [irq for irq in range(2 * LINES) if irq != CASCADE and self.serves(irq)]
        if len(lines) != 1:
            return None
        return self.vector_of(lines[0])

    def vector_of(self, irq: int) -> int:
        """The vector at which a line comes."""
        chip = self.master if irq < LINES else self.slave
        return chip.base + irq % LINES

    @property
    def waiting(self) -> int | None:
        """The first line that is being served and asks for it again, unmasked: it waits for the end
        of its own interrupt."""
        for irq in range(2 * LINES):
            chip = self.master if irq < LINES else self.slave
            asks = chip.requested & ~chip.masked & chip.in_service
            if irq != CASCADE and asks >> irq % LINES & 1:
                return irq
        return None

    def serves(self, irq: int) -> bool:
        """Whether that line is being served."""
        chip = self.master if irq < LINES else self.slave
        return bool(chip.in_service >> irq % LINES & 1)
