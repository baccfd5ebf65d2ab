"""Stacks of a kernel that is not Breenix's: no layout tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu
from tests.guest.smallguest import (
    OVERFLOWS,
    OVERFLOWS_TOLD,
    PUSHES_NOWHERE,
    assembled,
    booted,
    needs_small_guest,
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
