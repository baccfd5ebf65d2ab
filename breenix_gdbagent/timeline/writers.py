"""Who wrote a place: every store into it by a plugin in one replay, and by seeks what is no store.

A plugin of QEMU's sees what instructions store, by whatever alias. It does not see what the CPU
itself writes (accessed and dirty bits, the frame of an exception or interrupt) nor what a device
writes: that shows in the value, which is another one than the last store left, and is then found to
the instruction by halving. What goes from one value to another and back between two looks is seen
by neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from breenix_gdbagent.addresses import PAGE, PhysAddr
from breenix_gdbagent.errors import InputError, LinkError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import address_at
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.recording.stores import Store, stores_into
from breenix_gdbagent.timeline.place import WORD, place_of
from breenix_gdbagent.timeline.player import Moment, Player
from breenix_gdbagent.views.moments import Write, WriteKind, Writers

MOST_FOUND = 64
"""Changes that are no stores, between two stores, that are looked for one by one."""
DRIFT = 64
"""Instructions that faulted and ran again, before a store: each is counted twice by a plugin."""
_ACCESSED_DIRTY = 0x60
_FRAME_BYTES = 64
_DEVICES = re.compile(r"virtio|ide|ahci|nvme|scsi|usb|e1000|rtl8139|-netdev")

Tell = Callable[[int], None]


def resolve(player: Player, text: str, moment: Moment) -> PhysAddr:
    """The physical address that ``PA``, ``VA`` or ``entry VA`` names at a moment: a number inside
    RAM is a physical one. Raises `InputError`, `ReadError`."""
    kernel = player.kernel(moment)
    word, _, rest = text.strip().partition(" ")
    entry = word == "entry" and bool(rest.strip())
    number = parse_number(rest.strip() if entry else text.strip())
    ram = kernel.stop.memory.ram
    if not entry and number is not None and ram is not None and ram.holds(number):
        return PhysAddr(number)
    where = rest.strip() if entry else text.strip()
    va = number if number is not None else address_at(Evaluation.of(kernel), where)
    root = kernel.stop.cpu.root
    if root is None:
        raise ReadError(kernel.stop.no_paging)
    walk = kernel.walk(root, va)
    if entry:
        if not walk.entries:
            raise InputError(f"no table entry maps {where}", walk.reason or "")
        return PhysAddr(walk.entries[-1].entry_pa)
    if walk.pa is None:
        raise InputError(
            f"{where} is not mapped at that moment, so it is no physical place",
            walk.reason or "",
            "give a moment at which it is: --at ICOUNT; or its entry: 'entry VA'",
        )
    return PhysAddr(walk.pa)


def writers(player: Player, pa: int, length: int = WORD, tell: Tell = lambda n: None) -> Writers:
    """Every write of physical [`pa`, `pa` + `length`), oldest first. Raises `InputError`,
    `LinkError`."""
    low, high = pa // WORD * WORD, -(-(pa + length) // WORD) * WORD
    ram = player.vm.ram_map()
    if ram is None:
        raise InputError("where RAM is in this machine is not known")
    stores = stores_into(player.directory.absolute(), player.manifest, ram, low, high)
    search = _Search(player, tell)
    found = search.by_value(low, high) if stores is None else search.exact(stores)
    lacking = search.lacking(low, stores is not None, found)
    return Writers(
        PhysAddr(pa), length, "seek" if stores is None else "plugin", not lacking, lacking,
        tuple(found),
    )  # fmt: skip


class _Search:
    """The writes of one range; `player` moves."""

    def __init__(self, player: Player, tell: Tell) -> None:
        self.player = player
        self.begin, self.last = player.manifest.begin, player.manifest.end.icount
        self._tell = tell
        self._drift = 0
        self._lost = 0

    # What the plugin saw ---------------------------------------------------------------------

    def exact(self, stores: Sequence[Store]) -> list[Write]:
        """Each store at its own instruction, and between them what else changed."""
        out: list[Write] = []
        before: dict[int, int] = {}
        for store in stores:
            if store.rip is None:
                start = before.get(store.pa, self.begin)
                out += self._unseen(store, start, min(store.icount - self._drift + 1, self.last))
            else:
                out.append(self._stored(store))
            before[store.pa] = out[-1].place.icount + 1 if out else self.begin
            self._tell(len(out))
        return sorted(out, key=lambda one: (one.place.icount, one.pa))

    def _stored(self, store: Store) -> Write:
        """The store at the instruction count at which RIP is its own and the word is the old one:
        a plugin counts an instruction that faulted twice."""
        for drift in range(self._drift, self._drift + DRIFT):
            at = store.icount - drift
            if at < self.begin:
                break
            kernel = self.player.kernel(Moment(at))
            rip = kernel.stop.cpu.at
            if rip == store.rip and _word(kernel, store.pa) == store.before:
                self._drift = drift
                return self._write(kernel, at, store, "store")
        raise LinkError(
            f"the store at instruction {store.icount} is not found in the replay",
            "the plugin counts other instructions than QEMU does",
            "please report it",
        )

    def _write(self, kernel: Kernel, at: int, store: Store, kind: WriteKind) -> Write:
        return Write(
            kind, place_of(kernel, at), PhysAddr(store.pa),
            store.va if kind == "store" else None, store.size or WORD, store.before, store.after,
        )  # fmt: skip

    # What shows in the value only ------------------------------------------------------------

    def _unseen(self, store: Store, low: int, high: int) -> Iterator[Write]:
        """The changes of a word from one value to another by something that is no store."""
        value, at = store.before, low
        for _ in range(MOST_FOUND):
            if value == store.after:
                return
            found = self._change(store.pa, at, high, value)
            if found is None:
                break
            at, after = found
            yield self._changed(store.pa, at - 1, value, after)
            value = after
        self._lost += value != store.after

    def _change(self, pa: int, low: int, high: int, value: int) -> tuple[int, int] | None:
        """The first count in (low, high] found at which the word is another one, and what it is."""
        now = self._value(pa, high)
        if now == value:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            there = self._value(pa, middle)
            if there == value:
                low = middle
            else:
                high, now = middle, there
        return high, now

    def _value(self, pa: int, icount: int) -> int:
        vm = self.player.vm
        vm.seek(min(icount, self.last))
        return int.from_bytes(vm.memory().read(PhysAddr(pa), WORD), "little")

    def _changed(self, pa: int, at: int, before: int, after: int) -> Write:
        kernel = self.player.kernel(Moment(at))
        place = place_of(kernel, at)
        later = self.player.kernel(Moment(min(at + 1, self.last)))
        kind: WriteKind = "dma"
        if before ^ after and not (before ^ after) & ~_ACCESSED_DIRTY and after & ~before:
            kind = "walker"
        elif _pushed(later, pa):
            kind = "push"
        return Write(kind, place, PhysAddr(pa), None, WORD, before, after)

    def by_value(self, low: int, high: int) -> list[Write]:
        """Without a plugin: changes between the moments of the recording that have a snapshot."""
        marks = sorted({w.icount for w in self.player.vm.ways} | {self.last})
        out: list[Write] = []
        for pa in range(low, high, WORD):
            for begin, end in pairwise(marks):
                store = Store(end, None, 0, pa, self._value(pa, begin), self._value(pa, end), 0)
                for write in self._unseen(store, begin, end):
                    out.append(self._as_store(write))
                    self._tell(len(out))
        return sorted(out, key=lambda one: (one.place.icount, one.pa))

    def _as_store(self, write: Write) -> Write:
        """Told as a store where the instruction there writes that very word."""
        from dataclasses import replace

        from breenix_gdbagent.timeline.place import writes_of

        kernel = self.player.kernel(Moment(write.place.icount))
        for va, pa in writes_of(kernel):
            if pa == write.pa and write.kind != "walker":
                return replace(write, kind="store", va=va)
        return write

    # What nobody could have seen -------------------------------------------------------------

    def lacking(self, pa: int, plugin: bool, found: Sequence[Write]) -> tuple[str, ...]:
        """Why there may be writes that are not among those found; () where there can be none."""
        out = []
        if not plugin:
            out.append("no plugin could be loaded into QEMU: what changed and changed back between "
                       "two looks is not seen")  # fmt: skip
        if self._lost:
            out.append(f"{self._lost} changes that no instruction stored were not told apart")
        if self._is_table(pa):
            return tuple(out)
        if any(write.kind == "push" for write in found) or self._is_stack(pa):
            out.append("it is a stack: what an interrupt pushes there and a store overwrites with "
                       "the same value is not seen")  # fmt: skip
        if _DEVICES.search(" ".join(self.player.manifest.arguments)):
            out.append("the machine has devices that write memory: one that writes a value and "
                       "another back between two stores is not seen")  # fmt: skip
        return tuple(out)

    def _is_table(self, pa: int) -> bool:
        try:
            kernel = self.player.kernel(self.player.end)
            return pa // PAGE * PAGE in kernel.ledger.table_frames
        except ReadError:
            return False

    def _is_stack(self, pa: int) -> bool:
        try:
            kernel = self.player.kernel(self.player.end)
            root = kernel.reference_root or 0
            frames = {
                kernel.walk(root, page).pa for stack in (*kernel.stacks, *kernel.ist)
                for page in stack.pages
            }  # fmt: skip
        except ReadError:
            return True
        return pa // PAGE * PAGE in frames


def _word(kernel: Kernel, pa: int) -> int:
    return int.from_bytes(kernel.stop.memory.read(PhysAddr(pa), WORD), "little")


def _pushed(kernel: Kernel, pa: int) -> bool:
    """Whether a place is in the frame that lies right above RSP: an exception or interrupt that was
    delivered has pushed it."""
    cpu = kernel.stop.cpu
    if cpu.root is None or cpu.paging is None:
        return False
    for at in range(cpu.rsp, cpu.rsp + _FRAME_BYTES, WORD):
        found = kernel.walk(cpu.root, at).pa
        if found is not None and found // WORD * WORD == pa:
            return True
    return False
