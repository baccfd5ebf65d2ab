"""Faults of the lab guest caught live, against QEMU's own log of them (``-d int``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from breenix_gdbagent.errors import LinkError, Unreadable
from breenix_gdbagent.link.qmp import Qmp
from breenix_gdbagent.live import attach
from breenix_gdbagent.live.elfcode import KernelCode
from breenix_gdbagent.live.fault import Fault
from breenix_gdbagent.symbols import Image
from tests.guest.labrun import agent
from tests.guest.live_support import (
    DONE,
    ELF,
    beside,
    lab,
    logged_exceptions,
    needs_qemu,
    stood_at_its_exit,
)

pytestmark = needs_qemu

HAS_ERROR_CODE = {8, 10, 11, 12, 13, 14}

CAUGHT = (
    "page-fault-unmapped", "page-fault-user", "guard-page", "reserved-bit", "non-canonical",
    "general-protection-user", "invalid-opcode", "divide-error-user", "double-fault",
    "gate-missing", "kernel-stack-unmapped", "stack-overflow", "kernel-frame-in-ring-3",
)  # fmt: skip


@pytest.mark.parametrize("scenario", CAUGHT)
def test_the_first_fault_is_caught_before_its_handler_has_run(
    scenario: str, tmp_path: Path
) -> None:
    log = tmp_path / "int.log"
    with lab(scenario, arguments=("-d", "int", "-D", str(log))) as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], 20)
        assert stop.reason.kind == "fault"
        stack = vm.read(stop.cpu.rsp, 16)
    vector = stop.reason.vector
    assert vector is not None
    error, rip = (int.from_bytes(stack[i : i + 8], "little") for i in (0, 8))
    if vector not in HAS_ERROR_CODE:
        error, rip = 0, error
    logged = logged_exceptions(log.read_text())
    # What could not be delivered never reached a handler: the log has it before the one caught.
    assert vector == logged[-1].vector
    assert [e.vector for e in logged if e.vector == vector] == [vector]
    assert (error, rip) == (logged[-1].error, logged[-1].rip)
    if 14 in [e.vector for e in logged]:
        assert stop.cpu.registers["cr2"] == logged[-1].cr2


def test_a_run_without_faults_is_not_stopped_once_armed() -> None:
    with lab("clean") as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], 20)
        assert stop.reason.kind == "marker" and DONE in stop.reason.text
        assert vm.agent_stops == 2  # its lidt, and the end
        assert (vm.arming.armed_at or "").startswith("the kernel loaded its IDT at")
        assert vm.arming.bias == 0x8000000000
        assert stop.cpu.idtr is not None and stop.cpu.tr is not None
        assert stop.cpu.idtr.base == int(vm.arming.armed_at.split()[6].rstrip(","), 16)
        assert [m.pattern for m in vm.console.markers][-1] == DONE
        assert vm.arming.notes == []


def test_a_fault_is_passed_once_and_not_stopped_at_again(tmp_path: Path) -> None:
    log = tmp_path / "int.log"
    seen: list[tuple[int | None, int]] = []

    def on_fault(fault: Fault) -> bool:
        seen.append((fault.reason.vector, fault.registers["cr2"]))
        return True

    with lab("page-fault-user", arguments=("-d", "int", "-D", str(log))) as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], 20, on_fault)
        assert stop.reason.kind == "marker"
        text = stop.serial.port(0)
    assert seen == [(14, 0x50000000)]
    assert [e.vector for e in logged_exceptions(log.read_text())] == [14]
    assert "Killing process" in text or "killed" in text


def test_a_fault_that_is_refused_to_be_passed_is_the_end_of_the_run() -> None:
    with lab("page-fault-user") as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], 20, lambda fault: False)
        assert (stop.reason.kind, stop.reason.vector) == ("fault", 14)
        again = vm.run_until([DONE], 20)
        assert again.reason.kind == "marker"
        with pytest.raises(Unreadable, match="has run since"):
            stop.memory.table(stop.cpu.root)  # type: ignore[arg-type]


def test_the_panic_handler_is_armed_at_the_proved_bias() -> None:
    (address,) = {s.address for s in Image.open(ELF).find("rust_begin_unwind")}
    with lab("panic") as vm:
        vm.arm(ELF, panic=[address])
        stop = vm.run_until([DONE], 20)
        assert stop.reason.kind == "panic"
        assert stop.cpu.rip == 0x8000000000 + address


@pytest.mark.parametrize("scenario", ["ist-unmapped", "gdt-unmapped", "reboot"])
def test_a_triple_fault_or_reboot_leaves_registers_and_memory(scenario: str) -> None:
    with lab(scenario) as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], 20)
        assert stop.reason.kind == "shutdown"
        assert stop.cpu.root is not None and len(stop.memory.table(stop.cpu.root)) == 512
        assert stop.cpu.rip > 0x8000000000
        with pytest.raises(LinkError, match="shut down"):
            vm.cont()


def test_the_guest_ends_qemu_by_itself() -> None:
    with lab("unexpected-exit") as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], 20)
        assert (stop.reason.kind, stop.reason.exit_status) == ("exit", 35)
        assert vm.config is not None and vm.config.outcome(35) == "failed"
        assert stood_at_its_exit(stop.cpus)
        assert stop.serial.port(0).rstrip() != ""
        assert vm.exited


@pytest.mark.parametrize("scenario", ["clean", "unexpected-exit", "ist-unmapped"])
def test_serial_text_is_complete_at_every_end(scenario: str, tmp_path: Path) -> None:
    """Judge: what QEMU logs of the same port, byte for byte."""
    log = tmp_path / "serial.log"
    with lab(scenario, serial_log=log) as vm:
        stop = vm.run_until([DONE], 20)
        assert stop.reason.kind == {"clean": "marker", "ist-unmapped": "shutdown"}.get(
            scenario, "exit"
        )
        ours = b"".join(c.data for c in stop.serial.chunks)
        assert ours == log.read_bytes() != b""
        assert [c.seconds for c in stop.serial.chunks] == sorted(
            c.seconds for c in stop.serial.chunks
        )


def test_hang_ends_at_the_deadline_with_everything_readable() -> None:
    with lab("hang") as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], 1.0)
        assert stop.reason.kind == "deadline"
        assert stop.cpu.halted is False
        assert 0.5 < stop.seconds < 3.0


def test_without_the_elf_the_window_is_said() -> None:
    with lab("page-fault-user") as vm:
        vm.arm()
        stop = vm.run_until([DONE], 20)
        assert vm.arming.armed_at is not None and vm.arming.armed_at.startswith(
            ("after the serial text showed", "a stop found")
        )
        assert stop.reason.kind in ("fault", "marker")


def test_a_kernel_where_nobody_awaits_it_is_placed_by_its_gates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lidt is awaited at other slots than the one where it is: what the IDT leads to tells."""
    monkeypatch.setattr("breenix_gdbagent.live.elfcode.SLOTS", range(5, 9))
    with lab("clean") as vm:
        vm.arm(ELF)
        assert vm.run_until([DONE], 20).reason.kind == "marker"
        assert vm.arming.bias == 1 << 39


