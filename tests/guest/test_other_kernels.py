"""Kernels that are not Breenix's: the machines that boot them, and what is said of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from breenix_gdbagent import configs
from breenix_gdbagent.lab import elf
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu
from tests.guest.smallguest import (
    CODE_32,
    CPU_1_DIES,
    CPU_1_HALTS,
    DATA_GATE,
    DEAD,
    EMPTY,
    ERROR_CODE_LEFT,
    GDT_READ_ONLY,
    IDLES,
    JUMPS_NOWHERE,
    MENDED,
    NO_EOI,
    NO_NXE,
    NO_RAM,
    NO_TABLE,
    NOT_MENDED,
    PANICS,
    PIC,
    READS,
    RESETS,
    SHORT_GDT,
    SHORT_IDT,
    TICK_FIRST,
    TOO_HIGH,
    UNALIGNED,
    UPPER_LEVELS,
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
@pytest.mark.parametrize(
    ("case", "code"),
    [(JUMPS_NOWHERE, "page-fault.non-canonical"), (SHORT_GDT, "general-protection")],
)
def test_a_frame_that_is_odd_is_believed_where_a_gate_vouches_for_it(
    tmp_path: Path, case: int, code: str
) -> None:
    """A RIP that is not canonical; an SS that is not in the GDT any more."""
    with booted(assembled(case, tmp_path), tmp_path, until=CAUGHT) as guest:
        seen = agent("audit", *guest.options, "--json")
        (judge,) = guest.exceptions
    (finding,) = (f for f in seen.document["findings"] if f["severity"] == "error")
    assert (seen.code, finding["code"], judge.vector) == (1, code, 13)
    assert int(finding["evidence"]["rip"], 16) == judge.rip


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
def test_a_fault_that_an_irq_came_before_is_told_as_to_come(tmp_path: Path) -> None:
    kernel = assembled(TICK_FIRST, tmp_path)
    with booted(kernel, tmp_path, until=CAUGHT) as guest:
        (judge,) = guest.exceptions
    seen = agent("ci", "--config", "kernel", "--kernel", str(kernel), "--json")
    found = {f["code"]: f for f in seen.document["findings"] if f["severity"] == "error"}
    assert found.keys() == {"pic.not-remapped", "page-fault.unmapped"}
    fault = found["page-fault.unmapped"]
    assert (judge.vector, int(fault["evidence"]["rip"], 16)) == (8, judge.rip)
    assert "cannot go on: it is to read 0xffff900000001000" in fault["summary"]
    assert "has not faulted there yet" in fault["evidence"]["explanation"]
    assert fault["confidence"] == "likely"


@needs_small_guest
def test_a_fault_that_the_kernel_returns_from_is_handled(tmp_path: Path) -> None:
    """One is mended and its instruction runs again; of the other the frame's RIP is changed."""
    kernel = assembled(MENDED, tmp_path)
    with booted(kernel, tmp_path, until=b"went on\n") as guest:
        judges = guest.exceptions
    assert [one.vector for one in judges] == [14, 6]
    seen = agent(
        "ci", "--config", "kernel", "--kernel", str(kernel), "--until", "went on", "--json"
    )  # fmt: skip
    assert seen.code == 0, seen.out
    found = {f["code"]: f["evidence"] for f in seen.document["findings"]}
    assert found.keys() == {"page-fault.handled", "invalid-opcode"}
    fault, skipped = found["page-fault.handled"], found["invalid-opcode"]
    assert [int(one["rip"], 16) for one in (fault, skipped)] == [one.rip for one in judges]
    assert fault["was"] == "page-fault.unmapped"
    assert fault["handled"].endswith("returned from its handler and ran the instruction again")
    assert skipped["handled"].endswith(f"went on at {judges[1].rip + 2:#x}")
    assert {f["severity"] for f in seen.document["findings"]} == {"info"}


@needs_small_guest
@pytest.mark.parametrize("case", [NOT_MENDED, READS])
def test_a_fault_that_the_kernel_does_not_return_from_decides_the_run(
    tmp_path: Path, case: int
) -> None:
    """Its handler returns and mends nothing, or halts."""
    kernel = assembled(case, tmp_path)
    seen = agent("ci", "--config", "kernel", "--kernel", str(kernel), "--timeout", "300", "--json")
    (finding,) = (f for f in seen.document["findings"] if f["severity"] == "error")
    assert (seen.code, finding["code"]) == (1, "page-fault.unmapped")
    assert finding["stop"] == 0 and len(seen.document["stops"]) == 1


