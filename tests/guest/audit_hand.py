"""One stop of a lab guest being broken in a copy: the hand that the audit's mutations use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from breenix_gdbagent.symbols.sequences import sequence
from breenix_gdbagent.symbols.values import Value
from tests.guest.stopped_lab import StoppedLab
from tests.writers.overlay import overlaid, with_registers

FRAMES = "kernel::memory::frame_allocator::"


class Hand:
    """One stop being broken; `kernel` is the view of the unbroken one."""

    def __init__(self, guest: StoppedLab) -> None:
        self.kernel = guest.kernel()
        self.stop, self.memory = overlaid(guest.stop)
        self.era = guest.era

    @property
    def root(self) -> int:
        assert self.kernel.master is not None
        return self.kernel.master.root

    def static(self, path: str) -> Value:
        return self.kernel.structures.values.static(path)

    def write(self, va: int | None, data: bytes) -> None:
        assert va is not None
        pa = self.kernel.walk(self.root, va).pa
        assert pa is not None
        self.memory.write(pa, data)

    def put(self, value: Value, number: int) -> None:
        """Another number in the place of an integer."""
        scalar = value.scalar()
        self.write(scalar.address, number.to_bytes(scalar.type.size, "little"))

    def fill(self, value: Value, byte: int = 0) -> None:
        """All bytes of a value."""
        self.write(value.address, bytes([byte]) * value.type.size)

    def process(self, pid: int) -> Value:
        rows = self.static("kernel::process::PROCESS_MANAGER")["processes"].entries()
        return next(row for key, row in rows if key.integer() == pid)

    def ledger_slot(self, frame: int) -> int:
        """Address of the ledger's slot of a frame."""
        ordinal = self.kernel.structures.frames.ordinal(frame)
        assert ordinal is not None
        once = next(iter(self.static(FRAMES + "FRAME_LEDGER")["chunks"].items()))
        start, _, element, _ = sequence(once.peel())
        assert start.address is not None
        return start.address + ordinal * element.size

    def set_state(self, frame: int, state: int) -> None:
        at = self.ledger_slot(frame)
        raw = self.kernel.memory_of(self.root).read(at, 1)[0]
        self.write(at, bytes([raw & ~3 | state]))

    def user_page(self, pid: int) -> tuple[int, int]:
        """(address, frame) of a writable page of a process."""
        space = next(s for s in self.kernel.spaces if s.pid == pid)
        return next(
            (p.va, p.pa)
            for p in self.kernel.ledger.user_pages()
            if p.node.owner == space.root and p.w
        )


def lock_address(static: Value) -> int:
    """Where the lock byte of a lock, or of a newtype around one, is."""
    here = static
    while here.type.member("lock") is None:
        (member,) = [m for m in here.type.members if here.space.types.at(m.type).size]
        here = here.part(member)
    address = here.part(here.type.member("lock")).scalar().address  # type: ignore[arg-type]
    assert address is not None
    return address


def as_process_2(hand: Hand, root: int) -> None:
    """Process 2 runs in ring 3: registers, per-CPU block, TSS and scheduler say so."""
    thread = next(t for t in hand.kernel.structures.scheduler.threads if t.owner_pid == 2)
    (block,) = hand.kernel.percpus
    tr = hand.stop.cpu.tr
    assert thread.address is not None and thread.kernel_stack_top is not None and tr is not None
    top = int(thread.kernel_stack_top).to_bytes(8, "little")
    hand.write(block.base + 8, int(thread.address).to_bytes(8, "little"))
    hand.write(block.base + 16, top)
    hand.write(tr.base + 4, top)
    current = hand.static("kernel::task::scheduler::SCHEDULER")["current_thread"].some()
    assert current is not None
    hand.put(current, thread.id)
    hand.stop = with_registers(
        hand.stop, cr3=root, cs=0x33, ss=0x2B, rip=0x4000_0000, rsp=0x7FFF_FFFE_0000, eflags=0x202
    )


@dataclass(frozen=True)
class Mutation:
    name: str
    breaks: Callable[[Hand], None]
    codes: frozenset[str]
    eras: tuple[int, ...]
    unchecked: str = ""
