"""Whole spaces of real kernels: ranges, sizes, and the index from frames, against the truth."""

from __future__ import annotations

import time
from typing import Any

import pytest

from breenix_gdbagent.memory.core import ElfCore
from breenix_gdbagent.x86.mapped_space import Spaces
from breenix_gdbagent.x86.paging import Effective, Tables
from breenix_gdbagent.x86.reverse import FrameIndex
from tests.unit.captures import BREENIX, LINUX, NAMES, capture, truth_of

HALF = 1 << 63


def _roots(truth: Any) -> list[int]:
    if "roots" in truth:
        return [int(r["root"], 16) for r in truth["roots"]]
    return [int(r, 16) for r in (truth["master_pml4"], *truth["process_pml4s"])]


@pytest.mark.parametrize("name", NAMES)
def test_each_walk_lies_in_a_range_of_its_permission_or_in_none(name: str) -> None:
    truth: Any = truth_of(name)
    spaces = Spaces(Tables(ElfCore.open(capture(name) / "core.elf")))
    whole = {root: spaces.space(root) for root in _roots(truth)}
    for told in truth["walks"]:
        space = whole.get(int(told["root"], 16)) or spaces.space(int(told["root"], 16))
        va = int(told["va"], 16)
        found = space.find(va)
        assert (found is not None) == (told["pa"] is not None), told
        rights = told.get("perm") or {n: told[n] for n in ("w", "u", "nx") if n in told}
        if found is not None and rights:
            assert {"w": found.w, "u": found.u, "nx": found.nx} == rights, told
        if told.get("reason") == "table-not-in-core":
            assert any(g.start <= va < g.end and g.reason == "unreadable" for g in space.gaps)


@pytest.mark.parametrize("name", LINUX)
def test_spaces_of_linux_are_as_large_as_its_leaves(name: str) -> None:
    """The truth counts the leaves of each half, as `info tlb` lists them."""
    truth: Any = truth_of(name)
    spaces = Spaces(Tables(ElfCore.open(capture(name) / "core.elf")))
    compared = 0
    for told in truth["roots"]:
        if told["kept"] != "complete" or "leaves" not in told:
            continue
        ranges = spaces.space(int(told["root"], 16)).ranges
        for half, mine in (
            ("user", [r for r in ranges if r.end <= HALF]),
            ("kernel", [r for r in ranges if r.start >= HALF]),
        ):
            leaves = told["leaves"][half]
            assert sum(r.end - r.start for r in mine) == sum(
                int(size) * count for size, count in leaves.items()
            )
        user = [hex(r.start) for r in ranges if r.start >= HALF and r.u]
        assert user == told["user_accessible_in_kernel_half"]
        assert bool([r for r in ranges if r.w and not r.nx]) == bool(
            told["writable_and_executable"]
        )
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("name", NAMES)
def test_the_index_knows_every_walk_backwards(name: str) -> None:
    truth: Any = truth_of(name)
    index = FrameIndex(Tables(ElfCore.open(capture(name) / "core.elf")), _roots(truth))
    asked = 0
    for told in truth["walks"]:
        root = int(told["root"], 16)
        if told["pa"] is None or root not in index.roots:
            continue
        pa = int(told["pa"], 16)
        entry_pa = int(told["entry_pas"][-1], 16) if "entry_pas" in told else None
        rights = told.get("perm") or {n: told[n] for n in ("w", "u", "nx") if n in told}
        ways = [m for m in index.who(pa).mappings if m.root == root]
        same = [m for m in ways if m.va == int(told["va"], 16) or m.aliases > 1]
        assert same, told
        if rights:
            assert Effective(**rights) in [m.effective for m in same]
        if entry_pa is not None:
            assert entry_pa in [m.entry_pa for m in same]
        asked += 1
    assert asked > 50


@pytest.mark.parametrize("name", BREENIX)
def test_all_spaces_of_breenix_cost_little_more_than_one(name: str) -> None:
    truth: Any = truth_of(name)
    roots = _roots(truth)
    memory = ElfCore.open(capture(name) / "core.elf")
    one, everything = float("inf"), float("inf")
    for _ in range(9):
        spaces = Spaces(Tables(memory))
        began = time.process_time()
        spaces.space(roots[-1])
        one = min(one, time.process_time() - began)
        for root in roots:
            spaces.space(root)
        everything = min(everything, time.process_time() - began)
    assert one < 0.01, "under a millisecond on an idle machine"
    assert everything < max(4, len(roots) / 3) * one
