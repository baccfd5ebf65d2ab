"""Invariants that stand on Rust values, broken one by one in a copy of a stop of the lab guest.

The findings that are new against the unbroken stop are exactly those declared. What stands on
tables alone is broken in the captures (tests/unit/checks/test_mutations.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.checks.growth import grown
from breenix_gdbagent.kernel.allocators import ALLOCATED, FREE
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.symbols.sequences import sequence
from breenix_gdbagent.symbols.values import Value
from tests.guest.audit_hand import FRAMES, Hand, Mutation, as_process_2, lock_address
from tests.guest.live_support import needs_qemu
from tests.guest.stopped_lab import StoppedLab, stopped
from tests.said import summary
from tests.unit.checks.mutation import seen
from tests.writers.overlay import with_registers

pytestmark = needs_qemu

P, W, U, NX = 1, 2, 4, 1 << 63
BOTH = (2025, 2026)
READY, TERMINATED = 1, 3
Breaks = Callable[["Hand"], None]


@dataclass
class Guests:
    """One standing guest for each era, and what is found in it unbroken."""

    open: dict[int, StoppedLab] = field(default_factory=dict)
    before: dict[int, set[str]] = field(default_factory=dict)


MUTATIONS: list[Mutation] = []


def mutation(
    *codes: str, eras: tuple[int, ...] = BOTH, unchecked: str = ""
) -> Callable[[Breaks], Breaks]:
    """`unchecked` is the check that has to say that it left something out."""

    def enter(breaks: Breaks) -> Breaks:
        name = breaks.__name__.replace("_", "-")
        MUTATIONS.append(Mutation(name, breaks, frozenset(codes), eras, unchecked))
        return breaks

    return enter


# -- heap ---------------------------------------------------------------------------------------


@mutation("heap.exhausted", eras=(2025,))
def bump_heap_at_its_end(hand: Hand) -> None:
    heap = hand.static("kernel::memory::heap::ALLOCATOR")
    hand.put(heap["next"], heap["heap_end"].integer())


@mutation("heap.corrupt", eras=(2025,))
def bump_heap_past_its_end(hand: Hand) -> None:
    heap = hand.static("kernel::memory::heap::ALLOCATOR")
    hand.put(heap["next"], heap["heap_end"].integer() + 0x1000)


@mutation("heap.corrupt", eras=(2025,))
def bump_heap_below_live_blocks(hand: Hand) -> None:
    heap = hand.static("kernel::memory::heap::ALLOCATOR")
    hand.put(heap["next"], heap["heap_start"].integer())


@mutation("heap.uninitialised", eras=(2025,))
def heap_without_bounds(hand: Hand) -> None:
    heap = hand.static("kernel::memory::heap::ALLOCATOR")
    for name in ("heap_start", "heap_end", "next"):
        hand.put(heap[name], 0)


def holes(hand: Hand) -> Value:
    return hand.static("kernel::memory::heap_2026::ALLOCATOR")["holes"]


@mutation("heap.corrupt", eras=(2026,))
def hole_outside_the_heap(hand: Hand) -> None:
    first = holes(hand)["first"]
    offset = first.type.member("next")
    assert offset is not None and first.address is not None
    hand.write(first.address + offset.offset, (0x10).to_bytes(8, "little"))


@mutation("heap.corrupt", eras=(2026,))
def hole_larger_than_the_heap(hand: Hand) -> None:
    heap = hand.kernel.structures.heap
    assert heap.first is not None
    hand.write(heap.first + heap._hole[0], (1 << 40).to_bytes(8, "little"))


@mutation("heap.corrupt", eras=(2026,))
def hole_that_names_itself(hand: Hand) -> None:
    heap = hand.kernel.structures.heap
    assert heap.first is not None
    hand.write(heap.first + heap._hole[1], int(heap.first).to_bytes(8, "little"))


@mutation("heap.corrupt", eras=(2026,))
def heap_that_does_not_add_up(hand: Hand) -> None:
    used = hand.static("kernel::memory::heap_2026::ALLOCATOR")["used"]
    hand.put(used, used.integer() + 64)


@mutation("heap.exhausted", eras=(2026,))
def list_heap_without_holes(hand: Hand) -> None:
    heap = hand.kernel.structures.heap
    first = holes(hand)["first"]
    member = first.type.member("next")
    assert member is not None and first.address is not None
    hand.write(first.address + member.offset, bytes(8))
    hand.put(hand.static("kernel::memory::heap_2026::ALLOCATOR")["used"], heap.size)


@mutation(unchecked="heap")
def heap_locked(hand: Hand) -> None:
    """Nothing is said of a heap that is being changed."""
    name = "heap_2026" if hand.era == 2026 else "heap"
    static = hand.static(f"kernel::memory::{name}::ALLOCATOR")
    if hand.era == 2025:
        hand.put(static["next"], static["heap_end"].integer() + 0x1000)
    else:
        hand.put(static["used"], 1)
    hand.write(lock_address(static), b"\1")


# -- frames -------------------------------------------------------------------------------------


@mutation("frames.exhausted", eras=(2025,))
def no_frame_left(hand: Hand) -> None:
    hand.put(hand.static(FRAMES + "NEXT_FREE_FRAME"), hand.kernel.structures.frames.total)


@mutation("table.freed", "frame.free-but-mapped", eras=(2025,))
def everything_was_never_given_out(hand: Hand) -> None:
    hand.put(hand.static(FRAMES + "NEXT_FREE_FRAME"), 0)


@mutation("frame.free-but-mapped", eras=(2026,))
def user_page_is_free(hand: Hand) -> None:
    hand.set_state(hand.user_page(2)[1], FREE)


@mutation("frame.free-but-mapped", eras=(2026,))
def heap_page_is_free(hand: Hand) -> None:
    pa = hand.kernel.walk(hand.root, 0x4444_4444_0000).pa
    assert pa is not None
    hand.set_state(pa, FREE)


@mutation("table.freed", eras=(2026,))
def root_in_use_is_free(hand: Hand) -> None:
    space = next(s for s in hand.kernel.spaces if s.pid == 2)
    hand.set_state(space.root, FREE)


@mutation("table.freed", eras=(2026,))
def table_of_the_kernel_is_free(hand: Hand) -> None:
    raw = hand.kernel.tables.table(hand.root)[136]
    hand.set_state(raw & 0x000F_FFFF_FFFF_F000, FREE)


@mutation("frame.double-allocated", eras=(2026,))
def free_list_has_a_frame_in_use(hand: Hand) -> None:
    start, count, _, _ = sequence(hand.static(FRAMES + "FREE_FRAMES").peel())
    assert count > 1
    hand.write(start.address, hand.user_page(2)[1].to_bytes(8, "little"))


@mutation("frame.double-allocated", eras=(2026,))
def free_list_has_a_frame_twice(hand: Hand) -> None:
    start, _, _, _ = sequence(hand.static(FRAMES + "FREE_FRAMES").peel())
    assert start.address is not None
    hand.write(start.address, start.read(8, 8))


@mutation("frame.double-allocated", eras=(2026,))
def listed_frame_is_allocated(hand: Hand) -> None:
    hand.set_state(hand.kernel.structures.frames.free_list[0], ALLOCATED)


@mutation(eras=(2026,), unchecked="frames-allocator")
def free_list_locked(hand: Hand) -> None:
    """Nothing is said while a frame is on its way."""
    hand.set_state(hand.user_page(2)[1], FREE)
    hand.write(lock_address(hand.static(FRAMES + "FREE_FRAMES")), b"\1")


# -- processes and threads ----------------------------------------------------------------------


@mutation("process.no-page-table")
def page_table_gone(hand: Hand) -> None:
    hand.fill(hand.process(2)["page_table"])


@mutation(unchecked="processes")
def page_table_gone_of_a_row_that_nobody_runs(hand: Hand) -> None:
    """The boot tests of 2026 insert rows whose threads the scheduler never gets."""
    row = hand.process(2)
    hand.fill(row["page_table"])
    hand.put(row["main_thread"]["id"], 777)


@mutation()
def page_table_of_a_dead_process_gone(hand: Hand) -> None:
    row = hand.process(1)
    assert row["state"].variant()[0] == "Terminated"
    hand.fill(row["page_table"])


@mutation("thread.desync")
def scheduler_has_another_thread(hand: Hand) -> None:
    current = hand.static("kernel::task::scheduler::SCHEDULER")["current_thread"].some()
    assert current is not None
    hand.put(current, 3)


@mutation("thread.lost-wake-up")
def ready_and_in_no_queue(hand: Hand) -> None:
    threads = hand.static("kernel::task::scheduler::SCHEDULER")["threads"].items()
    own = hand.process(2)["main_thread"]["id"].integer()
    thread = next(t.deref() for t in threads if t.deref()["id"].integer() == own)
    hand.put(thread["state"], READY)


@mutation("thread.two-cpus", "tss.shared", "kernel-stack.foreign")
def one_thread_on_two_cpus(hand: Hand) -> None:
    """A second CPU with all that the first one has, its per-CPU block too."""
    hand.stop = hand.stop._replace(cpus=(*hand.stop.cpus, hand.stop.cpu._replace(index=1)))


@mutation("context.privilege-mismatch")
def kernel_frame_in_a_user_thread(hand: Hand) -> None:
    context = hand.process(2)["main_thread"]["context"]
    hand.put(context["rip"], 0x80_0001_0000)


def never_ran(hand: Hand) -> None:
    threads = hand.static("kernel::task::scheduler::SCHEDULER")["threads"].items()
    own = hand.process(2)["main_thread"]["id"].integer()
    hand.put(next(t for t in threads if t.deref()["id"].integer() == own)["has_started"], 0)


@mutation("context.privilege-mismatch")
def kernel_frame_in_a_user_thread_that_never_ran(hand: Hand) -> None:
    """Its first entry takes rip from there, and ring 3 from nowhere."""
    kernel_frame_in_a_user_thread(hand)
    never_ran(hand)


@mutation()
def user_frame_with_the_kernels_cs_that_never_ran(hand: Hand) -> None:
    """Its first entry builds the frame anew: what its constructor left in cs is never loaded."""
    user_frame_with_the_kernels_cs(hand)
    never_ran(hand)


@mutation("context.privilege-mismatch")
def user_frame_with_the_kernels_cs(hand: Hand) -> None:
    hand.put(hand.process(2)["main_thread"]["context"]["cs"], 8)


@mutation()
def user_thread_preempted_in_a_system_call(hand: Hand) -> None:
    """Since 2026 a user thread may be saved in ring 0: cs and rip agree."""
    context = hand.process(2)["main_thread"]["context"]
    hand.put(context["cs"], 8)
    hand.put(context["rip"], 0x80_0001_0000)


@mutation("kernel-stack.foreign")
def idle_below_the_frame_of_a_handler_that_is_over(hand: Hand) -> None:
    """Idle stands on the page fault's stack; above it lies the frame of a fault of long ago, whose
    address CR2 still holds: no page fault is being handled."""
    stack = next(s for s in hand.kernel.ist if s.ist == 2)
    words = (0, hand.stop.cpu.rip, 8, 2, hand.stop.cpu.rsp - 64, 0x10)
    hand.write(stack.top - 48, b"".join(word.to_bytes(8, "little") for word in words))
    hand.stop = with_registers(hand.stop, rsp=stack.top - 0x800, cr2=0x6666_6666_6000)


@mutation("cr3.wrong-process")
def ring_3_in_another_process(hand: Hand) -> None:
    roots = {s.pid: s.root for s in hand.kernel.spaces}
    as_process_2(hand, roots[3])


@mutation()
def ring_3_in_its_own_space(hand: Hand) -> None:
    roots = {s.pid: s.root for s in hand.kernel.spaces}
    as_process_2(hand, roots[2])


def over(hand: Hand, number: int) -> None:
    """The scheduler's copy of that process's thread is marked as over."""
    threads = hand.static("kernel::task::scheduler::SCHEDULER")["threads"].items()
    own = hand.process(number)["main_thread"]["id"].integer()
    thread = next(t.deref() for t in threads if t.deref()["id"].integer() == own)
    hand.write(thread["state"].address, bytes([TERMINATED]))


@mutation("thread.dead-running")
def ring_3_with_a_thread_that_is_over(hand: Hand) -> None:
    ring_3_in_its_own_space(hand)
    over(hand, 2)


@mutation("kernel-stack.dead-owner")
def idle_on_the_stack_of_a_thread_that_is_over(hand: Hand) -> None:
    over(hand, 2)
    top = hand.process(2)["main_thread"]["kernel_stack_top"].some()
    assert top is not None
    hand.stop = with_registers(hand.stop, rsp=top.integer() - 0x100)


@mutation("kernel-stack.foreign")
def idle_below_a_frame_of_a_handler_that_is_over(hand: Hand) -> None:
    """The frame that a page fault left is nothing that the CPU is inside of."""
    stack = next(s for s in hand.kernel.ist if s.ist == 2)
    words = (0, hand.kernel.stop.cpu.rip, 8, 2, hand.kernel.stacks[0].top - 64, 0x10)
    hand.write(stack.top - 48, b"".join(word.to_bytes(8, "little") for word in words))
    hand.stop = with_registers(hand.stop, rsp=int(stack.top) - 0x800, cr2=0x4444_5000_0008)


@mutation()
def ring_0_with_a_thread_that_is_over(hand: Hand) -> None:
    """On its way out: it has marked itself, and the switch is still to come."""
    over(hand, 2)


@mutation("cr3.unknown")
def cr3_of_a_root_that_nobody_lists(hand: Hand) -> None:
    space = next(s for s in hand.kernel.spaces if s.pid == 2)
    frame = 0x300_0000
    assert hand.kernel.structures.frames.state(frame) == "never"
    hand.memory.copy_frame(space.root, frame)
    for slot in (0, 255):
        hand.memory.set_entry(frame + 8 * slot, 0)
    hand.stop = with_registers(hand.stop, cr3=frame)


CASES = [
    pytest.param(mutated, era, id=f"{mutated.name}-{era}")
    for mutated in MUTATIONS
    for era in mutated.eras
]


@pytest.fixture(scope="module")
def guests() -> Iterator[Guests]:
    with stopped("clean", 2025) as one, stopped("clean", 2026) as two:
        found = Guests({2025: one, 2026: two})
        for era, guest in found.open.items():
            found.before[era] = set(seen(examine(guest.stop).findings))
        yield found


@pytest.mark.parametrize("era", BOTH)
def test_the_unbroken_guest_has_nothing_and_everything_was_looked_at(
    guests: Guests, era: int
) -> None:
    found = examine(guests.open[era].stop)
    assert not [summary(f) for f in found.findings if f.effective_severity != "info"]
    assert not [(c.name, c.reason) for c in found.checks if c.status == "not_checked"]


@pytest.mark.parametrize(("mutated", "era"), CASES)
def test_exactly_the_declared_codes_are_new(guests: Guests, mutated: Mutation, era: int) -> None:
    hand = Hand(guests.open[era])
    mutated.breaks(hand)
    examined = examine(hand.stop)
    found = seen(examined.findings)
    new = {f.code.name for key, f in found.items() if key not in guests.before[era]}
    assert new == mutated.codes, [summary(f) for f in found.values()]
    unchecked = {c.name for c in examined.checks if c.status == "not_checked"}
    assert not mutated.unchecked or mutated.unchecked in unchecked


# -- leaks: two stops ---------------------------------------------------------------------------


def leaked(guests: Guests, era: int, breaks: Breaks) -> set[str]:
    """Codes of what grew from the unbroken stop to a broken one."""
    hand = Hand(guests.open[era])
    breaks(hand)
    return {f.code.name for f in grown(guests.open[era].kernel(), Kernel(hand.stop))}


def frames_taken(hand: Hand) -> None:
    frontier = hand.static(FRAMES + "NEXT_FREE_FRAME")
    hand.put(frontier, frontier.integer() + 16)


def heap_taken(hand: Hand) -> None:
    if hand.era == 2025:
        heap = hand.static("kernel::memory::heap::ALLOCATOR")
        hand.put(heap["next"], heap["next"].integer() + 4096)
        hand.put(heap["allocations"], heap["allocations"].integer() + 1)
    else:
        used = hand.static("kernel::memory::heap_2026::ALLOCATOR")["used"]
        hand.put(used, used.integer() + 4096)


def temporary_heap(hand: Hand) -> None:
    """A bump heap that moved on without a block more: garbage, no leak."""
    heap = hand.static("kernel::memory::heap::ALLOCATOR")
    hand.put(heap["next"], heap["next"].integer() + 4096)


LEAKS = {"heap.leak": heap_taken, "frames.leak": frames_taken}


@pytest.mark.parametrize("era", BOTH)
def test_leaks_are_what_grew(guests: Guests, era: int) -> None:
    assert leaked(guests, era, lambda hand: None) == set()
    for code, breaks in LEAKS.items():
        # In 2026 a frame is given out through the ledger, which the frontier alone does not move.
        if era == 2025 or breaks is not frames_taken:
            assert leaked(guests, era, breaks) == {code}
    if era == 2025:
        assert leaked(guests, era, temporary_heap) == set()


@pytest.mark.parametrize("era", BOTH)
def test_no_leak_is_told_of_a_process_half_made(guests: Guests, era: int) -> None:
    """What its maker has taken and not entered yet is reached from nowhere and not lost."""
    for name in ("kernel::process::PROCESS_MANAGER", "kernel::task::scheduler::SCHEDULER"):
        hand = Hand(guests.open[era])
        frames_taken(hand)
        hand.write(lock_address(hand.static(name)), b"\1")
        with pytest.raises(NotChecked):
            list(grown(guests.open[era].kernel(), Kernel(hand.stop)))


def test_leaks_need_the_structures(guests: Guests) -> None:
    bare = Kernel(guests.open[2025].stop._replace(image=None))
    with pytest.raises(NotChecked, match="no kernel ELF"):
        list(grown(bare, bare))


@pytest.mark.parametrize("era", BOTH)
def test_a_stale_saved_root_is_no_sign_of_life(guests: Guests, era: int) -> None:
    """gs:80 keeps the root of the process that entered last, also when that is gone."""
    hand = Hand(guests.open[era])
    space = next(s for s in hand.kernel.spaces if s.pid == 2)
    (block,) = hand.kernel.percpus
    hand.write(block.base + 80, space.root.to_bytes(8, "little"))
    hand.fill(hand.process(2)["page_table"])
    found = next(s for s in Kernel(hand.stop).spaces if s.root == space.root)
    assert (found.role, found.live) == ("process", False)
