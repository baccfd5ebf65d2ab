"""Two CPUs fault at once, on Linux as our own guest has one: both are told, each by its own words.

Both CPUs run in ring 3; each is sent to an address of its own that nothing maps, and both run on
together. Whether the second has come to its handler when the first one's stop takes hold is a race,
so it is tried until it has.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.live import LiveVm, attach
from breenix_gdbagent.stop import Stop
from tests.guest.linuxguest import SPINS, Linux, linux, needs_linux
from tests.said import evidence

pytestmark = needs_linux

NOWHERE = (0x5000_0010, 0x5000_0020)
TRIES = 40
SECONDS = 10.0


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Linux]:
    with linux(tmp_path_factory.mktemp("linux"), "max,la57=off", pauses=SPINS) as running:
        yield running


def in_ring_3(vm: LiveVm) -> Stop:
    """Both CPUs in the program: run on a little where one is in the kernel."""
    stop = vm.stop()
    while [cpu.cpl for cpu in stop.cpus] != [3, 3]:
        stop = vm.run_until([], 0.02, on_fault=lambda fault: True)
    return stop


def send_both_away(vm: LiveVm) -> Stop:
    before = in_ring_3(vm)
    for cpu, address in zip(before.cpus, NOWHERE, strict=True):
        vm.stub.ask(b"Hg%02x" % (cpu.index + 1))
        vm.stub.write_register("rip", address)
    stop = vm.run_until([], SECONDS)
    # The program goes on where it was: its kernel shall not see these faults.
    for cpu in before.cpus:
        vm.stub.ask(b"Hg%02x" % (cpu.index + 1))
        for name in ("rip", "rsp", "eflags", "ss", "cs", "rax", "rcx", "rdx", "rdi", "rsi"):
            vm.stub.write_register(name, cpu.registers[name])
    return stop


def test_each_cpu_has_its_own_fault(guest: Linux) -> None:
    with attach(guest.gdb, qmp=guest.qmp, ram=guest.ram) as vm:
        vm.arm()
        for _ in range(TRIES):
            stop = send_both_away(vm)
            assert stop.reason.kind == "fault"
            faults = [f for f in examine(stop).findings if f.code.name.startswith("page-fault.")]
            assert len(faults) in (1, 2)
            if len(faults) == 2:
                break
        else:
            pytest.skip(f"the second CPU was never at its handler in {TRIES} tries")
    assert {f.where.va for f in faults} == set(NOWHERE)
    assert {evidence(f)["error_code"] for f in faults} == {"0x14"}
    assert {f.code.name for f in faults} == {"page-fault.unmapped"}
    handlers = {cpu.rip for cpu in stop.cpus}
    assert len(handlers) == 1  # one handler, two frames
    assert len({cpu.rsp for cpu in stop.cpus}) == 2
