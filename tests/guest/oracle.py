"""QEMU's own word on whole spaces: CR3 is put in by the debugger and what the monitor lists is read
back. It changes the vCPU, so it is for tests only, and puts CR3 back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.mapped_space import MappedSpace, Spaces
from breenix_gdbagent.x86.paging import Tables, walk
from tests.guest.linuxguest import Leaf, gpa, leaves, rights

MASK = (1 << 48) - 1
ASKED = 200


class Monitor:
    """The agent's QMP connection, as the judge of `linuxguest` wants it."""

    def __init__(self, vm: LiveVm) -> None:
        self._vm = vm

    def hmp(self, line: str, cpu: int) -> str:
        assert cpu == 0
        return self._vm.hmp(line)


@contextmanager
def standing_on(vm: LiveVm, stop: Stop, root: int) -> Iterator[Monitor]:
    """CPU 0 has `root` in CR3 meanwhile."""
    before = stop.cpus[0].get("cr3")
    assert before is not None
    vm.stub.write_register("cr3", root)
    try:
        yield Monitor(vm)
    finally:
        vm.stub.write_register("cr3", before)


def judge(vm: LiveVm, stop: Stop, root: int, dice: random.Random) -> int:
    """Asserts that a whole space is as QEMU has it; how many leaves it has."""
    tables = Tables(stop.memory)
    space = Spaces(tables, 4, True).space(root)
    with standing_on(vm, stop, root) as monitor:
        theirs = leaves(monitor, 0)  # type: ignore[arg-type]
        told = rights(monitor, 0)  # type: ignore[arg-type]
        _same_places(space, theirs)
        assert _by_rights(space) == told
        for va in _questions(theirs, dice):
            assert walk(tables, root, va, 4, True).pa == gpa(monitor, va, 0)  # type: ignore[arg-type]
    return len(theirs)


def _same_places(space: MappedSpace, theirs: list[Leaf]) -> None:
    """All that is mapped and nothing else, at every byte; no leaf of ours has more than its own."""
    assert sum(r.end - r.start for r in space.ranges) == sum(leaf.size for leaf in theirs)
    for leaf in theirs:
        found = space.find(leaf.va)
        assert found is not None and leaf.va + leaf.size <= found.end, hex(leaf.va)
        assert (leaf.w or not found.w) and (leaf.u or not found.u) and (found.nx or not leaf.nx)


def _by_rights(space: MappedSpace) -> list[tuple[int, int, bool, bool]]:
    """The ranges as `info mem` merges them: it knows no NX."""
    out: list[tuple[int, int, bool, bool]] = []
    for r in space.ranges:
        start, end = r.start & MASK, ((r.end - 1) & MASK) + 1
        if out and out[-1][1] == start and out[-1][2:] == (r.w, r.u):
            out[-1] = (out[-1][0], end, r.w, r.u)
        else:
            out.append((start, end, r.w, r.u))
    return out


def _questions(theirs: list[Leaf], dice: random.Random) -> Iterator[int]:
    for leaf in dice.sample(theirs, min(ASKED, len(theirs))):
        yield leaf.va + dice.randrange(leaf.size)
        yield (leaf.va ^ 1 << dice.randrange(12, 47)) + dice.randrange(4096)
