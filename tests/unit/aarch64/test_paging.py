"""The walk of VMSAv8-64: granules, halves, blocks, rights, what ends it; ranges as the walk."""

from __future__ import annotations

import random

import pytest

from breenix_gdbagent.aarch64.leaves import leaves, mapped_runs
from breenix_gdbagent.aarch64.mapped_space import Spaces
from breenix_gdbagent.aarch64.paging import (
    AF,
    DBM,
    EL0,
    NO_EL0_TABLE,
    PXN,
    PXN_TABLE,
    READ_ONLY,
    READ_ONLY_TABLE,
    UXN,
    UXN_TABLE,
    VALID,
    VirtualMemory,
    walk,
)
from breenix_gdbagent.aarch64.registers import SCTLR_WXN, TCR_DS, TCR_EPD, TCR_HA, TCR_HD, TCR_TBI
from breenix_gdbagent.aarch64.translation import LAST, Translation
from breenix_gdbagent.errors import NotMapped
from tests.unit.aarch64.tables import BLOCK, PAGE, Writer, cpu

HIGH = 0xFFFF_0000_0000_0000


def mode_of(granule: int = 12, bits: int = 48, **more: int) -> Translation:
    found = Translation.of(cpu(granule, bits, **more))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("granule", "bits", "start", "blocks"),
    [
        (12, 48, 0, {1: 1 << 30, 2: 1 << 21}),
        (12, 39, 1, {1: 1 << 30, 2: 1 << 21}),
        (14, 48, 0, {2: 1 << 25}),
        (14, 47, 1, {2: 1 << 25}),
        (16, 48, 1, {2: 1 << 29}),
        (16, 42, 2, {2: 1 << 29}),
    ],
)
def test_every_granule(granule: int, bits: int, start: int, blocks: dict[int, int]) -> None:
    """Start level and block sizes as the manual's tables D8-11 and D8-20 have them."""
    mode = mode_of(granule, bits)
    assert (mode.low.start, mode.high.start) == (start, start)
    writer = Writer(mode)
    low, high = writer.table(mode.low), writer.table(mode.high)
    mode = mode._replace(kernel_root=high)
    page = 1 << granule
    writer.map(low, 7 * page, (9 << granule) | PAGE)
    top = (1 << 64) - (1 << bits)
    writer.map(high, top + 5 * page, (11 << granule) | PAGE)
    for level, size in blocks.items():
        if level >= start:
            writer.map(low, 3 * size, 2 * size | BLOCK, level=level)
    tables = writer.tables
    found = walk(tables, low, 7 * page + 0x123, mode)
    assert (found.pa, found.size) == ((9 << granule) + 0x123, page)
    assert [e.level for e in found.entries] == list(range(start, LAST + 1))
    kernel = walk(tables, low, top + 5 * page, mode)
    assert (kernel.pa, kernel.root) == (11 << granule, high)
    for level, size in blocks.items():
        if level >= start:
            block = walk(tables, low, 3 * size + 0x54321, mode)
            assert (block.pa, block.size) == (2 * size + 0x54321, size)
    beyond = walk(tables, low, 1 << bits, mode)
    assert (beyond.reason, beyond.stopped_at) == ("non-canonical", None)


def test_lpa2_has_a_fifth_level_and_wider_addresses() -> None:
    mode = mode_of(12, 52, physical=6, tcr=TCR_DS)
    assert (mode.low.start, mode.low.output_bits, mode.low.ds) == (-1, 52, True)
    writer = Writer(mode)
    root = writer.table(mode.low)
    writer.map(root, 1 << 50, 5 << 12 | 3 << 8 | PAGE)
    found = walk(writer.tables, root, 1 << 50, mode)
    assert found.pa == 3 << 50 | 5 << 12 and found.entries[0].level == -1


def test_64k_tables_with_52_bits_of_address() -> None:
    mode = mode_of(16, 48, physical=6)
    writer = Writer(mode)
    root = writer.table(mode.low)
    writer.map(root, 0, 1 << 16 | 0xA << 12 | PAGE)
    assert walk(writer.tables, root, 0, mode).pa == 0xA << 48 | 1 << 16


R, W, X = "r", "w", "x"


@pytest.mark.parametrize(
    ("leaf", "above", "el0", "el1"),
    [
        (0, 0, "--x", "rwx"),  # EL0 may execute what it cannot read, unless UXN says otherwise
        (UXN, 0, "---", "rwx"),
        (UXN | PXN, 0, "---", "rw-"),
        (READ_ONLY | UXN, 0, "---", "r-x"),
        (EL0, 0, "rwx", "rw-"),  # what EL0 may write EL1 never executes
        (EL0 | READ_ONLY, 0, "r-x", "r-x"),
        (EL0 | READ_ONLY | PXN, 0, "r-x", "r--"),
        (EL0 | UXN, NO_EL0_TABLE, "---", "rwx"),
        (EL0, READ_ONLY_TABLE, "r-x", "r-x"),
        (EL0 | READ_ONLY, UXN_TABLE, "r--", "r-x"),
        (READ_ONLY | UXN, PXN_TABLE, "---", "r--"),
        (EL0 | READ_ONLY | DBM, 0, "r-x", "r-x"),
    ],
)
def test_rights_over_all_levels(leaf: int, above: int, el0: str, el1: str) -> None:
    mode = mode_of()
    writer = Writer(mode)
    root = writer.table(mode.low)
    writer.map(root, 0x1000, 0x5000 | PAGE | leaf, above=above)
    tables = writer.tables
    may = walk(tables, root, 0x1000, mode).effective
    assert may is not None and (may.el0, may.el1) == (el0, el1)
    assert (may.w, may.u, may.nx) == ("w" in el1, "r" in el0, "x" not in el0 + el1)
    (one,) = Spaces(tables, mode).space(root).ranges
    assert (one.start, one.end, one.el0, one.el1) == (0x1000, 0x2000, el0, el1)


