"""How a guest ended: switched off, reset, triple-faulted, given up on by QEMU; by QEMU's word."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import capstone
import pytest

from breenix_gdbagent import configs
from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import LinkClosed
from breenix_gdbagent.link.qmp import Qmp
from breenix_gdbagent.live import LiveVm, attach
from breenix_gdbagent.stop import StopReason
from tests.guest.debugged import debugged, go, image, set_break, va
from tests.guest.labrun import agent
from tests.guest.live_support import beside, lab, needs_qemu

pytestmark = needs_qemu

UP = "Kernel initialization complete"
OFF = "o /w 0x604 0x2000"
"""PM1a_CNT of the ``pc`` machine: SLP_EN, state 0 (QEMU hw/acpi/core.c, acpi_pm1_cnt_write)."""


def ended_by(line: str) -> StopReason:
    """The end of a running guest on which QEMU's monitor makes the port write `line`."""
    with lab("hang") as vm:
        assert vm.run([UP], 20).kind == "marker"
        vm.cont()
        with suppress(LinkClosed):
            vm.hmp(line)
        reason = vm.wait(20)
        assert vm.exited == (reason.kind == "exit")
        return reason


@pytest.mark.parametrize(
    ("line", "status"), [("o /b 0xf4 0x10", 33), ("o /b 0xf4 0x11", 35), (OFF, 0)]
)
def test_a_guest_that_ends_qemu(line: str, status: int) -> None:
    """The same on every QEMU, whether it ends at once or waits to be told to."""
    assert ended_by(line)[:5] == ("exit", 0, None, "", status)


def test_a_reset_is_no_end(tmp_path: Path) -> None:
    assert ended_by("o /b 0x64 0xfe") == StopReason("shutdown")
    assert ended_by("system_reset").text == "reset from outside: host-qmp-system-reset"


def test_a_guest_that_exits_is_told_with_its_status(tmp_path: Path) -> None:
    """And the snapshot of it is what the report was made of."""
    file = tmp_path / "exit.snapshot"
    result = agent("ci", "--lab", "unexpected-exit", "--json", "-o", str(file))
    assert result.code == 1
    assert result.codes("error", "warning") == {"unexpected-exit"}
    finding = result.document["findings"][0]
    assert finding["evidence"]["exit_status"] == 35
    assert result.document["provenance"]["versions"]["qemu"]
    again = agent("report", str(file), "--json")
    assert again.document["findings"] == result.document["findings"]


def test_a_guest_that_exits_with_a_good_status_passes(tmp_path: Path) -> None:
    """The machine says which status that is; `--until` says that another end is awaited."""
    text = (configs.directory() / "lab.toml").read_text(encoding="utf-8")
    machine = tmp_path / "good.toml"
    swapped = text.replace("success = [33]", "success = [35]").replace(
        "failed = [35]", "failed = []"
    )
    machine.write_text(swapped, encoding="utf-8")
    good = ("ci", "--lab", "unexpected-exit", "--config", str(machine), "--json")
    assert agent(*good).code == 0
    early = agent(*good, "--until", "never printed")
    assert early.code == 1 and early.codes("error") == {"unexpected-exit"}
    assert "status 35 (success) before 'never printed'" in early.document["findings"][0]["summary"]


@pytest.mark.parametrize("how", ["step", "run"])
def test_an_instruction_that_ends_qemu_is_stepped_over(how: str) -> None:
    exit_at = _exit_of("kernel::scenarios::basic::unexpected_exit")
    with debugged("unexpected-exit") as debugger:
        vm = debugger.vm
        set_break(debugger, hex64(exit_at))
        assert go(debugger).reason.text == hex64(exit_at)
        reason = vm.step() if how == "step" else vm.run([], 20)
        if reason.kind == "step":  # this QEMU waits, and has not come to it
            reason = vm.run([], 20)
        assert reason == StopReason("exit", exit_status=35)
        assert vm.stop().serial.chunks


def _exit_of(symbol: str) -> int:
    """Where a function writes 32 bits to a port, as isa-debug-exit alone takes them."""
    link = image().addresses_of(symbol)[0]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    code = decoder.disasm_lite(image().read(link, 0x200), va(symbol))
    return next(at for at, _, *text in code if text == ["out", "dx, eax"])


def test_a_machine_of_somebody_else_is_left_waiting(tmp_path: Path) -> None:
    with beside(tmp_path, "hang") as qemu:
        with attach(qemu.gdb, qmp=qemu.qmp, serial=qemu.serial) as vm:
            reason = _switched_off(vm, qemu.room)
            assert reason == StopReason("exit", text="the guest switched the machine off")
            assert not vm.exited and vm.stop(reason).cpus
        assert qemu.process.poll() is None and qemu.status() == "shutdown"


def test_without_qmp_what_ended_it_is_not_known(tmp_path: Path) -> None:
    with beside(tmp_path, "hang") as qemu, attach(qemu.gdb, serial=qemu.serial) as vm:
        reason = _switched_off(vm, qemu.room)
        assert reason == StopReason("shutdown", text="without --qmp QEMU does not say which")


def _switched_off(vm: LiveVm, room: Path) -> StopReason:
    """What a run comes to in which QEMU's monitor, the agent's or another, ends the machine."""
    assert vm.run([UP], 20).kind == "marker"
    ours = vm._holds.qmp
    monitor = ours or Qmp(str(room / "qmp"))
    vm.cont()
    monitor.hmp(OFF)
    if ours is None:
        monitor.close()
    return vm.wait(20)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm")
def test_a_guest_that_kvm_cannot_run_is_no_finding() -> None:
    """It passes, or exit 3 says what QEMU said and what to do instead."""
    result = agent("ci", "--lab", "clean", "--accel", "kvm", "--json")
    if result.code != 0:
        assert (result.code, result.out) == (3, "")
        assert "--accel tcg" in result.err.splitlines()[-1]
