"""Kernels that are not Breenix's: the machines that boot them, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from breenix_gdbagent import configs
from breenix_gdbagent.lab import elf
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu
from tests.guest.smallguest import (
    DEAD,
    GDT_READ_ONLY,
    IDLES,
    NO_NXE,
    PANICS,
    PIC,
    READS,
    RESETS,
    UNALIGNED,
    WAITS,
    assembled,
    booted,
    loader_disk,
    needs_small_guest,
    uefi_machine,
)
from tests.schema import validate

pytestmark = needs_qemu


def test_a_kernel_that_qemu_loads_runs_on_a_machine_of_its_own(tmp_path: Path) -> None:
    kernel, machine = str(elf(False)), str(tmp_path / "own.toml")
    made = agent("init", "machine", "--kernel", kernel, "--success", "LAB COMPLETE", "-o", machine)
    assert made.code == 0, made.err
    saved = tmp_path / "end.snapshot"
    run = agent("ci", "--config", machine, "--kernel", kernel, "-o", str(saved), "--json")
    assert run.code == 0, run.err + run.out
    document = run.document
    assert document["run"]["outcome"] == "passed"
    assert document["target"] == {"kind": "kernel", "config": "own.toml", "kernel": "labguest.elf"}
    again = agent(
        "snapshot", "--reproduce", str(saved), "--config", machine, "--kernel", kernel
    )  # fmt: skip
    assert (again.code, again.out.splitlines()[:1]) == (0, ["the same fault again"]), again.err


CAUGHT = b"EXCEPTION\n"


@needs_small_guest
@pytest.mark.parametrize("with_elf", [True, False])
def test_a_kernel_that_halted_in_its_handler_has_faulted(tmp_path: Path, with_elf: bool) -> None:
    """Its entry is written by hand, and page faults have no stack of their own."""
    kernel = assembled(READS, tmp_path)
    with booted(kernel, tmp_path, until=CAUGHT) as guest:
        elf = ["--kernel", str(kernel)] if with_elf else []
        seen = agent("audit", *guest.options, *elf, "--json")
        (judge,) = guest.exceptions
    (finding,) = (f for f in seen.document["findings"] if f["severity"] == "error")
    assert (seen.code, finding["code"]) == (1, "page-fault.unmapped")
    assert int(finding["where"]["va"], 16) == judge.cr2
    assert int(finding["evidence"]["rip"], 16) == judge.rip
    assert int(finding["evidence"]["error_code"], 16) == judge.error


@needs_small_guest
@pytest.mark.parametrize("attached", [True, False])
def test_an_irq_at_the_vector_of_a_double_fault_is_told_as_one(
    tmp_path: Path, attached: bool
) -> None:
    kernel = assembled(PIC, tmp_path)
    if attached:
        with booted(kernel, tmp_path, until=CAUGHT) as guest:
            seen = agent("audit", *guest.options, "--json")
            assert [one.vector for one in guest.exceptions] == [8]
    else:
        seen = agent("ci", "--config", "kernel", "--kernel", str(kernel), "--json")
    (finding,) = (f for f in seen.document["findings"] if f["severity"] == "error")
    assert (seen.code, finding["code"], finding["confidence"]) == (1, "pic.not-remapped", "proved")
    told = finding["evidence"]
    assert (told["irq"], told["in_service"], told["bases"][0]) == (0, True, "0x8")
    assert seen.document["stops"][0]["error_code"] is None


@needs_small_guest
def test_without_qmp_the_frame_alone_proves_less(tmp_path: Path) -> None:
    with booted(assembled(PIC, tmp_path), tmp_path, until=CAUGHT) as guest:
        seen = agent("audit", *guest.options[:2], "--json")
    (finding,) = (f for f in seen.document["findings"] if f["severity"] == "error")
    assert (finding["code"], finding["confidence"]) == ("pic.not-remapped", "likely")
    assert finding["evidence"]["bases"] is None


@needs_small_guest
@pytest.mark.parametrize(("case", "status"), [(IDLES, "passed"), (DEAD, "not_checked")])
def test_faults_are_passed_only_where_nothing_may_be_handled(
    tmp_path: Path, case: int, status: str
) -> None:
    with booted(assembled(case, tmp_path), tmp_path) as guest:
        seen = agent("audit", *guest.options, "--json")
    (check,) = (c for c in seen.document["checks"] if c["name"] == "faults")
    assert (seen.code, check["status"]) == (0, status)
    assert ("halts with interrupts off" in (check["reason"] or "")) is (case == DEAD)


@needs_small_guest
@pytest.mark.parametrize("with_elf", [True, False])
def test_attached_a_fault_is_caught_though_the_idt_lies_below_4_gib(
    tmp_path: Path, with_elf: bool
) -> None:
    kernel = assembled(WAITS, tmp_path)
    with booted(kernel, tmp_path) as guest:
        elf = ["--kernel", str(kernel)] if with_elf else []
        commands = ("send x", "wait NEVER 30", "fault")
        words = [word for command in commands for word in ("-c", command)]
        seen = agent("shell", *guest.options, "--serial", guest.serial, *elf, *words)
        (judge,) = guest.exceptions
    assert "exception 14 (#PF), caught before its handler runs" in seen.out
    assert "ERROR page-fault.unmapped" in seen.out and f"cr2 {judge.cr2:#x}" in seen.out
    assert seen.code == 1


@needs_small_guest
def test_fault_says_what_audit_says_and_else_whether_faults_are_caught(tmp_path: Path) -> None:
    with booted(assembled(READS, tmp_path), tmp_path, until=CAUGHT) as guest:
        assert "ERROR page-fault.unmapped" in agent("shell", *guest.options, "-c", "fault").out
    with booted(assembled(IDLES, tmp_path), tmp_path) as guest:
        seen = agent("shell", *guest.options, "-c", "fault")
    first, second = seen.out.splitlines()[-2:]
    assert (seen.code, first) == (1, "this stop is no fault")
    assert second.startswith("faults are caught: the guest stood still with its IDT at 0x")
    with booted(assembled(DEAD, tmp_path), tmp_path) as guest:
        seen = agent("shell", *guest.options, "-c", "fault")
    assert "is not known: CPU 0 halts with interrupts off" in seen.out and seen.code == 1


@needs_small_guest
def test_a_kernel_that_has_panicked_is_told_so_attached(tmp_path: Path) -> None:
    kernel = assembled(PANICS, tmp_path)
    with booted(kernel, tmp_path, until=b"gave up\n") as guest:
        seen = agent("audit", *guest.options, "--kernel", str(kernel), "--json")
    assert (seen.code, seen.codes("error")) == (1, {"panic"})


@needs_small_guest
def test_a_guest_that_shut_down_before_we_came_is_explained(tmp_path: Path) -> None:
    """QEMU was told to pause at a reset, and its run state says that it did."""
    paused = ("-action", "reboot=shutdown,shutdown=pause")
    with booted(assembled(RESETS, tmp_path), tmp_path, *paused) as guest:
        seen = agent("audit", *guest.options, "--json")
    assert (seen.code, seen.document["stops"][0]["reason"]) == (1, "shutdown")
    assert {"triple-fault", "invalid-opcode"} <= seen.codes("error")


NX_RESERVED = "bit 63 (NX) is reserved while EFER.NXE is 0 on CPU 0"
UNALIGNED_FRAME = "bit 13 is reserved in the entry of a large page"


@needs_small_guest
@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize(("case", "said"), [(NO_NXE, NX_RESERVED), (UNALIGNED, UNALIGNED_FRAME)])
def test_which_bit_is_reserved_and_why(
    tmp_path: Path, case: int, said: str, attached: bool
) -> None:
    kernel = assembled(case, tmp_path)
    with booted(kernel, tmp_path, until=CAUGHT) as guest:
        (judge,) = guest.exceptions
        seen = agent("audit", *guest.options, "--json") if attached else None
    if seen is None:
        seen = agent("ci", "--config", "kernel", "--kernel", str(kernel), "--json")
    validate(seen.document)
    fault, *warned = (f for f in seen.document["findings"] if f["severity"] != "info")
    assert (seen.code, fault["code"]) == (1, "page-fault.reserved-bit")
    assert int(fault["where"]["va"], 16) == judge.cr2
    assert int(fault["evidence"]["error_code"], 16) == judge.error
    assert said in fault["summary"]
    assert [f["code"] for f in warned] == ["tables.nx-without-nxe"] * (case == NO_NXE)
    assert ("EFER.NXE" in fault["fix"]) is (case == NO_NXE)


@needs_small_guest
@pytest.mark.parametrize("attached", [True, False])
def test_the_cpus_own_write_of_a_read_only_gdt(tmp_path: Path, attached: bool) -> None:
    """The accessed bit, without an IDT: the CPU shuts down."""
    kernel = assembled(GDT_READ_ONLY, tmp_path)
    with booted(kernel, tmp_path, "-action", "reboot=shutdown,shutdown=pause") as guest:
        if attached:
            seen = agent("audit", *guest.options, "--json")
            assert guest.exceptions[0].error == 3
        else:
            seen = agent("ci", "--config", "kernel", "--kernel", str(kernel), "--json")
    codes = {f["code"]: f for f in seen.document["findings"]}
    assert codes["triple-fault"]["cause"] == "page-fault.write-protected"
    assert "accessed bit" in codes["page-fault.write-protected"]["summary"]
    assert "gdt.unmapped" not in codes and "idt.gate-missing" not in codes


@needs_small_guest
def test_a_guest_that_boots_again_and_again_is_paused_at_a_reset_and_explained(
    tmp_path: Path,
) -> None:
    """QEMU's default is to reset it; afterwards it does so again."""
    with booted(assembled(RESETS, tmp_path), tmp_path) as guest:
        seen = agent("ci", *guest.options, "--timeout", "60", "--json")
        assert guest.process.stdout is not None
        said = b""
        while said.count(b"small guest") < 8:  # more boots than the agent has seen
            said += guest.process.stdout.read(1)
    assert (seen.code, seen.document["run"]["outcome"]) == (1, "findings"), seen.err
    errors = {f["code"]: f for f in seen.document["findings"] if f["severity"] == "error"}
    assert {"triple-fault", "invalid-opcode"} <= errors.keys()
    assert errors["triple-fault"]["evidence"]["resets"] >= 1
    assert "boots in a loop" in errors["triple-fault"]["evidence"]["explanation"]


UEFI = pytest.mark.skipif(
    not any(pair.code.is_file() for pair in configs.load("disk-uefi").firmware), reason="no OVMF"
)


@UEFI
@needs_small_guest
def test_a_loader_that_faults_is_told_by_what_the_firmware_printed(tmp_path: Path) -> None:
    machine = uefi_machine(loader_disk(0, tmp_path), tmp_path)
    seen = agent(
        "ci", "--config", str(machine), "--kernel", str(elf(False)), "--timeout", "100", "--json"
    )
    errors = {f["code"]: f for f in seen.document["findings"] if f["severity"] == "error"}
    assert (seen.code, errors.keys()) == (1, {"loader-fault", "page-fault.unmapped"})
    told, by_tables = errors["loader-fault"]["evidence"], errors["page-fault.unmapped"]["evidence"]
    assert (told["vector"], told["error_code"], told["cr2"]) == (14, "0x2", "0xffff900000001000")
    assert told["agrees"] and told["rip"] == by_tables["rip"]
    assert int(told["rip"], 16) - int(told["base"], 16) == 0x100A
    assert errors["loader-fault"]["cause"] == "page-fault.unmapped"
