"""Page tables of x86-64 as the CPU walks them: 4 or 5 levels, pages of 4 KiB, 2 MiB and 1 GiB.

The levels are data (`levels_of`), and one loop serves every mode (SDM vol. 3, 4.5). A walk answers
where an address leads and what all levels together permit; what the CPU would *push* as an error
code also depends on the mode and is the business of `x86.verdict`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr, canonical, sign_extended
from breenix_gdbagent.arch import walks
from breenix_gdbagent.arch.tables import Tables as Tables
from breenix_gdbagent.arch.walks import NON_CANONICAL as NON_CANONICAL
from breenix_gdbagent.arch.walks import NOT_PRESENT as NOT_PRESENT
from breenix_gdbagent.arch.walks import RESERVED_BITS as RESERVED_BITS
from breenix_gdbagent.arch.walks import UNREADABLE as UNREADABLE
from breenix_gdbagent.arch.walks import Effective as Effective
from breenix_gdbagent.arch.walks import Walk as Walk
from breenix_gdbagent.errors import NotMapped, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


P = 1 << 0
W = 1 << 1
U = 1 << 2
PWT = 1 << 3
PCD = 1 << 4
A = 1 << 5
D = 1 << 6
PS = 1 << 7
G = 1 << 8
NX = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
"""Bits 51:12 of an entry: the widest physical address there can be (SDM 4.1.4)."""



class Level(NamedTuple):
    """One level of tables. `number` 1 is the page table, 4 the PML4, 5 the PML5 (SDM table 4-2).

    An entry covers ``1 << shift`` bytes. It is a leaf at level 1, and with PS set where
    `large_page`; then `reserved` are the address bits that must be clear. Where PS is reserved
    (levels 4 and 5) it is in `reserved_always`.
    """

    number: int
    name: str
    shift: int
    large_page: bool
    reserved: int
    reserved_always: int


LEVEL = {
    1: Level(1, "PT", 12, False, 0, 0),
    # Bit 12 of a large leaf is PAT (SDM tables 4-16 and 4-18); the rest below its size is reserved.
    2: Level(2, "PD", 21, True, (1 << 21) - (1 << 13), 0),
    3: Level(3, "PDPT", 30, True, (1 << 30) - (1 << 13), 0),
    4: Level(4, "PML4", 39, False, 0, PS),
    5: Level(5, "PML5", 48, False, 0, PS),
}
_FROM_TOP = {top: tuple(LEVEL[n] for n in range(top, 0, -1)) for top in (4, 5)}

_NAMES = (
    (P, "P"),
    (W, "W"),
    (U, "U"),
    (PWT, "PWT"),
    (PCD, "PCD"),
    (A, "A"),
    (D, "D"),
    (G, "G"),
)
_AVAILABLE = (*range(9, 12), *range(52, 59))


SHAPE = ADDRESS | P | W | U | NX
"""Bits of an entry that decide what lies below it; A and D are the CPU's business."""


def present(raw: int) -> bool:
    """Whether the CPU looks at more of an entry than its lowest bit."""
    return bool(raw & P)


def frame_of(raw: int) -> PhysAddr:
    """The frame that an entry names (of a large page: with its PAT bit, see `leaf_base`)."""
    return PhysAddr(raw & ADDRESS)


def table_named(level: int, raw: int) -> PhysAddr | None:
    """The table that an entry of a table of `level` names, None for a page and for nothing."""
    return PhysAddr(raw & ADDRESS) if raw & P and level > 1 and not raw & PS else None


def same_table(one: int, other: int) -> bool:
    """Whether two entries are present and name one frame."""
    return bool(one & other & P) and not (one ^ other) & ADDRESS


def same_target(one: int, other: int) -> bool:
    """Whether two entries name one frame, or are both not present with the same number in it."""
    return not (one ^ other) & (P | ADDRESS)


def tables_in_common(one: Sequence[int], model: Sequence[int]) -> tuple[int, int]:
    """Of equally many entries: how many of `model` are present, and how many of those name the same
    frame as the entry of `one` at the same index, present there too (`same_table`)."""
    found = [(mine, its) for mine, its in zip(one, model, strict=True) if its & P]
    return len(found), sum([bool(mine & P) and not (mine ^ its) & ADDRESS for mine, its in found])


def indexes_present(entries: Iterable[int]) -> list[int]:
    """Indexes of the entries of a table that the CPU looks at (`present`)."""
    return [index for index, raw in enumerate(entries) if raw & P]


def indexes_naming(frame: int, entries: Iterable[int]) -> list[int]:
    """Indexes of the present entries of a table that name a frame."""
    return [index for index, raw in enumerate(entries) if raw & P and not (raw ^ frame) & ADDRESS]