def test_another_kernels_elf_is_not_believed(tmp_path: Path) -> None:
    """Same places of lidt, other code: the guest's memory says no."""
    data = bytearray(ELF.read_bytes())
    code = data.index(KernelCode.read(ELF).segments[0].data)
    data[code : code + 16] = bytes(16)
    other = tmp_path / "other.elf"
    other.write_bytes(data)
    with lab("clean") as vm:
        vm.arm(other)
        vm.run_until([DONE], 20)
        assert vm.arming.bias is None
        assert any("is not the kernel that runs" in note for note in vm.arming.notes)
        assert vm.arming.armed_at is not None  # by the stop at the end, if not before


def test_two_deterministic_runs_say_the_same_byte_for_byte() -> None:
    texts = []
    for _ in range(2):
        with lab("page-fault-user", deterministic=True) as vm:
            vm.arm(ELF)
            stop = vm.run_until([DONE], 60, lambda fault: True)
            assert stop.reason.kind == "marker"
            texts.append(stop.serial.port(0).partition(DONE)[0])
    assert texts[0] == texts[1] != ""


def test_every_cpu_is_in_the_stop() -> None:
    with lab("parked", smp=2) as vm:
        vm.arm(ELF)
        stop = vm.run_until([DONE], 20)
        assert [c.index for c in stop.cpus] == [0, 1]
        assert stop.cpus[1].halted is True
        assert all(c.idtr is not None for c in stop.cpus)


@pytest.mark.parametrize("scenario", ["ist-unmapped", "gdt-unmapped", "cr3-bootloader"])
def test_who_comes_after_a_triple_fault_is_told_of_it(scenario: str, tmp_path: Path) -> None:
    """Nobody was watching: the guest stands paused, and so does what QEMU dumps of it. That it shut
    down QEMU's run state proves; a bare core has none, and the tables make it likely."""
    with beside(tmp_path, scenario) as qemu:
        with attach(qemu.gdb, qmp=qemu.qmp) as vm:
            assert vm.run_until([], 30).reason.kind == "shutdown"
        core = tmp_path / "core"
        monitor = Qmp(str(qemu.room / "qmp"))
        monitor.execute("dump-guest-memory", {"paging": False, "protocol": f"file:{core}"}, 60)
        monitor.close()
        targets = (("--gdb", qemu.gdb, "--qmp", qemu.qmp), ("--snapshot", str(core)))
        told = [agent("audit", *target, "--json") for target in targets]
    for one, confidence in zip(told, ("proved", "likely"), strict=True):
        triple = next(f for f in one.document["findings"] if f["code"] == "triple-fault")
        wanted = {"cr3-bootloader": "cr3.bootloader"}.get(scenario, scenario.replace("-", "."))
        assert triple["cause"] == wanted
        assert triple["confidence"] == confidence
