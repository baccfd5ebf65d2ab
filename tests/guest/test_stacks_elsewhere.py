"""Stacks, code and tables of a kernel that is not Breenix's: no layout tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu
from tests.guest.smallguest import (
    CLEARS_CODE,
    DOWNWARDS,
    IDLES,
    NARROW,
    NO_IST,
    NO_RSP0,
    ON_USERS_STACK,
    OVER_TABLES,
    OVERFLOWS,
    OVERFLOWS_TOLD,
    PUSHES_NOWHERE,
    READS,
    RESETS,
    assembled,
    booted,
    needs_small_guest,
    qemu_version,
)
from tests.schema import validate

pytestmark = [needs_qemu, needs_small_guest]
CAUGHT = b"EXCEPTION\n"
FRAME = 0x50
"""Bytes of stack that one call of `calls_itself` takes (fixtures/small/small.s)."""
STACK = range(0x2006000, 0x2007000)


@pytest.mark.parametrize("how", ["attached", "attached without the ELF", "launched"])
@pytest.mark.parametrize("case", [OVERFLOWS, OVERFLOWS_TOLD])
def test_a_stack_that_is_used_up_by_recursion(tmp_path: Path, case: int, how: str) -> None:
    kernel = assembled(case, tmp_path)
    if how == "launched":
        seen = agent("ci", "--config", "kernel", "--kernel", str(kernel), "--json")
    else:
        with booted(kernel, tmp_path, until=CAUGHT) as guest:
            elf = [] if "without" in how else ["--kernel", str(kernel)]
            seen = agent("audit", *guest.options, *elf, "--json")
            first, *later = guest.exceptions
        assert [one.vector for one in later] == [8] * (case == OVERFLOWS)
        assert first.vector == 14 and STACK.start - FRAME <= first.cr2 < STACK.start
    validate(seen.document)
    errors = {f["code"]: f for f in seen.document["findings"] if f["severity"] == "error"}
    chain = {"double-fault"} if case == OVERFLOWS else set()
    assert (seen.code, errors.keys()) == (1, {"page-fault.guard-page", *chain})
    fault = errors["page-fault.guard-page"]
    told = fault["evidence"]["recursion"]
    assert told["bytes"] == FRAME
    assert len(STACK) // FRAME - 1 <= told["rounds"] <= len(STACK) // FRAME
    if "without" in how:
        assert int(told["functions"][0], 16) >> 12 == 0x100
    else:
        assert told["functions"] == ["calls_itself"]
    assert "ProcessPageTable" not in seen.out
    assert ("IST entry" in fault["fix"]) is (case == OVERFLOWS)
    for one in chain:
        told = errors[one]["cause"], errors[one]["fix"]
        assert told == ("page-fault.guard-page", fault["fix"])


def test_what_lies_above_is_a_stack_only_with_calls_on_it(tmp_path: Path) -> None:
    """RSP leads to the same page, and nothing has been called on the page above."""
    with booted(assembled(PUSHES_NOWHERE, tmp_path), tmp_path, until=CAUGHT) as guest:
        seen = agent("audit", *guest.options, "--json")
        assert [one.vector for one in guest.exceptions] == [14, 8]
    assert seen.codes("error") == {"double-fault", "page-fault.unmapped"}


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize(
    ("case", "cause"),
    [(CLEARS_CODE, "kernel-code.overwritten"), (OVER_TABLES, "kernel-stack.overflow")],
)
def test_what_the_kernel_has_written_over_is_the_cause(
    tmp_path: Path, case: int, cause: str, attached: bool
) -> None:
    if case == CLEARS_CODE and qemu_version() >= (8,):
        pytest.skip("this QEMU does not fetch a `rep stosb` anew that has cleared itself")
    kernel = assembled(case, tmp_path)
    with booted(kernel, tmp_path, until=CAUGHT) as guest:
        (judge,) = guest.exceptions
        elf = ("--kernel", str(kernel))
        seen = agent("audit", *guest.options, *elf, "--json") if attached else None
    if seen is None:
        seen = agent("ci", "--config", "kernel", *elf, "--json")
    validate(seen.document)
    errors = {f["code"]: f for f in seen.document["findings"] if f["severity"] == "error"}
    fault = errors["page-fault.unmapped"]
    assert (seen.code, fault["cause"]) == (1, cause) and fault["fix"] == errors[cause]["fix"]
    assert int(fault["where"]["va"], 16) == judge.cr2
    told = errors[cause]["evidence"]
    if case == CLEARS_CODE:
        assert int(told["start"], 16) == 0x100000 and told["fill"] == "0x0"
        # The first byte of `rep stosb` is the last that it has cleared.
        assert int(told["end"], 16) == judge.rip + 1
        assert told["elf"].startswith("f3 aa c3") and told["memory"].startswith("00 aa c3")
    else:
        assert told["function"] == "over_tables" and told["level"] == 1
        assert 0 <= 0x1E00 - 0x1000 - told["calls"] * 0x60 < 0x60


@pytest.mark.parametrize(("case", "chain"), [(OVERFLOWS, 3), (RESETS, 4)])
def test_what_qemu_itself_logged_is_explained(tmp_path: Path, case: int, chain: int) -> None:
    """The lines of ``-d int``, as QEMU of this machine writes them."""
    kernel = assembled(case, tmp_path)
    paused = ("-action", "reboot=shutdown,shutdown=pause")
    with booted(kernel, tmp_path, *paused, until=CAUGHT if case == OVERFLOWS else b"\n") as guest:
        agent("audit", *guest.options)  # so that all has happened
        log = (tmp_path / "int.log").read_text()
        last = guest.exceptions[-1]
    answer = agent("explain", "-", "--kernel", str(kernel), "--json", stdin=log).document
    assert (answer["vector"], int(answer["rip"], 16)) == (8, last.rip)
    assert len(answer["chain"]) == chain
    assert (answer["chain"][-1].startswith("triple fault")) is (case == RESETS)
    function = "calls_itself" if case == OVERFLOWS else "start64"
    assert answer["symbol"].partition("+")[0] == function


@pytest.mark.parametrize("with_elf", [True, False])
@pytest.mark.parametrize(
    ("case", "code", "until"),
    [
        (NO_RSP0, "tss.rsp0-invalid", b"to ring 3\n"),
        (NO_IST, "ist.unmapped", b"to ring 3\n"),
        (ON_USERS_STACK, "kernel-stack.foreign", CAUGHT),
    ],
)
def test_what_the_tss_and_the_tables_alone_prove(
    tmp_path: Path, case: int, code: str, until: bytes, with_elf: bool
) -> None:
    """Nothing has faulted yet."""
    kernel = assembled(case, tmp_path)
    with booted(kernel, tmp_path, until=until) as guest:
        elf = ["--kernel", str(kernel)] if with_elf else []
        seen = agent("audit", *guest.options, *elf, "--json")
        assert not guest.exceptions
    validate(seen.document)
    assert (seen.code, seen.codes("error")) == (1, {code})


def test_they_prove_nothing_of_a_kernel_that_idles(tmp_path: Path) -> None:
    with booted(assembled(IDLES, tmp_path), tmp_path) as guest:
        seen = agent("audit", *guest.options, "--json")
    states = {c["name"]: c["status"] for c in seen.document["checks"]}
    assert seen.code == 0 and not seen.codes("error")
    assert (states["tss"], states["stack-place"]) == ("passed", "passed")
    assert states["kernel-slots"] == "not_checked"


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize(
    ("case", "instruction", "said", "fix"),
    [
        (READS, "mov rax, qword ptr [rbx]", "is a constant in the code: `movabs rbx", ""),
        (DOWNWARDS, "rep stosb", "the string instruction goes downwards", ""),
        (NARROW, "add byte ptr [eax", "run as 32-bit code (CS 0x2b has no L bit)", "sysretl"),
    ],
)
def test_how_the_instruction_came_to_that_address(
    tmp_path: Path, case: int, instruction: str, said: str, fix: str, attached: bool
) -> None:
    kernel = assembled(case, tmp_path)
    elf = ("--kernel", str(kernel))
    with booted(kernel, tmp_path, until=CAUGHT) as guest:
        (judge,) = guest.exceptions
        seen = agent("audit", *guest.options, *elf, "--json") if attached else None
    if seen is None:
        seen = agent("ci", "--config", "kernel", *elf, "--json")
    validate(seen.document)
    (fault,) = (f for f in seen.document["findings"] if f["code"].startswith("page-fault"))
    told = fault["evidence"]
    assert told["instruction"].startswith(instruction) and fix in fault["fix"]
    assert int(told["rip"], 16) == judge.rip and int(told["cr2"], 16) == judge.cr2
    assert said in told["explanation"]
    if case == NARROW:
        assert "the kernel has one at" in fault["fix"] and judge.error & 4