def test_what_the_control_registers_add_and_take() -> None:
    dirty = mode_of(tcr=TCR_HA | TCR_HD)
    writer = Writer(dirty)
    root = writer.table(dirty.low)
    writer.map(root, 0x1000, 0x5000 | PAGE | EL0 | READ_ONLY | DBM | UXN)
    writer.map(root, 0x2000, 0x6000 | PAGE | UXN)
    tables = writer.tables
    clean = walk(tables, root, 0x1000, dirty).effective
    assert clean is not None and (clean.el0, clean.el1) == ("rw-", "rw-")
    wxn = walk(tables, root, 0x2000, mode_of(sctlr=SCTLR_WXN)).effective
    assert wxn is not None and wxn.el1 == "rw-"
    off = walk(tables, root, 0x1000, mode_of(tcr=TCR_EPD[0]))
    assert (off.reason, off.entries) == ("not-present", ())
    tagged = 0x12 << 56 | 0x1000
    assert walk(tables, root, tagged, dirty).reason == "non-canonical"
    assert walk(tables, root, tagged, mode_of(tcr=TCR_TBI[0])).pa == 0x5000


@pytest.mark.parametrize(
    ("level", "raw", "reason"),
    [
        (0, 0, "not-present"),
        (2, 0, "not-present"),
        (0, BLOCK, "reserved-bits"),  # no block of 512 GiB without LPA2
        (3, BLOCK | 0x5000, "reserved-bits"),  # bit 1 is to be set at the last level
        (3, PAGE | 1 << 47, "reserved-bits"),  # wider than the 44 bits that IPS says
    ],
)
def test_what_ends_a_walk(level: int, raw: int, reason: str) -> None:
    mode = mode_of(physical=4)
    writer = Writer(mode)
    root = writer.table(mode.low)
    writer.map(root, 0x1000, raw, level=level)
    tables = writer.tables
    found = walk(tables, root, 0x1000, mode)
    assert (found.reason, found.stopped_at, found.pa) == (reason, level, None)
    space = Spaces(tables, mode).space(root)
    assert not space.ranges
    gaps = [gap.reason for gap in space.gaps if gap.start < HIGH]
    assert gaps == (["reserved-bits"] if raw else [])
    with pytest.raises(NotMapped):
        VirtualMemory(tables, root, mode).translate(0x1000)


def test_a_table_that_is_nowhere_is_not_known() -> None:
    mode = mode_of()
    writer = Writer(mode)
    root = writer.table(mode.low)
    writer.map(root, 0x4000_0000, 0x7777_0000 | VALID | 2, level=1)
    tables = writer.tables
    found = walk(tables, root, 0x4000_0000, mode)
    assert (found.reason, found.stopped_at) == ("unreadable", 2)
    (gap,) = (g for g in Spaces(tables, mode).space(root).gaps if g.start < HIGH)
    assert (gap.start, gap.end, gap.level) == (0x4000_0000, 0x8000_0000, 2)


def test_a_table_that_names_itself_ends() -> None:
    mode = mode_of()
    writer = Writer(mode)
    root = writer.table(mode.low)
    writer.put(root, root | VALID | 2)
    tables = writer.tables
    assert walk(tables, root, 0, mode).pa == root, "the last level takes the table for a page"
    assert Spaces(tables, mode).space(root).find(0) is not None


@pytest.mark.parametrize("granule", [12, 14, 16])
def test_ranges_are_what_the_walk_says(granule: int) -> None:
    rng = random.Random(granule)
    mode = mode_of(granule, 48)
    writer = Writer(mode)
    root = writer.table(mode.low)
    mode = mode._replace(kernel_root=writer.table(mode.high))
    for _ in range(300):
        va = (rng.choice((0, 1 << 30, HIGH, HIGH + (7 << 35))) + rng.randrange(2000)) << granule
        leaf = rng.choice((0, EL0, READ_ONLY, UXN | PXN, EL0 | READ_ONLY | PXN)) | AF
        half = mode.kernel_root if va >> 55 & 1 else root
        writer.map(half, va % (1 << 64) if va < 1 << 64 else va - (1 << 64) | HIGH,
                   rng.randrange(1 << 12) << granule | PAGE | leaf)  # fmt: skip
    tables = writer.tables
    space = Spaces(tables, mode).space(root)
    every = list(leaves(tables, root, mode))
    assert every and sum(r.end - r.start for r in space.ranges) == sum(one.size for one in every)
    for one in every:
        found = walk(tables, root, one.va, mode)
        here = space.find(one.va)
        assert found.pa == one.pa and found.entries[-1].entry_pa == one.entry_pa
        assert here is not None and found.effective == here[2:]
    assert sum(length for _, _, length in mapped_runs(tables, root, mode)) == sum(
        one.size for one in every
    )
