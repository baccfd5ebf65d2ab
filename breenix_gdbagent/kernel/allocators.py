"""Frames, heap and kernel-stack slots as Breenix's allocators have them, in both eras.

2025: a frontier that only moves up (nothing comes back), a heap that bumps a pointer.
2026: a free list and a ledger with the state of each frame beside the frontier, a heap of holes.
Sources: kernel/src/memory/frame_allocator.rs, heap.rs, kernel_stack.rs; linked_list_allocator 0.10
src/hole.rs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from breenix_gdbagent.addresses import PAGE, PhysAddr, VirtAddr, hex64
from breenix_gdbagent.errors import ReadError, SymbolNotFound, ValueCorrupt
from breenix_gdbagent.kernel.typed import held, static_of
from breenix_gdbagent.symbols.cell import once_ready
from breenix_gdbagent.symbols.sequences import sequence
from breenix_gdbagent.symbols.values import Value, Values

FRAMES = "kernel::memory::frame_allocator::"
HEAPS = ("kernel::memory::heap_2026::ALLOCATOR", "kernel::memory::heap::ALLOCATOR")
STACKS = "kernel::memory::kernel_stack::STACK_BITMAP"

NEVER, ALLOCATED, FREE = 0, 1, 2
LEAF_EXTERNAL = (1 << 32) - 1
_LEDGER_SLOT = 8
LEDGER_CHUNK = 64 * 1024  # frames (LEDGER_CHUNK_FRAMES)
_STATE = 3
_STATES = bytes(low & _STATE for low in range(256))
MOST_REGIONS = 128
MOST_HOLES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the 2026 kernel knows of each frame, by its ordinal: chunks of 8-byte slots, `None` for
    a chunk that was never needed. A slot is {generation << 2 | state, leaf references}."""

    chunks: tuple[bytes | None, ...]
    chunk_frames: int

    def slot(self, ordinal: int) -> tuple[int, int] | None:
        """(state, leaf references) of a frame, None where the ledger says nothing."""
        number, index = divmod(ordinal, self.chunk_frames)
        chunk = self.chunks[number] if number < len(self.chunks) else None
        at = index * _LEDGER_SLOT
        if chunk is None or at + _LEDGER_SLOT > len(chunk):
            return None
        state = chunk[at] & _STATE
        return state, int.from_bytes(chunk[at + 4 : at + 8], "little")

    def free_ordinals(self) -> Iterator[int]:
        """The frames that the ledger has as free."""
        for number, chunk in enumerate(self.chunks):
            if chunk is None:
                continue
            states = chunk[::_LEDGER_SLOT].translate(_STATES)
            at = states.find(FREE)
            while at >= 0:
                yield number * self.chunk_frames + at
                at = states.find(FREE, at + 1)


