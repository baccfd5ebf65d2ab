"""Tables of VMSAv8-64 written into memory, of any granule; and CPUs that use them."""

from __future__ import annotations

import struct

from breenix_gdbagent.aarch64.architecture import AARCH64
from breenix_gdbagent.aarch64.paging import AF, TABLE, VALID
from breenix_gdbagent.aarch64.translation import LAST, Half, Translation
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.tables import Tables
from tests.writers.memory import FrameMemory

TG0, TG1 = {12: 0, 14: 2, 16: 1}, {12: 2, 14: 1, 16: 3}
PAGE = VALID | TABLE | AF
BLOCK = VALID | AF


def cpu(
    granule: int = 12, bits: int = 48, *, physical: int = 5, tcr: int = 0, sctlr: int = 0,
    ttbr0: int = 0, ttbr1: int = 0, cpsr: int = 5,
) -> Cpu:  # fmt: skip
    """A CPU at EL1h (or as `cpsr` says) with its MMU on."""
    size = 64 - bits
    value = size | size << 16 | TG0[granule] << 14 | TG1[granule] << 30 | physical << 32 | tcr
    registers = {
        "tcr_el1": value, "sctlr_el1": sctlr | 1, "ttbr0_el1": ttbr0, "ttbr1_el1": ttbr1,
        "cpsr": cpsr, "id_aa64mmfr0_el1": 6, "pc": 0x1000, "sp": 0x2000,
    }  # fmt: skip
    return Cpu(0, registers, arch_name=AARCH64.name)


class Writer:
    """Lays tables out in frames from 1 MiB on, each as large as its level asks."""

    def __init__(self, mode: Translation) -> None:
        self.mode = mode
        self.frames: dict[int, bytearray] = {}
        self._next = 1 << 20

    def table(self, half: Half) -> int:
        """A new table, all clear."""
        size = 1 << half.granule
        at = self._next
        self._next += size
        for frame in range(at, at + size, 4096):
            self.frames[frame] = bytearray(4096)
        return at

    def put(self, at: int, raw: int) -> None:
        """Set the entry at a physical address."""
        struct.pack_into("<Q", self.frames[at & ~0xFFF], at & 0xFFF, raw)

    def get(self, at: int) -> int:
        """The entry there."""
        return int(struct.unpack_from("<Q", self.frames[at & ~0xFFF], at & 0xFFF)[0])

    def map(self, root: int, va: int, raw: int, *, level: int = LAST, above: int = 0) -> int:
        """Have `va` lead to the entry `raw` of a table of `level`; `above` are bits of the tables'
        entries on the way. The entry's place."""
        half = self.mode.half_of(va)
        base, here = root, half.start
        while here < level:
            at = base + half.index_of(va, here) * 8
            if not self.get(at):
                self.put(at, self.table(half) | VALID | TABLE | above)
            base = self.get(at) & (1 << 48) - (1 << half.granule)
            here += 1
        at = base + half.index_of(va, level) * 8
        self.put(at, raw)
        return at

    @property
    def tables(self) -> Tables:
        """All of it, to read."""
        return Tables(FrameMemory({at: bytes(data) for at, data in self.frames.items()}))