@needs_small_guest
def test_an_interrupt_that_was_never_ended_is_named(tmp_path: Path) -> None:
    """The timer ticks once, and the guest halts for ever with interrupts on."""
    kernel = str(assembled(NO_EOI, tmp_path))
    machine = ("--config", "kernel", "--kernel", kernel)
    seen = agent("ci", *machine, "--until", "NEVER", "--timeout", "15", "--json")
    (finding,) = (f for f in seen.document["findings"] if f["severity"] == "error")
    assert (seen.code, finding["code"]) == (4, "marker-missing")
    assert "vector 32 never ended IRQ 0 (no EOI)" in finding["summary"]
    assert "0x20 to port 0x20" in finding["fix"]


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
ABOVE_WIDTH = "bit 45 is reserved on a CPU whose physical addresses have 40 bits"


@needs_small_guest
@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize(
    ("case", "said"),
    [(NO_NXE, NX_RESERVED), (UNALIGNED, UNALIGNED_FRAME), (TOO_HIGH, ABOVE_WIDTH)],
)
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
    found = {f["code"]: f for f in seen.document["findings"] if f["severity"] != "info"}
    fault = found.pop("page-fault.reserved-bit")
    assert seen.code == 1
    assert int(fault["where"]["va"], 16) == judge.cr2
    assert int(fault["evidence"]["error_code"], 16) == judge.error
    assert said in fault["summary"]
    others = {NO_NXE: {"tables.nx-without-nxe"}, TOO_HIGH: {"frame.beyond-ram"}}
    assert found.keys() == others.get(case, set())
    assert ("EFER.NXE" in fault["fix"]) is (case == NO_NXE)


@needs_small_guest
def test_every_level_that_lacks_the_right_is_named(tmp_path: Path) -> None:
    kernel = assembled(UPPER_LEVELS, tmp_path)
    with booted(kernel, tmp_path, until=CAUGHT) as guest:
        seen = agent("audit", *guest.options, "--json")
        (judge,) = guest.exceptions
    (fault,) = (f for f in seen.document["findings"] if f["severity"] == "error")
    assert (fault["code"], judge.error) == ("page-fault.write-protected", 3)
    assert int(fault["where"]["va"], 16) == judge.cr2
    said = fault["summary"]
    assert "the PDPT entry" in said and "as does the PD entry" in said
    assert "the PT entry" in said and "meant for writing" in said
    assert "parent tables" in fault["fix"]


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


PAUSES = ("-action", "reboot=shutdown,shutdown=pause")


@needs_small_guest
@pytest.mark.parametrize("with_elf", [True, False], ids=["elf", "no elf"])
@pytest.mark.parametrize(
    ("case", "said"),
    [(NO_RAM, "no RAM is there"), (EMPTY, "all zeros"), (NO_TABLE, "could be an entry")],
)
def test_a_cr3_that_names_no_table_is_said_as_that(
    tmp_path: Path, case: int, said: str, with_elf: bool
) -> None:
    """With the instruction that loaded it; its symbol needs no proof of where the ELF runs."""
    kernel = assembled(case, tmp_path)
    with booted(kernel, tmp_path, *PAUSES) as guest:
        guest.until_logged(2)
        elf = ["--kernel", str(kernel)] if with_elf else []
        seen = agent("audit", *guest.options, *elf, "--json")
        judge = guest.exceptions[0]
    codes = {f["code"]: f for f in seen.document["findings"]}
    assert codes["triple-fault"]["cause"] == "page-fault.unmapped"
    told = codes["page-fault.unmapped"]
    assert (int(told["where"]["va"], 16), judge.error) == (judge.rip, 0x10)
    assert f"names no page table: {said}" in told["summary"] or said in told["summary"]
    place = f"{judge.rip - 3:#x}{' <start64' if with_elf else ','}"
    assert f"`mov cr3, rax` at {place}" in told["summary"]


