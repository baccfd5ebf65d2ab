"""The kernel's own structures as we read them, against the lab guest's own word for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from breenix_gdbagent.kernel.allocators import holes_of
from tests.guest.live_support import needs_qemu
from tests.guest.stopped_lab import StoppedLab, stopped

pytestmark = needs_qemu


@pytest.fixture(scope="module", params=[("many", 2025), ("many", 2026)], ids=["2025", "2026"])
def guest(request: pytest.FixtureRequest) -> Iterator[StoppedLab]:
    scenario, era = request.param
    with stopped(scenario, era) as found:
        yield found


def test_processes(guest: StoppedLab) -> None:
    table = guest.kernel().structures.processes
    told = guest.told("process", at="end")
    assert len(told) > 11, "so many that the tree has internal nodes"
    for process, truth in zip(table.processes, told, strict=True):
        assert process.pid == truth["pid"]
        assert process.name == truth["name"]
        assert process.state == truth["state"]
        assert (process.root or 0) == int(truth["root"], 16)
        assert process.entry_point == int(truth["entry"], 16)
        assert (process.parent or 0) == truth["parent"]
        assert list(process.children) == truth["children"]
        assert list(process.thread_ids) == truth["threads"]
        assert process.memory == truth["memory"]
        assert process.thread is not None and process.user_stack is not None
        assert process.thread.state == truth["thread_state"]
        assert process.thread.context.rip == int(truth["rip"], 16)
        assert process.thread.context.rsp == int(truth["rsp"], 16)
        assert process.user_stack[0] == int(truth["user_stack_bottom"], 16)
        assert process.user_stack[1] == int(truth["user_stack_top"], 16)
        code = None if process.exit_code is None else str(process.exit_code)
        assert code == truth.get("exit_code")


def test_threads_of_the_scheduler(guest: StoppedLab) -> None:
    scheduler = guest.kernel().structures.scheduler
    told = guest.told("thread", at="end")
    for thread, truth in zip(scheduler.threads, told, strict=True):
        assert (thread.id, thread.name) == (truth["id"], truth["name"])
        assert (thread.state, thread.privilege) == (truth["state"], truth["privilege"])
        assert thread.address == int(truth["address"], 16)
        assert thread.kernel_stack_top == int(truth["kernel_stack_top"], 16)
        assert thread.stack_bottom == int(truth["stack_bottom"], 16)
        assert thread.stack_top == int(truth["stack_top"], 16)
        assert thread.priority == truth["priority"]
        assert thread.has_started == truth["has_started"]
        assert thread.owner_pid == truth.get("pid")
    (state,) = guest.told("scheduler", at="end")
    assert scheduler.current[0] == state["current"] and scheduler.idle[0] == state["idle"]
    assert list(scheduler.ready[0]) == state["ready"]


def test_heap(guest: StoppedLab) -> None:
    structures = guest.kernel().structures
    (truth,) = guest.told("heap", at="end")
    heap = structures.heap
    assert (heap.kind, heap.used) == (truth["kind"], truth["used"])
    assert (heap.start, heap.end) == (int(truth["start"], 16), int(truth["end"], 16))
    if heap.kind == "bump":
        assert heap.allocations == truth["allocations"]
    else:
        holes = [hex(hole.at) for hole in holes_of(structures.values, heap)]
        assert holes == truth["holes"]


def test_frames(guest: StoppedLab) -> None:
    frames = guest.kernel().structures.frames
    (truth,) = guest.told("frames", at="end")
    assert frames.total == truth["total"]
    assert frames.used == truth["used"]
    assert frames.frontier == truth["frontier"]
    assert len(frames.free_list) == truth["free_list"]
    assert (frames.ledger is not None) == (guest.era == 2026)
    for stack in guest.told("stack"):
        assert {frames.state(int(frame, 16)) for frame in stack["frames"]} == {"allocated"}
    assert {frames.state(frame) for frame in frames.free_list} <= {"free"}


def test_stack_slots_and_their_owners(guest: StoppedLab) -> None:
    kernel = guest.kernel()
    (truth,) = guest.told("stack_slots", at="end")
    words = [int(word, 16) for word in truth["bitmap"]]
    taken = {64 * n + bit for n, word in enumerate(words) for bit in range(64) if word >> bit & 1}
    assert kernel.structures.stack_slots == taken
    names = {t["id"]: t["name"] for t in guest.told("thread", at="end")}
    dead = {t["id"] for t in guest.told("thread", at="end", state="Terminated")}
    told = {
        f"slot {s['slot']}": (names[s["thread"]],) if s["thread"] not in dead else ()
        for s in guest.told("stack")
    }
    assert {s.name: kernel.owners_of(s) for s in kernel.stacks} == told


def test_roots_are_those_of_the_process_table(guest: StoppedLab) -> None:
    kernel = guest.kernel()
    told = {
        (int(p["root"], 16), p["pid"], p["name"])
        for p in guest.told("process", at="end")
        if int(p["root"], 16)
    }
    alive = [s for s in kernel.spaces if s.role == "process" and s.live]
    assert {(s.root, s.pid, s.name) for s in alive} == told
    dead = [s for s in kernel.spaces if s.role == "process" and not s.live]
    # In 2026 an exit gives the page table back, and what is left of it is found in RAM.
    assert all(s.live is False for s in dead)
    assert kernel.thread_name(kernel.stop.cpu) == "idle"


def test_whether_frames_ever_came_back(guest: StoppedLab) -> None:
    assert guest.kernel().frames_come_back == (guest.era == 2026)