def indexes_by_frame(entries: Iterable[int]) -> dict[PhysAddr, list[int]]:
    """Frame -> indexes of the present entries of a table that name it, in their order."""
    found: dict[PhysAddr, list[int]] = {}
    for index, raw in enumerate(entries):
        if raw & P:
            found.setdefault(PhysAddr(raw & ADDRESS), []).append(index)
    return found


def slots_of(addresses: Iterable[int], levels: int = 4) -> list[int]:
    """Which entry of the top table translates each address."""
    shift = LEVEL[levels].shift
    return [va >> shift & 0x1FF for va in addresses]


def index_at(va: int, level: int) -> int:
    """Which entry of a table of `level` translates `va`."""
    return va >> LEVEL[level].shift & 0x1FF


def span(level: int) -> int:
    """How many bytes one entry of a table of `level` serves."""
    return 1 << LEVEL[level].shift


def entry_index(entry_pa: int) -> int:
    """Which entry of its table lies at a physical address."""
    return (entry_pa & 0xFFF) >> 3


def slot_start(slot: int, levels: int = 4) -> VirtAddr:
    """The first address that entry `slot` of the top table serves."""
    return sign_extended(slot << LEVEL[levels].shift, levels)


def slot_starts(slots: Iterable[int], levels: int = 4) -> list[VirtAddr]:
    """`slot_start` of each."""
    shift = LEVEL[levels].shift
    upper = -(1 << shift + 9) & 0xFFFF_FFFF_FFFF_FFFF
    return [VirtAddr(slot << shift | (upper if slot & 0x100 else 0)) for slot in slots]


def end_of_low_half(levels: int = 4) -> int:
    """The first address behind the canonical ones of the lower half."""
    return 1 << LEVEL[levels].shift + 8


def levels_of(levels: int) -> tuple[Level, ...]:
    """The levels that a walk visits, from the top: of 4- or 5-level paging."""
    return _FROM_TOP[levels]


def is_leaf(level: int, raw: int) -> bool:
    """Whether a present entry maps a page: at level 1, or a large page (PS at level 2 or 3)."""
    return level == 1 or bool(raw & PS and level <= 3)


def leaf_base(level: int, raw: int) -> PhysAddr:
    """The physical address of the page that a leaf entry maps (SDM 4.5.4)."""
    return PhysAddr(raw & ADDRESS & -(1 << LEVEL[level].shift))


def entry_flags(level: int, raw: int) -> tuple[str, ...]:
    """Names of the bits set in an entry (SDM tables 4-15 to 4-20), in the order of the bits.

    ``PS`` at level 2 and above, ``PAT`` on leaves, ``PKEY<n>`` on leaves with a key other than 0,
    ``AVL<bit>`` for bits left to software (Breenix marks copy-on-write with bit 9).
    The CPU looks at none but P of an entry with P clear; they are named all the same.
    """
    names = [name for bit, name in _NAMES if raw & bit]
    leaf = is_leaf(level, raw)
    if raw & PS:
        names.append("PAT" if level == 1 else "PS")
    if leaf and level > 1 and raw & 1 << 12:
        names.append("PAT")
    names += [f"AVL{bit}" for bit in _AVAILABLE if raw >> bit & 1]
    high = raw >> 59 & 0xF
    if leaf and high:
        names.append(f"PKEY{high}")
    elif high:
        names += [f"AVL{bit}" for bit in range(59, 63) if raw >> bit & 1]
    if raw & NX:
        names.append("NX")
    return tuple(names)


