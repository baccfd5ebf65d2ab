"""What looks broken and only is not finished yet, or not anybody's any more: nothing is said of it.

Each was a false alarm in stops of the real kernel's boot tests.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.checks.examine import Examination, examine
from breenix_gdbagent.kernel.spaces import RECLAIMING, NamedRoot
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.wording.reasons import reason_words
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.x86.cpu import DescriptorTable
from tests.unit.captures import BREENIX, LINUX
from tests.unit.checks.mutation import HEAP, NX, Hand, P, U, W, before, saved, seen
from tests.writers.machine import CODE, DATA, PERCPU, TEXT, Machine, stack_top

HEAD = "breenix-head-cow-fault"
HEAP_SLOT = 136


def new(name: str, kernel: Kernel) -> set[str]:
    return set(seen(examine(kernel.stop, kernel).findings)) - before(name)


def half_made(name: str, own: bool = True) -> Stop:
    """One root that nobody vouches for has not got the heap's slot, and no slot 0 without `own`."""
    hand = Hand(saved(name))
    root = next(s.root for s in hand.processes if s.live is None)
    hand.memory.set_entry(root + 8 * HEAP_SLOT, 0)
    if not own:
        hand.memory.set_entry(root, 0)
    return hand.stop


@pytest.mark.parametrize("name", BREENIX)
def test_a_page_table_in_the_making_lacks_slots(name: str) -> None:
    """ProcessPageTable::new copies the kernel's entries one by one, and gives slot 0 last."""
    found = examine(half_made(name, own=False))
    assert set(seen(found.findings)) <= before(name)
    for check in ("kernel-slots", "kernel-stacks"):
        assert "in the making" in reason(found, check), "left out, and not in silence"


@pytest.mark.parametrize("name", BREENIX)
def test_a_page_table_that_is_made_lacks_no_slot(name: str) -> None:
    kernel = Kernel(half_made(name))
    assert "kernel-slot.missing" in {f.split("@")[0] for f in new(name, kernel)}


@pytest.mark.parametrize("name", BREENIX)
def test_before_the_process_table_no_root_is_a_processs(name: str) -> None:
    kernel = Kernel(half_made(name))
    kernel.__dict__["listed_processes"] = ()
    assert not {f for f in new(name, kernel) if f.startswith("kernel-slot.")}


def test_a_dead_root_under_a_kernel_stack() -> None:
    """Stack pages are not cleared: the scan finds what a PML4 left in them."""
    hand = Hand(saved(HEAD))
    stack = hand.kernel.stacks[3]
    dead = next(s.root for s in hand.processes if s.live is None)
    page = hand.frame_of(hand.master.root, stack.bottom + stack.size // 2)
    hand.memory.copy_frame(dead, page)
    hand.memory.set_entry(page + 8 * HEAP_SLOT, 0)
    assert page in {s.root for s in Kernel(hand.stop).spaces}
    assert new(HEAD, Kernel(hand.stop)) == set()


def retiring(hand: Hand, root: int) -> Kernel:
    """The kernel's books have all roots, and `root` only until its frames are given back."""
    kernel = Kernel(hand.stop)
    rows = [NamedRoot(s.root, i, f"p{i}") for i, s in enumerate(hand.processes)]
    kernel.__dict__["listed_processes"] = tuple(
        replace(row, source=RECLAIMING) if row.root == root else row for row in rows
    )
    return kernel


def test_what_retires_is_not_held_to_its_user_half() -> None:
    """release_mapped_leaves gives the frames back, and the tables follow later."""
    hand = Hand(saved(HEAD))
    root = next(s.root for s in hand.processes if s.live is None)
    kernel = retiring(hand, root)
    space = kernel.space_of(root)
    assert space is not None and space.retiring and not kernel.user_half_is_own(space)
    assert space in kernel.audited, "its kernel half still has to be right"
    assert not kernel.ledger.skipped
    assert not any(page.node.owner == root for page in kernel.ledger.user_pages())


def test_what_a_cpu_stands_on_does_not_retire() -> None:
    hand = Hand(saved(HEAD))
    root = hand.stop.cpu.root
    assert root is not None
    space = retiring(hand, root).space_of(root)
    assert space is not None and not space.retiring


def test_a_kernel_slot_that_retires_still_counts() -> None:
    hand = Hand(saved(HEAD))
    root = next(s.root for s in hand.processes if s.live is None)
    hand.change(root, HEAP, 4, lambda raw: 0)
    assert "kernel-slot.missing" in {f.split("@")[0] for f in new(HEAD, retiring(hand, root))}


def firmwares_idt(name: str, kind: str) -> Examination:
    stop = saved(name)
    cpu = stop.cpu._replace(idtr=DescriptorTable(VirtAddr(0x1F05_5000), 0xFFF))
    cpus = (cpu, *stop.cpus[1:])
    return examine(stop._replace(cpus=cpus, reason=stop.reason._replace(kind=kind, cpu=0)))


@pytest.mark.parametrize("name", LINUX)
def test_the_firmwares_idt_counts_when_an_exception_needs_it(name: str) -> None:
    """A bootloader leaves IDTR as the firmware had it, and no longer maps what it names."""
    early = firmwares_idt(name, "deadline")
    assert not seen(early.findings)
    assert "the firmware's" in reason(early, "descriptor-tables")
    assert "idt.handler-unmapped@IDT" in seen(firmwares_idt(name, "shutdown").findings)


@pytest.mark.parametrize("ring", [0, 3])
def test_rsp0_is_needed_once_ring_3_runs(ring: int) -> None:
    """The boot tests of 2026 make page tables before there is a scheduler."""
    m = Machine()
    m.percpu(0)
    m.write(PERCPU + 8, bytes(8))
    m.tss(rsp0=0)
    cs, ss, rsp = (0x33, 0x2B, DATA + 0x100) if ring else (8, 0, stack_top(1) - 0x100)
    cpu = m.cpu(rip=CODE if ring else TEXT, rsp=rsp, cs=cs, ss=ss, eflags=0x202)
    found = examine(m.stop(StopReason("interrupt"), cpu))
    assert ("tss.rsp0-invalid@TSS" in seen(found.findings)) == bool(ring)
    assert ("nothing needs it so far" in reason(found, "tss")) == (not ring)


def reason(found: Examination, name: str) -> str:
    why = next(c.reason for c in found.checks if c.name == name)
    return "" if why is None else reason_words(why)


def give_to_ring_3(hand: Hand, frame: int) -> None:
    """A page of the process in CR3."""
    space = hand.processes[0]
    at = hand.entry_pa(space.root, hand.free_user_va(space), 1)
    hand.memory.set_entry(at, frame | P | W | U | NX)


def test_a_dead_root_under_a_user_page() -> None:
    """Its frame was given out again: no page table is left for ring 3 to write to."""
    hand = Hand(saved(HEAD))
    dead = next(s.root for s in hand.processes if s.live is None)
    give_to_ring_3(hand, dead)
    kernel = Kernel(hand.stop)
    assert dead in {s.root for s in kernel.audit_scope} - {s.root for s in kernel.audited}
    assert new(HEAD, kernel) == set()


@pytest.mark.parametrize("name", [n for n in BREENIX if n != HEAD])
def test_where_frames_never_come_back_it_is_a_page_table(name: str) -> None:
    hand = Hand(saved(name))
    give_to_ring_3(hand, hand.processes[1].root)
    assert {f.split("@")[0] for f in new(name, Kernel(hand.stop))} == {"frame.maps-page-table"}
