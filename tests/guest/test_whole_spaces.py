"""Every root of a lab guest, each byte of each space: QEMU is the judge, with that root in CR3."""

from __future__ import annotations

import random

import pytest

from breenix_gdbagent import lab
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.lab import elf
from breenix_gdbagent.live import launch
from breenix_gdbagent.symbols import Image
from tests.guest.live_support import needs_qemu
from tests.guest.oracle import judge

pytestmark = needs_qemu

SCENARIOS = (
    "many",
    "kernel-slot-aliased",
    "table-cycle",
    "kernel-stack-read-only",
    "copy-on-write",
)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_space_of_a_stop(name: str) -> None:
    scenario = lab.scenario(name)
    with launch("lab", kernel=elf(False), append=scenario.append, cpu=scenario.cpu) as vm:
        run = GuardedRun(Debugger(vm, Image.open(elf(False))), Orders(timeout=30))
        run.start()
        stop = run.go().kernel.stop
        roots = [s.root for s in Kernel(stop).spaces]
        assert len(roots) >= (15 if name == "many" else 4)
        dice = random.Random(name)
        assert all(judge(vm, stop, root, dice) > 100 for root in roots)
        assert vm.stop().cpus[0].get("cr3") == stop.cpus[0].get("cr3")
