"""Translation tables of VMSAv8-64 as the CPU walks them: tables of 4, 16 and 64 KiB, levels to 3.

The shape is data (`translation.Half`), and one loop serves every granule and width (Arm ARM, D8.2
and D8.3). Levels are numbered as the manual does: 3 is the last. A walk answers where an address
leads and what all levels together permit; what a CPU would report is the business of `verdict`.
"""

from __future__ import annotations

from typing import NamedTuple

from breenix_gdbagent.aarch64.translation import LAST, Half, Translation
from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch import walks
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.walks import (
    NON_CANONICAL,
    NOT_PRESENT,
    RESERVED_BITS,
    UNREADABLE,
    Effective,
    Walk,
)
from breenix_gdbagent.errors import NotMapped, Unreadable

FORMAT = "VMSAv8-64"
VALID = 1 << 0
TABLE = 1 << 1
"""A table above the last level, a page at the last."""
EL0 = 1 << 6
READ_ONLY = 1 << 7
AF = 1 << 10
NG = 1 << 11
GP = 1 << 50
DBM = 1 << 51
CONTIGUOUS = 1 << 52
PXN = 1 << 53
UXN = 1 << 54
PXN_TABLE = 1 << 59
UXN_TABLE = 1 << 60
NO_EL0_TABLE = 1 << 61
READ_ONLY_TABLE = 1 << 62
NS_TABLE = 1 << 63
RIGHTS = EL0 | READ_ONLY | PXN | UXN | DBM
"""Bits of a leaf that say who may do what."""
TABLE_RIGHTS = PXN_TABLE | UXN_TABLE | NO_EL0_TABLE | READ_ONLY_TABLE

_LEAF_NAMES = (
    (EL0, "EL0"), (READ_ONLY, "RO"), (AF, "AF"), (NG, "nG"), (GP, "GP"), (DBM, "DBM"),
    (CONTIGUOUS, "Contiguous"), (PXN, "PXN"), (UXN, "UXN"),
)  # fmt: skip
_TABLE_NAMES = (
    (PXN_TABLE, "PXNTable"), (UXN_TABLE, "UXNTable"), (NO_EL0_TABLE, "APTable[0]"),
    (READ_ONLY_TABLE, "APTable[1]"), (NS_TABLE, "NSTable"),
)  # fmt: skip
_SHAREABLE = {2: "SH=outer", 3: "SH=inner"}


class Shape(NamedTuple):
    """What of a half's settings entries are read by."""

    granule: int
    output_bits: int
    ds: bool

    @classmethod
    def of(cls, half: Half) -> Shape:
        """That of one half."""
        return cls(half.granule, half.output_bits, half.ds)

    def address(self, raw: int) -> int:
        """The output address of an entry, the bits below a granule clear (D8.3.1)."""
        if self.ds:
            return raw & (1 << 50) - (1 << self.granule) | (raw >> 8 & 3) << 50
        low = raw & (1 << 48) - (1 << self.granule)
        return low | (raw >> 12 & 0xF) << 48 if self.output_bits > 48 else low


PLAIN = Shape(12, 48, False)


