"""What the kernel says of pages that are mapped already, and what stands in the way of mapping."""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.mapping import obstacle, said_so
from breenix_gdbagent.kernel.view import Kernel
from tests.unit.checks.mutation import HEAP, saved

MAP_PAGE = "Page 0x40000000 already mapped to different frame 0x62f000 (wanted 0x630000)"
USER_STACK = (
    "[ERROR] kernel: User stack page 0x7fffff000000 already mapped to different frame: expected "
    "0x28c000, found 0x29e000"
)
MAP_TO = "map_to failed: Page already mapped to frame 0x62f000"
UNWRAP = "called `Result::unwrap()`: PageAlreadyMapped(PhysFrame[4KiB](0x62f000))"


@pytest.mark.parametrize(
    ("text", "va", "has", "wanted"),
    [
        (MAP_PAGE, 0x4000_0000, 0x62F000, 0x630000),
        (USER_STACK, 0x7FFF_FF00_0000, 0x29E000, 0x28C000),
        (MAP_TO, None, 0x62F000, None),
        (UNWRAP, None, 0x62F000, None),
    ],
)
def test_every_way_the_kernel_says_it(
    text: str, va: int | None, has: int, wanted: int | None
) -> None:
    (said,) = said_so(["something else", text])
    assert (said.va, said.has, said.wanted) == (va, has, wanted)


def test_one_failure_is_told_once() -> None:
    """map_page logs the address, and map_to below it logs again without one."""
    assert [s.text for s in said_so([MAP_PAGE, MAP_TO, MAP_PAGE])] == [MAP_PAGE]


@pytest.mark.parametrize(
    "text",
    [
        "Page 0x40000000 already mapped to frame 0x62f000, skipping",
        "User stack page 0x7fffff000000 already mapped correctly to frame 0x28c000",
        "the page was already there",
    ],
)
def test_what_is_no_failure(text: str) -> None:
    assert said_so([text]) == []


def test_the_heap_is_in_everybodys_way() -> None:
    kernel = Kernel(saved("breenix-seed-syscall"))
    space = next(s for s in kernel.audited if s.role == "process")
    found = obstacle(kernel, HEAP, space)
    assert found.taken and found.shared_from is not None
    # The PML4 is the process's own, all below it everybody's.
    assert found.levels[0].shared_by == ()
    assert {s.root for s in found.levels[1].shared_by} == {
        s.root for s in kernel.audited if s is not space
    }
    assert found.shared_from.entry.level == 3


def test_a_user_page_is_in_nobody_elses_way() -> None:
    kernel = Kernel(saved("breenix-seed-syscall"))
    page = next(p for p in kernel.ledger.user_pages() if p.va < 1 << 39)
    space = kernel.space_of(page.node.owner)
    assert space is not None
    found = obstacle(kernel, page.va, space)
    assert found.taken and found.shared_from is None


def test_user_stacks_of_2025_are_shared_through_the_master() -> None:
    """Breenix a43d6d48: what stands in the way of one process's stack is another's."""
    kernel = Kernel(saved("breenix-seed-syscall"))
    second = next(s for s in kernel.spaces if s.pid == 2)
    found = obstacle(kernel, 0x7FFF_FF03_0000, second)
    assert found.shared_from is not None
    assert "master" in {s.role for s in found.shared_from.shared_by}


def test_nothing_in_the_way() -> None:
    kernel = Kernel(saved("breenix-seed-syscall"))
    space = next(s for s in kernel.audited if s.role == "process")
    found = obstacle(kernel, 0x6000_0000_0000, space)
    assert not found.taken and found.shared_from is None