@needs_small_guest
@pytest.mark.parametrize(
    ("case", "codes", "rip"),
    [
        (CPU_1_DIES, {"triple-fault", "invalid-opcode", "idt.handler-unmapped"}, "ap64+"),
        (CPU_1_HALTS, {"page-fault.unmapped"}, "reads+"),
    ],
)
def test_what_only_cpu_1_saw(tmp_path: Path, case: int, codes: set[str], rip: str) -> None:
    """CPU 0 idles, and QEMU names it."""
    kernel = assembled(case, tmp_path)
    until = CAUGHT if case == CPU_1_HALTS else b"\n"
    with booted(kernel, tmp_path, "-smp", "2", *PAUSES, until=until) as guest:
        guest.until_logged(3 if case == CPU_1_DIES else 1)
        seen = agent("audit", *guest.options, "--kernel", str(kernel), "--json")
        judge = guest.exceptions[0]
    assert (seen.code, seen.codes("error")) == (1, codes)
    for finding in seen.document["findings"]:
        evidence = finding["evidence"]
        if "rip" in evidence:
            assert (evidence["cpu"], int(evidence["rip"], 16)) == (1, judge.rip)
            assert evidence["symbol"].startswith(rip)
    said = " ".join(f["summary"] for f in seen.document["findings"])
    assert ("no IDT is loaded on CPU 1" in said) is (case == CPU_1_DIES)


@needs_small_guest
@pytest.mark.parametrize(
    ("case", "codes", "said"),
    [
        (SHORT_IDT, {"triple-fault", "page-fault.unmapped"}, "no entry for #PF: its limit is 0x7f"),
        (DATA_GATE, {"invalid-opcode"}, "names selector 0x10, which is no code segment"),
    ],
)
def test_an_idt_that_leads_nowhere_is_said_as_what_it_is(
    tmp_path: Path, case: int, codes: set[str], said: str
) -> None:
    """No gate is missing that was read and is not present."""
    kernel = assembled(case, tmp_path)
    until = CAUGHT if case == DATA_GATE else b"\n"
    with booted(kernel, tmp_path, *PAUSES, until=until) as guest:
        guest.until_logged(2)
        seen = agent("audit", *guest.options, "--json")
        judges = guest.exceptions
    assert seen.codes("error") == {*codes, "idt.handler-unmapped"}
    assert [one.vector for one in judges] == ([14, 8] if case == SHORT_IDT else [6, 13])
    (idt,) = (f for f in seen.document["findings"] if f["code"] == "idt.handler-unmapped")
    assert said in idt["summary"]


@needs_small_guest
def test_a_kernel_that_runs_as_32_bit_code_is_said_to(tmp_path: Path) -> None:
    """Its code segment lacks the L bit; what it does is decoded as the CPU does, as binutils says
    too."""
    kernel = assembled(CODE_32, tmp_path)
    with booted(kernel, tmp_path, *PAUSES, until=CAUGHT) as guest:
        seen = agent("audit", *guest.options, "--kernel", str(kernel), "--json")
        (judge,) = guest.exceptions
    (fault,) = (f for f in seen.document["findings"] if f["severity"] == "error")
    assert "run as 32-bit code (CS 0x28 has no L bit)" in fault["summary"]
    assert int(fault["evidence"]["rip"], 16) == judge.rip
    assert int(fault["where"]["va"], 16) == judge.cr2
    assert "set L (bit 53)" in fault["fix"]
    decoded = subprocess.run(
        ["objdump", "-d", "-M", "i386,intel", f"--start-address={judge.rip:#x}", str(kernel)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    first = next(line for line in decoded.splitlines() if f"{judge.rip:x}:" in line)
    ours = fault["evidence"]["instruction"]
    assert first.split("\t")[2].split()[0] == ours.split()[0] and "[eax" in ours, (first, ours)


@needs_small_guest
def test_a_handler_that_leaves_the_error_code_on_the_stack(tmp_path: Path) -> None:
    kernel = assembled(ERROR_CODE_LEFT, tmp_path)
    with booted(kernel, tmp_path, *PAUSES, until=CAUGHT) as guest:
        seen = agent("audit", *guest.options, "--json")
        first, second = guest.exceptions
    codes = {f["code"]: f for f in seen.document["findings"] if f["severity"] == "error"}
    assert codes.keys() == {"page-fault.unmapped", "general-protection"}
    assert (first.vector, second.vector) == (14, 13)
    returned = codes["general-protection"]
    assert int(returned["evidence"]["rip"], 16) == second.rip
    assert int(returned["evidence"]["error_code"], 16) == second.error
    assert "did not take the error code off the stack" in returned["summary"]
    assert "add 8 to RSP" in returned["fix"]


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