class Entry(walks.Entry):
    """An entry by the bits of VMSAv8-64 (D8.3.1, D8.3.2), of tables of 4 KiB."""

    __slots__ = ()
    shape: Shape = PLAIN

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the bits set, as the manual has them; ``AttrIndx=n``, and of a table those that
        take rights away from all below it."""
        if not self.raw & VALID:
            return ()
        if not self.leaf:
            return ("valid", "table", *(n for bit, n in _TABLE_NAMES if self.raw & bit))
        share = () if self.shape.ds else (_SHAREABLE.get(self.raw >> 8 & 3, ""),)
        kind = "page" if self.level == LAST else "block"
        names = (n for bit, n in _LEAF_NAMES if self.raw & bit)
        found = ("valid", kind, f"AttrIndx={self.raw >> 2 & 7}", *names, *share)
        return tuple(name for name in found if name)

    @property
    def present(self) -> bool:
        return bool(self.raw & VALID)

    @property
    def leaf(self) -> bool:
        """Whether it maps a page or a block (meant for a valid entry)."""
        return self.level == LAST or not self.raw & TABLE

    @property
    def index(self) -> int:  # type: ignore[override]
        """Which entry of its table it is, by its place in a granule."""
        return (self.entry_pa & (1 << self.shape.granule) - 1) >> 3

    @property
    def target(self) -> PhysAddr:
        """The table, block or page that a valid entry names."""
        address = self.shape.address(self.raw)
        if self.leaf:
            below = (self.shape.granule - 3) * (LAST - self.level)
            address &= -(1 << self.shape.granule + below)
        return PhysAddr(address)


_CLASSES: dict[Shape, type[Entry]] = {PLAIN: Entry}


def entry_class(shape: Shape) -> type[Entry]:
    """`Entry` for one shape of tables."""
    found = _CLASSES.get(shape)
    if found is None:
        found = _CLASSES[shape] = type("Entry", (Entry,), {"__slots__": (), "shape": shape})
    return found


class Rights(NamedTuple):
    """What all levels together permit at EL0 and at EL1, DBM counted as writable where the CPU
    keeps the dirty state. EL1 may read whatever is mapped, but for PAN."""

    el0_read: bool
    el0_write: bool
    el0_execute: bool
    el1_write: bool
    el1_execute: bool

    @property
    def el0(self) -> str:
        """``r-x``."""
        return _rwx(self.el0_read, self.el0_write, self.el0_execute)

    @property
    def el1(self) -> str:
        """``rw-``."""
        return _rwx(True, self.el1_write, self.el1_execute)

    @property
    def effective(self) -> Effective:
        """In the words of every architecture: `nx` where neither level may execute."""
        never = not (self.el0_execute or self.el1_execute)
        return Effective(self.el1_write, self.el0_read, never, self.el0, self.el1)


def _rwx(read: bool, write: bool, execute: bool) -> str:
    return f"{'r' if read else '-'}{'w' if write else '-'}{'x' if execute else '-'}"


def rights_of(leaf: int, tables: int, *, dirty: bool = False, wxn: bool = False) -> Rights:
    """Of a leaf and of the OR of the tables' entries above it (D8.4, tables D8-38 and D8-47)."""
    writes = not leaf & READ_ONLY or bool(dirty and leaf & DBM)
    el1_write = writes and not tables & READ_ONLY_TABLE
    el0_read = bool(leaf & EL0) and not tables & NO_EL0_TABLE
    el0_write = el0_read and el1_write
    el0_execute = not (leaf & UXN or tables & UXN_TABLE) and not (wxn and el0_write)
    # What EL0 may write EL1 never executes.
    el1_execute = not (leaf & PXN or tables & PXN_TABLE or el0_write or (wxn and el1_write))
    return Rights(el0_read, el0_write, el0_execute, el1_write, el1_execute)


def rights(walk: Walk, mode: Translation) -> Rights:
    """Of a walk that ends at a page. Raises `IndexError` for one that read no entry."""
    half = mode.half_of(walk.va)
    above = 0
    for entry in walk.entries[:-1]:
        above |= entry.raw
    return rights_of(
        walk.entries[-1].raw,
        0 if half.flat else above & TABLE_RIGHTS,
        dirty=mode.hardware_dirty,
        wxn=mode.wxn,
    )


def root_for(va: int, root: int, mode: Translation) -> PhysAddr:
    """The top table of `va` in the space whose lower half `root` is: the kernel's own is the same
    in all of them."""
    return mode.kernel_root if va >> 55 & 1 else mode.low.aligned(root)