class Entry(walks.Entry):
    """An entry by the bits of x86-64."""

    __slots__ = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the bits set, see `entry_flags`."""
        return entry_flags(self.level, self.raw)

    @property
    def present(self) -> bool:
        return bool(self.raw & P)

    @property
    def leaf(self) -> bool:
        """Whether it maps a page (meant for a present entry)."""
        return is_leaf(self.level, self.raw)

    @property
    def target(self) -> PhysAddr:
        """The table or page that a present entry names."""
        return leaf_base(self.level, self.raw) if self.leaf else PhysAddr(self.raw & ADDRESS)


def effective_of(raw: int) -> Effective:
    """What one entry by itself permits."""
    return Effective(bool(raw & W), bool(raw & U), bool(raw & NX))


class ZeroBeyondRam(Tables):
    """The same, with a table that lies in no RAM read as zeros: so does QEMU where nothing answers
    (system/memory.c, unassigned_mem_read), while hardware mostly reads ones. What only we do not
    have is still `Unreadable`."""

    __slots__ = ()

    def table(self, pa: int) -> memoryview:
        try:
            return super().table(pa)
        except Unreadable:
            ram = self.memory.ram
            if ram is None or ram.holds(PhysAddr(pa & ADDRESS), PAGE):
                raise
            return _ZEROS


_ZEROS = memoryview(bytes(PAGE)).cast("Q")


def walk(tables: Tables, root: int, va: int, levels: int = 4, nxe: bool | None = None) -> Walk:
    """Translates `va` under the top table at `root` (CR3; its flag and PCID bits are ignored).

    `levels` is 4 or 5. `nxe` is EFER.NXE: NX bits count as not there only when it is known to be
    off. Reads one table a level at most; a table that we do not have ends the walk, nothing raises.
    """
    base = root & ADDRESS
    start = PhysAddr(base)
    address = VirtAddr(va)
    if not canonical(va, levels):
        return Walk(address, start, (), None, None, None, None, NON_CANONICAL)
    entries: list[Entry] = []
    every = U | W
    some = 0
    for level in _FROM_TOP[levels]:
        number = level.number
        try:
            table = tables.table(base)
        except Unreadable:
            return Walk(address, start, tuple(entries), None, None, None, number, UNREADABLE)
        index = va >> level.shift & 0x1FF
        raw = table[index]
        entries.append(Entry(number, PhysAddr(base + index * 8), raw))
        if not raw & P:
            return Walk(address, start, tuple(entries), None, None, None, number, NOT_PRESENT)
        large = raw & PS and level.large_page
        if raw & level.reserved_always or (large and raw & level.reserved):
            return Walk(address, start, tuple(entries), None, None, None, number, RESERVED_BITS)
        every &= raw
        some |= raw
        base = raw & ADDRESS
        if large:
            break
    size = 1 << level.shift
    pa = PhysAddr(base & -size | va & size - 1)
    nx = bool(some & NX) and nxe is not False
    effective = Effective(bool(every & W), bool(every & U), nx)
    return Walk(address, start, tuple(entries), pa, size, effective, None, None)


def translate(tables: Tables, root: int, va: int, levels: int = 4) -> tuple[PhysAddr, int]:
    """Where `va` is mapped, and how many bytes of its page follow from there on.

    Without the story of a walk, for readers. Raises `NotMapped`, or `Unreadable` for a table.
    """
    base = root & ADDRESS
    if not canonical(va, levels):
        raise NotMapped(VirtAddr(va), PhysAddr(base), None, NON_CANONICAL)
    for level in _FROM_TOP[levels]:
        raw = tables.table(base)[va >> level.shift & 0x1FF]
        large = raw & PS and level.large_page
        reason = (
            NOT_PRESENT
            if not raw & P
            else RESERVED_BITS
            if raw & level.reserved_always or (large and raw & level.reserved)
            else None
        )
        if reason:
            raise NotMapped(VirtAddr(va), PhysAddr(root & ADDRESS), level.number, reason)
        base = raw & ADDRESS
        if large:
            break
    size = 1 << level.shift
    offset = va & size - 1
    return PhysAddr(base & -size | offset), size - offset


def read_virtual(tables: Tables, root: int, va: int, length: int, levels: int = 4) -> bytes:
    """`length` bytes at `va` under `root`, across pages.

    All or nothing: raises `NotMapped` for the first page that is not mapped, `Unreadable` for
    memory that we do not have. Permissions are not looked at: we read as a debugger does.
    """
    pieces = []
    while length > 0:
        pa, left = translate(tables, root, va, levels)
        step = min(left, length)
        pieces.append(tables.memory.read(pa, step))
        va = va + step & 0xFFFF_FFFF_FFFF_FFFF
        length -= step
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class VirtualMemory:
    """One address space as a reader sees it: bytes by virtual address under `root`.

    Remembers where each page leads, so it belongs to one stop, as `Tables` does.
    """

    __slots__ = ("_pages", "levels", "root", "tables")

    def __init__(self, tables: Tables, root: int, levels: int = 4) -> None:
        self.tables = tables
        self.root = PhysAddr(root & ADDRESS)
        self.levels = levels
        self._pages: dict[int, PhysAddr] = {}

    def translate(self, va: int) -> PhysAddr:
        """The physical address of `va`. Raises `NotMapped`, or `Unreadable` for a table."""
        page = va >> 12
        frame = self._pages.get(page)
        if frame is None:
            pa, _ = translate(self.tables, self.root, va, self.levels)
            frame = self._pages[page] = PhysAddr(pa & ~0xFFF)
        return PhysAddr(frame | va & 0xFFF)

    def read(self, va: int, length: int) -> bytes:
        """`length` bytes at `va`, see `read_virtual`."""
        if 0 < length <= 0x1000 - (va & 0xFFF):
            return self.tables.memory.read(self.translate(va), length)
        return read_virtual(self.tables, self.root, va, length, self.levels)

    def u64(self, va: int) -> int:
        """The little-endian 8 bytes at `va`. Raises as `read`."""
        return int.from_bytes(self.read(va, 8), "little")

    def u32(self, va: int) -> int:
        """The little-endian 4 bytes at `va`. Raises as `read`."""
        return int.from_bytes(self.read(va, 4), "little")
