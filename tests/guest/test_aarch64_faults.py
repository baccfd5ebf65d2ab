"""Faults of the lab guest on aarch64, caught before their handler, against QEMU's own log of them
(``-d int``)."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from breenix_gdbagent import configs
from breenix_gdbagent.lab import elf, scenario
from breenix_gdbagent.live import LiveVm, launch
from tests.guest.labrun import truth

GUEST = Path(__file__).parents[2] / "fixtures" / "labguest-aarch64"
ELF = elf(False, "aarch64")
DONE = "LAB COMPLETE"
SECONDS = 120

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-aarch64") is None, reason="qemu-system-aarch64 is not installed"
)

CAUGHT = (
    "page-fault-unmapped", "page-fault-user", "write-protected-table", "access-flag",
    "external-abort-walk", "invalid-opcode", "eret-illegal", "kernel-frame-in-el0", "guard-page",
    "kernel-stack-unmapped", "alignment-user", "vectors-unmapped",
)  # fmt: skip


def _judge() -> ModuleType:
    """The guest's own reader of QEMU's log."""
    found = importlib.util.spec_from_file_location("verify_aarch64", GUEST / "verify.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _lab(name: str, *arguments: str, smp: int = 1) -> LiveVm:
    plan = scenario(name, "aarch64")
    config = configs.load("lab-aarch64").with_settings(cpu=plan.cpu, smp=smp)
    config = replace(config, arguments=(*config.arguments, *arguments))
    return launch(config, kernel=ELF, append=plan.append)


@pytest.mark.parametrize("name", CAUGHT)
def test_the_first_fault_is_caught_before_its_handler_has_run(name: str, tmp_path: Path) -> None:
    log = tmp_path / "int.log"
    with _lab(name, "-d", "int", "-D", str(log)) as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], SECONDS)
        assert stop.reason.kind == "fault"
        registers = vm.registers
    (logged,) = _judge().exceptions(log.read_text().splitlines())
    assert stop.reason.vector == logged["slot"]
    assert registers["esr_el1"] == logged["esr"] and registers["elr_el1"] == logged["elr"]
    if "far" in logged:
        assert registers["far_el1"] == logged["far"]
    (plan,) = truth(stop.serial.port(0), "plan")
    assert registers["esr_el1"] == int(plan["esr"], 16)


@pytest.mark.parametrize("cpus", [1, 4])
def test_a_run_without_faults_is_not_stopped_for_its_system_calls(cpus: int) -> None:
    with _lab("clean", smp=cpus) as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], SECONDS)
        assert stop.reason.kind == "marker" and DONE in stop.reason.text
        (told,) = truth(stop.serial.port(0), "vbar")
        assert f"the kernel loaded its vectors at {told['base']}, " in (vm.arming.armed_at or "")
        assert vm.agent_stops == cpus + 1  # where each CPU sets VBAR_EL1, and the end
        assert truth(stop.serial.port(0), "cpus") == [{"k": "cpus", "online": cpus}]


def test_a_fault_of_another_cpu_is_that_cpus() -> None:
    with _lab("other-cpu", smp=4) as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], SECONDS)
        assert (stop.reason.kind, stop.reason.cpu, stop.reason.vector) == ("fault", 1, 4)
        (plan,) = truth(stop.serial.port(0), "plan")
        assert vm.registers["far_el1"] == int(plan["far"], 16)


def test_a_panic_is_caught_at_its_first_instruction() -> None:
    with _lab("panic") as vm:
        vm.arm(ELF, panic=(_panic(),))
        stop = vm.run_until([DONE], SECONDS)
        assert stop.reason.kind == "panic"
        assert vm.registers["pc"] == _panic()


def test_the_table_of_a_guest_that_has_run_is_found() -> None:
    with _lab("clean") as vm:
        vm.run_until([DONE], SECONDS)
        assert vm.arming.armed_at is None
        vm.arm(ELF)
        assert (vm.arming.armed_at or "").startswith("the guest stood still with its vectors at")
        assert vm.arming.bias == 0


def _panic() -> int:
    from breenix_gdbagent.symbols import Image

    (found,) = Image.open(ELF).addresses_of("__rustc::rust_begin_unwind")
    return found