def malformed(half: Half, level: int, raw: int) -> bool:
    """Whether a valid entry is none: a block where none may be (at the last level too), or an
    address that is wider than the CPU's (D8.2.4, D8.3.1)."""
    if not raw & TABLE and (level == LAST or not half.block_allowed(level)):
        return True
    return bool(Shape.of(half).address(raw) >> half.output_bits)


def entry_of(tables: Tables, base: int, index: int) -> tuple[PhysAddr, int]:
    """Where entry `index` of the table at `base` is, and its value. Raises `Unreadable`."""
    at = base + index * 8
    return PhysAddr(at), tables.table(at)[(at & 0xFFF) >> 3]


def walk(tables: Tables, root: int, va: int, mode: Translation) -> Walk:
    """Translates `va`: under the table at `root` (TTBR0) or, of the upper half, TTBR1's.

    Reads one entry a level; a table that we do not have ends the walk, nothing raises.
    """
    half = mode.half_of(va)
    base = root_for(va, root, mode)
    start, address = base, VirtAddr(va)

    def ended(level: int | None, reason: str) -> Walk:
        return Walk(address, start, tuple(entries), None, None, None, level, reason, FORMAT)

    entries: list[Entry] = []
    if not half.valid or not half.holds(va):
        return ended(None, NON_CANONICAL)
    if half.disabled:
        return ended(half.start, NOT_PRESENT)
    shape = Shape.of(half)
    make = entry_class(shape)
    level = half.start
    while True:
        try:
            at, raw = entry_of(tables, base, half.index_of(va, level))
        except Unreadable:
            return ended(level, UNREADABLE)
        entries.append(make(level, at, raw))
        if not raw & VALID:
            return ended(level, NOT_PRESENT)
        if malformed(half, level, raw):
            return ended(level, RESERVED_BITS)
        base = PhysAddr(shape.address(raw))
        if level == LAST or not raw & TABLE:
            break
        level += 1
    size = 1 << half.shift(level)
    pa = PhysAddr(base & -size | va & size - 1)
    found = Walk(address, start, tuple(entries), pa, size, None, None, None, FORMAT)
    return found._replace(effective=rights(found, mode).effective)


class VirtualMemory:
    """One address space as a reader sees it; belongs to one stop, as `Tables` does."""

    __slots__ = ("_pages", "mode", "root", "tables")

    def __init__(self, tables: Tables, root: int, mode: Translation) -> None:
        self.tables = tables
        self.root = PhysAddr(root)
        self.mode = mode
        self._pages: dict[int, PhysAddr] = {}

    def translate(self, va: int) -> PhysAddr:
        """The physical address of `va`. Raises `NotMapped`, or `Unreadable` for a table."""
        page = va >> 12
        frame = self._pages.get(page)
        if frame is None:
            found = walk(self.tables, self.root, va, self.mode)
            if found.reason == UNREADABLE:
                base = found.entries[-1].target if found.entries else found.root
                self.tables.table(base)  # says why
            if found.pa is None:
                raise NotMapped(
                    VirtAddr(va), found.root, found.stopped_at, found.reason or NOT_PRESENT
                )
            frame = self._pages[page] = PhysAddr(found.pa & ~0xFFF)
        return PhysAddr(frame | va & 0xFFF)

    def read(self, va: int, length: int) -> bytes:
        """`length` bytes at `va`, all or nothing, permissions not looked at. Raises as
        `translate`, and `Unreadable` for memory that we do not have."""
        pieces = []
        while length > 0:
            step = min(length, 0x1000 - (va & 0xFFF))
            pieces.append(self.tables.memory.read(self.translate(va), step))
            va = va + step & 0xFFFF_FFFF_FFFF_FFFF
            length -= step
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def u64(self, va: int) -> int:
        """The little-endian 8 bytes at `va`. Raises as `read`."""
        return int.from_bytes(self.read(va, 8), "little")

    def u32(self, va: int) -> int:
        """The little-endian 4 bytes at `va`. Raises as `read`."""
        return int.from_bytes(self.read(va, 4), "little")
