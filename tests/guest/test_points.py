"""Points of every kind on the lab guest: when they count, what they see, what they leave alone."""

from __future__ import annotations

import subprocess

import pytest

from breenix_gdbagent.debugger.entry_watch import EntryWatch, find_root
from breenix_gdbagent.debugger.points import Point
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.places import Place
from breenix_gdbagent.kernel.view import Kernel
from tests.guest.debugged import (
    BASE,
    SYSCALL,
    debugged,
    go,
    hits_told,
    image,
    set_break,
    set_checkpoint,
    set_invariant,
    va,
)
from tests.guest.live_support import DONE, ELF, needs_qemu

pytestmark = needs_qemu

COW = 0x40008000
"""The page that processes 2 and 3 share in `copy-on-write` (the scenario's plan says so)."""


def test_places_by_symbol_line_address_and_vector() -> None:
    with debugged("copy-on-write") as debugger:
        for text, at in (
            (SYSCALL, va(SYSCALL)),
            (f"{va('syscall_entry') + 2:#x}", va("syscall_entry") + 2),
            ("syscall_entry+2", va("syscall_entry") + 2),
            ("exception #PF", va("kernel::interrupts::page_fault_handler")),
        ):
            point = set_break(debugger, text)
            event = go(debugger)
            assert event.points == (point,)
            assert debugger.vm.registers["rip"] == at
            debugger.remove(point)
        file, _, line = addr2line(va(SYSCALL)).rpartition(":")
        point = set_break(debugger, f"{file}:{int(line) + 2}")
        assert go(debugger).points == (point,)
        assert addr2line(debugger.vm.registers["rip"]) == f"{file}:{int(line) + 2}"


def addr2line(address: int) -> str:
    """``file:line`` of the outermost function there, by binutils."""
    done = subprocess.run(
        ["addr2line", "-ie", str(ELF), f"{address - BASE:#x}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()[-1]


def test_a_process_is_the_one_whose_cr3_it_is() -> None:
    with debugged("many") as debugger:
        point = set_break(debugger, "syscall_entry process 3")
        roots = set()
        for _ in range(3):
            event = go(debugger)
            assert event.points == (point,)
            kernel = Kernel(debugger.stop(event.reason))
            roots.add(kernel.stop.cpu.root)
            assert {s.pid for s in kernel.spaces if s.root in roots} == {3}
        assert len(roots) == 1


def test_conditions_and_counts() -> None:
    with debugged("marker-missing") as debugger:
        point = set_break(debugger, f"{SYSCALL} count 4 if thread.id == 3")
        event = go(debugger)
        assert event.points == (point,)
        assert point.hits == 4
        stop = debugger.stop(event.reason)
        assert Kernel(stop).thread_name(stop.cpu) is not None
        debugger.remove(point)
        broken = set_break(debugger, f"{SYSCALL} if u64[0x10] == 3")
        event = go(debugger)
        assert event.points == (broken,)  # what cannot be told stops, and says why
        assert "0x10 is not mapped" in event.notes[0]


@pytest.mark.parametrize(
    "text",
    ["syscall_entry if", "syscall_entry if rdi ==", "syscall_entry whenever", "exception 300",
     "syscall_entry if nosuch == 1", "syscall_entry count 0", "syscall_entry cpu x", "nosuch"],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with debugged() as debugger:
        with pytest.raises((InputError, ReadError)):
            set_break(debugger, text)
        assert not list(debugger.table)


def test_an_exception_stops_once() -> None:
    """A point on the vector and the rule for unexpected faults are one stop."""
    with debugged("page-fault-user") as debugger:
        point = set_break(debugger, "exception 14")
        event = go(debugger, DONE)
        assert (event.reason.kind, event.reason.vector, event.points) == ("fault", 14, (point,))
        debugger.remove(point)
        assert go(debugger, DONE).reason.kind == "marker"


def test_a_checkpoint_keeps_the_last_hits_and_changes_nothing() -> None:
    """Where it stands the code is the ELF's, with the breakpoint in."""
    said: list[str] = []
    with debugged("clean", said=said) as debugger:
        point = set_checkpoint(debugger, f"{SYSCALL} rdi, thread.id, SCHEDULER.current_thread")
        quiet = set_checkpoint(debugger, "--quiet syscall_entry pid if pid == 2")
        assert go(debugger, DONE).reason.kind == "marker"
        for symbol in (SYSCALL, "syscall_entry"):
            memory = debugger.vm.read(va(symbol), 32)
            assert memory == image().read(va(symbol) - BASE, 32)  # no int3
    assert point.hits > quiet.hits > 0
    assert sum(hits_told(line) for line in said) == point.hits
    assert len(point.records) == min(point.hits, 100)
    assert all("<" not in line.partition("thread.id")[2] for line in said)
    assert {record.text for record in quiet.records} == {"syscall_entry: pid = 2"}
    assert point.rate is not None and point.rate > 0


def test_an_invariant_stops_at_its_first_violation() -> None:
    with debugged("kernel-slot-diverged") as debugger:
        point = set_invariant(debugger, "kernel-slots at syscall_entry")
        event = go(debugger, DONE)
        assert event.points == (point,)
        assert event.notes[0].startswith("kernel-slots is violated: ")
        assert point.hits > 1  # it held before


def test_a_page_table_entry_stops_at_the_instruction_that_changes_it() -> None:
    """Mapped, then unshared by the page-fault handler; through the direct map, which is listed; the
    walker's own bits are told and are no stop."""
    with debugged("copy-on-write") as debugger:
        first = set_break(debugger, "syscall_entry process 2")
        kernel = Kernel(debugger.stop(go(debugger).reason))
        debugger.remove(first)
        root, label = find_root(kernel, "2")
        point = Point(debugger.table.number(), "entry", Place("the page"))
        watch = EntryWatch(point, COW, root, "2", label)
        debugger.hits.entries[point.number] = watch
        debugger.add(point)
        watch.arm(debugger.vm, debugger.table, debugger.placed)
        assert [e.entry.level for e in watch.entries] == [4, 3, 2, 1]
        assert all(e.aliases for e in watch.entries)
        leaf = watch.entries[-1].entry.entry_pa
        for pattern in ("0x0 (not present) -> ", "(P U AVL9 NX) -> "):
            event = go(debugger, DONE)
            assert event.points == (point,)
            assert pattern in event.notes[0]
            raw = int.from_bytes(debugger.stop(event.reason).memory.read(leaf, 8), "little")
            assert f"-> 0x{raw:016x}" in event.notes[0]
        event = go(debugger, DONE)
        assert event.reason.kind == "marker"
        assert any("the walker changed A and D of the level 1" in note for note in event.notes)
