"""Many spaces: the audit looks at what they share once, and still finds the one that is broken."""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop, StopReason
from tests.writers.machine import HEAP, STACKS, TEXT, Machine, stack_top
from tests.writers.memory import FrameMemory
from tests.writers.tables import ADDRESS

SPACES = 300


@pytest.fixture(scope="module")
def machine() -> Machine:
    made = Machine()
    made.processes += [made._process() for _ in range(SPACES - 2)]
    return made


def kernel_of(machine: Machine) -> Kernel:
    cpu = machine.cpu(rip=TEXT + 0x1000, rsp=stack_top(1) - 0x100, cs=8, ss=0x10, eflags=2)
    return Kernel(Stop(cpus=(cpu,), memory=machine.memory(), reason=StopReason("interrupt")))


def errors(kernel: Kernel) -> set[str]:
    found = examine(kernel.stop, kernel).findings
    return {f.fingerprint for f in found if f.effective_severity == "error"}


def test_all_are_found_and_nothing_is_wrong(machine: Machine) -> None:
    kernel = kernel_of(machine)
    assert {s.root for s in kernel.spaces} == {machine.master, *machine.processes}
    assert errors(kernel) == set()


def test_the_kernels_half_is_read_once(machine: Machine) -> None:
    """One master, one node a table of its half, six tables a process: no more."""
    nodes = kernel_of(machine).ledger.graph.nodes.values()
    own = [n for n in nodes if not n.kernel and n.level < 4]
    assert len(own) == 6 * SPACES
    assert len([n for n in nodes if n.kernel]) < 40


def test_one_broken_among_many(machine: Machine) -> None:
    victim = machine.processes[SPACES // 2]
    entry = victim + 8 * (HEAP >> 39 & 511)
    before = machine.entry(entry)
    machine.set_entry(entry, 0)
    try:
        kernel = kernel_of(machine)
        seen = examine(kernel.stop, kernel).findings
        found = [f for f in seen if f.effective_severity == "error"]
    finally:
        machine.set_entry(entry, before)
    assert [f.code.name for f in found] == ["kernel-slot.missing"]
    assert found[0].where.root == victim


def test_a_stack_missing_in_all(machine: Machine) -> None:
    """One finding, not one for each space."""
    page = STACKS + 0x11000 + 0x5000
    at = machine.leaf(page, machine.master)
    before = machine.entry(at)
    machine.set_entry(at, before & ADDRESS)
    try:
        found = errors(kernel_of(machine))
    finally:
        machine.set_entry(at, before)
    assert found == {"kernel-stack.unmapped@slot 1"}


def test_many_spaces_cost_little_more_than_their_own_tables(machine: Machine) -> None:
    """Counted in tables read: walked anew in each space, the kernel's half alone is 30 a space."""
    kernel = kernel_of(machine)
    examine(kernel.stop, kernel)
    memory = kernel.stop.memory
    assert isinstance(memory, FrameMemory)
    assert sum(memory.asked.values()) < 8 * SPACES