@dataclass(frozen=True)
class FrameAllocator:
    """Usable regions [start, end), how many frames were ever given out in their order (`frontier`),
    and the free list (empty in 2025). `locked` is the free list's lock byte."""

    regions: tuple[tuple[PhysAddr, PhysAddr], ...]
    frontier: int
    free_list: tuple[PhysAddr, ...]
    has_free_list: bool
    ledger: Ledger | None
    locked: bool | None

    @cached_property
    def _before(self) -> list[int]:
        """How many usable frames come before each region, in the regions' order."""
        counts = [0]
        for start, end in self.regions:
            counts.append(counts[-1] + (end - start) // PAGE)
        return counts[:-1]

    @cached_property
    def _rising(self) -> tuple[list[int], list[int]]:
        """Starts of the regions in order of address, and which regions they are."""
        order = sorted(range(len(self.regions)), key=lambda n: self.regions[n][0])
        return [int(self.regions[n][0]) for n in order], order

    @property
    def total(self) -> int:
        """Frames of all usable regions."""
        return sum((end - start) // PAGE for start, end in self.regions)

    @property
    def used(self) -> int:
        """Frames in use: what the frontier has passed, less what came back."""
        return min(self.frontier, self.total) - len(self.free_list)

    @property
    def free(self) -> int:
        return self.total - self.used

    def ordinal(self, frame: int) -> int | None:
        """The number of a frame among the usable ones (frame_ordinal), None when it is none."""
        starts, order = self._rising
        at = bisect_right(starts, frame) - 1
        if at < 0 or frame >= self.regions[order[at]][1]:
            return None
        return self._before[order[at]] + (frame - starts[at]) // PAGE

    @cached_property
    def listed_free(self) -> frozenset[PhysAddr]:
        """The frames of the free list."""
        return frozenset(self.free_list)

    def state(self, frame: int) -> str | None:
        """``free`` (came back), ``never`` (never given out), ``allocated``; None: not the
        allocator's."""
        ordinal = self.ordinal(frame)
        if ordinal is None:
            return None
        if ordinal >= self.frontier:
            return "never"
        slot = self.ledger.slot(ordinal) if self.ledger is not None else None
        if slot is None:
            return "free" if frame in self.listed_free else "allocated"
        return {NEVER: "never", ALLOCATED: "allocated", FREE: "free"}.get(slot[0], "free")

    @cached_property
    def free_frames(self) -> frozenset[int]:
        """Every frame that came back, by the ledger where there is one."""
        if self.ledger is None:
            return frozenset(self.free_list)
        return frozenset(self._nth(ordinal) for ordinal in self.ledger.free_ordinals())

    def _nth(self, ordinal: int) -> int:
        at = bisect_right(self._before, ordinal) - 1
        return self.regions[at][0] + (ordinal - self._before[at]) * PAGE

    def gone(self, frames: AbstractSet[int]) -> Iterator[tuple[int, str]]:
        """Those of many frames that nobody should use: (frame, ``free`` or ``never``)."""
        for frame in sorted(self.free_frames & frames):
            yield frame, "free"
        rising = all(a[1] <= b[0] for a, b in pairwise(self.regions))
        first = self._nth(self.frontier) if rising and 0 <= self.frontier < self.total else 0
        for frame in frames:
            if frame >= first:
                ordinal = self.ordinal(frame)
                if ordinal is not None and ordinal >= self.frontier:
                    yield frame, "never"

    def external(self, frame: int) -> bool:
        """Whether the ledger says that the frame is mapped on behalf of an owner elsewhere."""
        ordinal = self.ordinal(frame)
        if self.ledger is None or ordinal is None:
            return False
        slot = self.ledger.slot(ordinal)
        return slot is not None and slot[1] == LEAF_EXTERNAL


def read_frame_allocator(values: Values) -> FrameAllocator:
    """The frame allocator. Raises `ReadError` before it is initialised, or without its types."""
    info = static_of(values, FRAMES + "MEMORY_INFO", "MEMORY_INFO")
    inside = _initialised(info, "the frame allocator")
    count = inside["region_count"].integer()
    if count > MOST_REGIONS:
        raise inside.corrupt(f"{count} usable regions")
    regions = []
    for item in inside["regions"].items(count):
        region = item.some()
        if region is not None:
            start, end = region["start"].integer(), region["end"].integer()
            regions.append((PhysAddr(start), PhysAddr(end)))
    frontier = static_of(values, FRAMES + "NEXT_FREE_FRAME", "NEXT_FREE_FRAME").integer()
    try:
        free = static_of(values, FRAMES + "FREE_FRAMES", "FREE_FRAMES")
    except SymbolNotFound:
        return FrameAllocator(tuple(regions), frontier, (), False, None, None)
    return FrameAllocator(
        tuple(regions), frontier, _frames(free), True, _ledger(values), held(free)
    )


def _initialised(static: Value, what: str) -> Value:
    """What a `Mutex<Option<T>>` (2025) or a `spin::Once<T>` (2026) holds."""
    lock = static.lock
    if lock is not None and lock.held is None and not once_ready(static, lock.raw):
        raise ReadError(f"{what} is not initialised yet")
    inside = static.peel()
    if inside.type.variants is None:
        return inside
    some = inside.some()
    if some is None:
        raise ReadError(f"{what} is not initialised yet")
    return some


def _frames(vector: Value) -> tuple[PhysAddr, ...]:
    """A `Vec<PhysFrame>`, read at once: a frame is its address."""
    start, count, element, _ = sequence(vector.peel())
    raw = start.read(0, count * element.size) if count else b""
    step = element.size
    return tuple(
        PhysAddr(int.from_bytes(raw[at : at + 8], "little")) for at in range(0, len(raw), step or 8)
    )


def _ledger(values: Values) -> Ledger | None:
    try:
        ledger = _initialised(
            static_of(values, FRAMES + "FRAME_LEDGER", "FRAME_LEDGER"), "the frame ledger"
        )
    except ReadError:
        return None
    chunks: list[bytes | None] = []
    for once in ledger["chunks"].items():
        lock = once.lock
        if lock is not None and not once_ready(once, lock.raw):
            chunks.append(None)
            continue
        start, count, element, _ = sequence(once.peel())
        if element.size != _LEDGER_SLOT:
            raise ledger.corrupt(f"ledger slots of {element.size} bytes")
        chunks.append(b"".join(start.read(*part) for part in _parts(count * _LEDGER_SLOT)))
    return Ledger(tuple(chunks), LEDGER_CHUNK)


def _parts(length: int, step: int = 1 << 20) -> Iterator[tuple[int, int]]:
    for at in range(0, length, step):
        yield at, min(step, length - at)


@dataclass(frozen=True, slots=True)
class Hole:
    """Free memory in the heap's list: [at, at + size)."""

    at: VirtAddr
    size: int


@dataclass(frozen=True, slots=True)
class Heap:
    """The kernel heap. `kind` is ``bump`` (2025) or ``list`` (2026), [start, end) its memory.

    bump: `next` is where the next block comes from, `allocations` the live blocks. list: `used`
    bytes as the heap counts them, `first` the first hole, `pending` bytes not yet taken in.
    """

    kind: str
    start: VirtAddr
    end: VirtAddr
    used: int
    locked: bool | None
    next: VirtAddr | None = None
    allocations: int | None = None
    first: VirtAddr | None = None
    pending: int = 0
    _hole: tuple[int, int, int] = (0, 8, 16)

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def initialised(self) -> bool:
        return self.start != 0 and self.end != 0

    @property
    def free(self) -> int:
        return self.size - self.used


def read_heap(values: Values) -> Heap:
    """The kernel heap; of two that exist (the lab guest) the one that is in use.

    Raises `ReadError` without its types.
    """
    found: Heap | None = None
    missing: ReadError | None = None
    for path in HEAPS:
        try:
            heap = _heap(static_of(values, path))
        except ReadError as error:
            missing = error
            continue
        if heap.initialised:
            return heap
        found = heap
    if found is None:
        raise missing or ReadError("the kernel has no heap that we know")
    return found


def _heap(static: Value) -> Heap:
    holes = static.field("holes")
    if holes is None:
        start, end = static["heap_start"].integer(), static["heap_end"].integer()
        following = static["next"].integer()
        return Heap(
            "bump",
            VirtAddr(start),
            VirtAddr(end),
            following - start,
            held(static),
            next=VirtAddr(following),
            allocations=static["allocations"].integer(),
        )
    first = holes["first"]
    size, after = first.type.member("size"), first.type.member("next")
    if size is None or after is None:
        raise SymbolNotFound(f"{first.type.name}.size")
    pending = holes.field("pending_extend")
    start, end = holes["bottom"].pointer(), holes["top"].pointer()
    lead = first.number(after.offset, 8)
    return Heap(
        "list",
        start,
        end,
        static["used"].integer(),
        held(static),
        first=VirtAddr(lead) if lead else None,
        pending=0 if pending is None else pending.integer(),
        _hole=(size.offset, after.offset, first.type.size),
    )


def holes_of(values: Values, heap: Heap) -> Iterator[Hole]:
    """The holes of a list heap, in the list's order, as far as the list is sound.

    Raises `ValueCorrupt` at the first node that breaks an invariant, `ReadError` where a node
    cannot be read.
    """
    size_at, next_at, length = heap._hole
    at = heap.first
    before = heap.start - 1
    for _ in range(MOST_HOLES):
        if at is None:
            return
        if at <= before:
            raise ValueCorrupt(f"the hole at {hex64(at)} does not come after the one before it")
        if at < heap.start or at + length > heap.end:
            raise ValueCorrupt(f"the hole at {hex64(at)} is outside the heap")
        if at % 8:
            raise ValueCorrupt(f"the hole at {hex64(at)} is not aligned")
        raw = values.memory.read(at, length)
        size = int.from_bytes(raw[size_at : size_at + 8], "little")
        if size < length or at + size > heap.end:
            raise ValueCorrupt(f"the hole at {hex64(at)} says that it has {size} bytes")
        yield Hole(at, size)
        before = at + size - 1
        following = int.from_bytes(raw[next_at : next_at + 8], "little")
        at = VirtAddr(following) if following else None
    raise ValueCorrupt(f"more than {MOST_HOLES} holes")


def read_stack_slots(values: Values) -> tuple[frozenset[int], bool | None]:
    """(allocated kernel-stack slots, lock byte). Raises `ReadError`."""
    bitmap = static_of(values, STACKS, "STACK_BITMAP")
    words = [word.integer() for word in bitmap.peel().items(16)]
    slots = (64 * n + bit for n, word in enumerate(words) for bit in range(64) if word >> bit & 1)
    return frozenset(slots), held(bitmap)
