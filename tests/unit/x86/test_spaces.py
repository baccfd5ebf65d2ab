"""Merged ranges and the reverse index against the naive model, on tables of every sort."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.x86.mapped_space import MOST_RANGES, Range, Spaces
from breenix_gdbagent.x86.pages import pages
from breenix_gdbagent.x86.paging import (
    PS,
    Effective,
    Tables,
    end_of_low_half,
    entry_index,
    span,
    walk,
)
from breenix_gdbagent.x86.reverse import FrameIndex
from tests.writers.memory import FrameMemory
from tests.writers.tables import NX, P, TableWriter, U, W, model_leaves

ROOT = 0x100000
FRAMES = 10


def _model_ranges(frames: dict[int, bytearray], root: int, levels: int) -> list[Range]:
    out: list[Range] = []
    for leaf in model_leaves(frames, root, levels):
        end, rights = leaf.va + leaf.size, (leaf.w, leaf.u, leaf.nx)
        if out and out[-1].end == leaf.va and tuple(out[-1][2:]) == rights:
            out[-1] = out[-1]._replace(end=end)  # type: ignore[arg-type]
        else:
            out.append(Range(leaf.va, end, *rights))  # type: ignore[arg-type]
    return out


# A table may only name tables after it, or itself and those before it now and then: with every
# entry free the model would need longer than the universe has (that case is tested below).
ENTRY = st.tuples(
    st.integers(0, FRAMES - 1),
    st.sampled_from([0, 1, 2, 255, 256, 257, 510, 511]),
    st.integers(1, FRAMES),
    st.sampled_from([P | W | U, P | W, P | U, P, W, P | W | U | PS]),
    st.sampled_from([0, 0, NX, 1 << 13]),
)


def _written(entries: list[tuple[int, int, int, int, int]], levels: int) -> TableWriter:
    writer = TableWriter(levels=levels)
    for _ in range(FRAMES):
        writer.new_table()
    for frame, slot, step, flags, high in entries:
        target = frame + step  # the last ones lie beyond what is there
        raw = target * 0x1000 + ROOT | flags | high
        if flags & PS:
            raw = 0x4000_0000 | target << 21 | flags | high
        writer.set(ROOT + frame * 0x1000, slot, raw)
    return writer


@settings(max_examples=250, deadline=None)
@given(entries=st.lists(ENTRY, max_size=40), levels=st.sampled_from([4, 5]))
def test_ranges_are_what_the_model_merges(
    entries: list[tuple[int, int, int, int, int]], levels: int
) -> None:
    writer = _written(entries, levels)
    spaces = Spaces(Tables(writer.memory()), levels)
    space = spaces.space(ROOT)
    assert list(space.ranges) == _model_ranges(writer.frames, ROOT, levels)
    assert spaces.space(ROOT) == space, "the second time, from what is remembered"
    for gap in space.gaps:
        found = walk(spaces.tables, ROOT, gap.start, levels)
        assert (found.reason, found.stopped_at) == (gap.reason, gap.level)
    for one in space.ranges:
        assert space.find(one.start) == space.find(one.end - 1) == one
        assert space.find(one.end) != one


@settings(max_examples=150, deadline=None)
@given(
    entries=st.lists(ENTRY, max_size=40),
    roots=st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
    levels=st.sampled_from([4, 5]),
)
def test_the_index_names_every_mapping_of_every_frame(
    entries: list[tuple[int, int, int, int, int]], roots: list[int], levels: int
) -> None:
    writer = _written(entries, levels)
    tops = [ROOT + n * 0x1000 for n in roots]
    index = FrameIndex(Tables(writer.memory()), tops, levels)
    expected: dict[tuple[int, int, int, Effective], list[int]] = {}
    for top in tops:
        for leaf in model_leaves(writer.frames, top, levels):
            key = (leaf.pa, top, leaf.entry_pa, Effective(leaf.w, leaf.u, leaf.nx))
            expected.setdefault(key, []).append(leaf.va)
    told = {
        (leaf.pa, m.root, m.entry_pa, m.effective): (m.va, m.aliases)
        for leaf in index.leaves()
        for m in index.who(leaf.pa).mappings
        if m.entry_pa == leaf.entry_pa
    }
    # In order of address the upper half comes after the lower: the lowest is the first.
    assert told == {key: (vas[0], len(vas)) for key, vas in expected.items()}


@settings(max_examples=100, deadline=None)
@given(entries=st.lists(ENTRY, max_size=40), levels=st.sampled_from([4, 5]))
def test_tables_of_a_root_agree_between_index_and_spaces(
    entries: list[tuple[int, int, int, int, int]], levels: int
) -> None:
    tables = Tables(_written(entries, levels).memory())
    used = Spaces(tables, levels).tables_of(ROOT)
    index = FrameIndex(tables, [ROOT], levels)
    assert used == {(pa, n) for pa, ns in index.tables_used().items() for n in ns}
    for frame, level in used:
        (use,) = [u for u in index.who(frame).tables if u.level == level]
        assert index.roots_of(frame, level) == (ROOT,)
        if level == levels:
            assert use.entry_pa is None
        else:
            entry = walk(tables, ROOT, use.va, levels).entries[levels - level - 1]
            assert entry.entry_pa == use.entry_pa and entry.target == frame


def test_who_gives_the_byte_asked_for_in_large_and_small_pages() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, 0x1000, 0x4000_5000, P | W | U)
    writer.map(root, 0x4000_0000, 0x4000_0000, P | W | NX, level=2)
    writer.map(root, 0x80_0000_0000, 0x4000_0000, P, level=3)
    who = FrameIndex(Tables(writer.memory()), [root | 0x18]).who(0x4000_5123)
    assert [(m.va, m.size, m.level) for m in who.mappings] == [
        (0x1123, 0x1000, 1),
        (0x4000_5123, 1 << 21, 2),
        (0x80_0000_5123, 1 << 30, 3),
    ]
    assert who.mappings[1].effective == Effective(True, False, True)
    assert who.tables == ()


def test_253_slots_that_name_one_table_are_one_answer() -> None:
    """Breenix: PML4[256..510] but 402 and 403 hold one and the same entry, by design."""
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, 0xFFFF_8000_0000_0000, 0x7000, P | W)
    alias = writer.entry(root, 256)
    for slot in set(range(256, 511)) - {402, 403}:
        writer.set(root, slot, alias)
    index = FrameIndex(Tables(writer.memory()), [root])
    (mapping,) = index.who(0x7000).mappings
    assert (mapping.va, mapping.aliases) == (0xFFFF_8000_0000_0000, 253)
    (use,) = index.who(alias).tables
    assert (use.level, use.aliases, use.entry_pa) == (3, 253, root + 256 * 8)


def test_a_frame_used_at_two_levels_is_told_with_both() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.set(root, 510, root | P | W)
    index = FrameIndex(Tables(writer.memory()), [root])
    assert index.tables_used()[root] == (4, 3, 2, 1)  # type: ignore[index]
    assert [u.level for u in index.who(root).tables] == [4, 3, 2, 1]
    (mapping,) = index.who(root).mappings
    assert mapping.va == 0xFFFF_FF7F_BFDF_E000, "the recursive mapping shows the root itself"


def test_what_cannot_be_looked_at_is_a_gap_with_its_reason() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, 0x1000, 0x5000, P | W)
    writer.set(root, 1, 0xDEAD_0000_0000 | P | W)
    writer.set(root, 2, 0xDEAD_0000_0000 | P | W)
    writer.set(root, 3, 0x5000 | P | PS)
    space = Spaces(Tables(writer.memory())).space(root)
    assert [r[:5] for r in space.ranges] == [(0x1000, 0x2000, True, False, False)]
    slot = 1 << 39
    assert [tuple(g) for g in space.gaps] == [
        (slot, 3 * slot, "unreadable", 3),
        (3 * slot, 4 * slot, "reserved-bits", 4),
    ]
    gone = Spaces(Tables(FrameMemory({}))).space(0x9000)
    assert [(g.start, g.end, g.reason, g.level) for g in gone.gaps] == [
        (0, 1 << 47, "unreadable", 4),
        ((1 << 64) - (1 << 47), 1 << 64, "unreadable", 4),
    ]


@pytest.mark.parametrize("off", [True, False])
def test_nx_counts_unless_it_is_known_to_be_off(off: bool) -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, 0x1000, 0x5000, P | W | NX)
    nxe = False if off else None
    (one,) = Spaces(Tables(writer.memory()), nxe=nxe).space(root).ranges
    (mapping,) = FrameIndex(Tables(writer.memory()), [root], nxe=nxe).who(0x5000).mappings
    assert one.nx is mapping.effective.nx is (not off)


def test_a_table_of_512_equal_entries_is_one_range() -> None:
    writer = TableWriter()
    root = writer.new_table()
    for index in range(512):
        writer.map(root, index << 12, 0x5000, P | W)
    (one,) = Spaces(Tables(writer.memory())).space(root).ranges
    assert (one.start, one.end) == (0, 2 << 20)


def test_runs_of_large_pages_with_a_bad_one_among_them() -> None:
    writer = TableWriter()
    root = writer.new_table()
    for index in range(512):
        flags = P | W if index < 300 else P | W | NX
        writer.map(root, index << 21, index << 21, flags, level=2)
    table = writer.entry(writer.entry(root, 0) & ~0xFFF, 0) & ~0xFFF
    writer.set(table, 100, writer.entry(table, 100) | 1 << 14)
    space = Spaces(Tables(writer.memory())).space(root)
    assert [r[:5] for r in space.ranges] == [
        (0, 100 << 21, True, False, False),
        (101 << 21, 300 << 21, True, False, False),
        (300 << 21, 512 << 21, True, False, True),
    ]
    assert [tuple(g) for g in space.gaps] == [(100 << 21, 101 << 21, "reserved-bits", 2)]


def test_tables_that_name_themselves_with_512_permissions_end_soon() -> None:
    """Unbounded, the ranges of this space would number 512 to the fourth."""
    writer = TableWriter()
    root = writer.new_table()
    for index in range(512):
        writer.set(root, index, root | P | (W if index % 2 else U))
    space = Spaces(Tables(writer.memory())).space(root)
    index = FrameIndex(Tables(writer.memory()), [root])
    who = index.who(root)
    assert len(space.ranges) <= MOST_RANGES
    assert {g.reason for g in space.gaps} == {"too-many-ranges"}
    assert sum(m.aliases for m in who.mappings) == 512**4
    for one in (space.ranges[0], space.ranges[-1]):
        told = walk(index.tables, root, one.start).effective
        assert told == Effective(one.w, one.u, one.nx)


def test_a_thousand_spaces_share_what_they_share() -> None:
    """Each table is fetched once; the shared half is not looked at again for each space."""
    writer = TableWriter()
    master = writer.new_table()
    for page in range(2000):
        writer.map(master, 0xFFFF_C900_0000_0000 + page * 0x3000, page << 12, P | W | NX, way=P | W)
    roots = []
    for number in range(200):
        root = writer.new_table()
        writer.set(root, 402, writer.entry(master, 402))
        writer.map(root, 0x40_0000, 0x7000_0000 + (number << 12), P | U)
        roots.append(root)
    memory = writer.memory()
    spaces = Spaces(Tables(memory))
    kernel = spaces.space(master).ranges
    for root in roots:
        ranges = spaces.space(root).ranges
        assert ranges[1:] == kernel and ranges[1] is kernel[0]
        assert ranges[0][:5] == (0x40_0000, 0x40_1000, False, True, False)
    assert set(memory.asked.values()) == {1}
    index = FrameIndex(Tables(memory), [master, *roots])
    who = index.who(0x5000)
    assert [m.root for m in who.mappings] == [master, *roots]
    assert index.who(0x7000_0000).mappings[0].root == roots[0]


@settings(max_examples=250, deadline=None)
@given(
    entries=st.lists(ENTRY, max_size=40),
    levels=st.sampled_from([4, 5]),
    cut=st.tuples(st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 48) - 1)),
)
def test_pages_are_the_models(
    entries: list[tuple[int, int, int, int, int]], levels: int, cut: tuple[int, int]
) -> None:
    """All pages of both halves in order, and of a range those that reach into it."""
    writer = _written(entries, levels)
    tables = Tables(writer.memory())
    half = end_of_low_half(levels)
    every = list(model_leaves(writer.frames, ROOT, levels))
    for first, last in ((0, half - 1), ((1 << 64) - half, (1 << 64) - 1), tuple(sorted(cut))):
        found = list(pages(tables, ROOT, levels, first, last))
        wanted = [leaf for leaf in every if leaf.va <= last and first < leaf.va + leaf.size]
        assert [(p.va, span(p.level), p.frame, p.w, p.u, p.nx, p.entry_pa) for p in found] == [
            (m.va, m.size, m.pa, m.w, m.u, m.nx, m.entry_pa) for m in wanted
        ]
        assert all(p.raw == tables.table(p.entry_pa)[entry_index(p.entry_pa)] for p in found)


def test_pages_that_cannot_be_told() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, 0x40_0000, 0x5000)
    table = writer.entry(root, 0) & 0xF_FFFF_F000
    del writer.frames[table]
    tables = Tables(writer.memory())
    assert not list(pages(tables, root, 4, 0, 1 << 40))
    with pytest.raises(Unreadable):
        list(pages(tables, root, 4, 0, 1 << 40, strict=True))
    assert not list(pages(tables, root, 4, 1 << 39, 1 << 40, strict=True)), "not on the way"
