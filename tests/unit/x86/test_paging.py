"""The walk against hand-made tables and against a model that shares no code with it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breenix_gdbagent.errors import NotMapped, Unreadable
from breenix_gdbagent.x86.paging import (
    Effective,
    Tables,
    VirtualMemory,
    entry_flags,
    read_virtual,
    translate,
    walk,
)
from tests.writers.tables import NX, PS, G, P, TableWriter, U, W, model_lookup

KERNEL = 0xFFFF_C900_0000_1000


def test_four_levels_down_to_a_small_page() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, KERNEL, 0x5000, P | W | NX | G, way=P | W)
    found = walk(Tables(writer.memory()), root | 0x18, KERNEL + 0x123)
    assert (found.pa, found.size, found.reason, found.stopped_at) == (0x5123, 0x1000, None, None)
    assert found.root == root, "flag bits of CR3 are not part of the root"
    assert found.effective == Effective(w=True, u=False, nx=True)
    assert [e.level for e in found.entries] == [4, 3, 2, 1]
    assert found.entries[0].entry_pa == root + 402 * 8
    assert found.leaf is not None and found.leaf.flags == ("P", "W", "G", "NX")


@pytest.mark.parametrize(("level", "size"), [(1, 1 << 12), (2, 1 << 21), (3, 1 << 30)])
@pytest.mark.parametrize("levels", [4, 5])
def test_every_page_size_in_both_modes(level: int, size: int, levels: int) -> None:
    writer = TableWriter(levels=levels)
    root = writer.new_table()
    va = 0xFF00_0000_0000_0000 if levels == 5 else 0xFFFF_8000_0000_0000
    pat = 0x80 if level == 1 else 0x1000
    writer.map(root, va, 1 << 32, P | U | pat, level=level)
    found = walk(Tables(writer.memory()), root, va + size - 1, levels)
    assert (found.pa, found.size) == ((1 << 32) + size - 1, size)
    assert found.effective == Effective(w=False, u=True, nx=False)
    assert len(found.entries) == levels - level + 1
    assert "PAT" in found.entries[-1].flags, "PAT of a large page is no address bit"


def test_the_levels_are_anded_and_nx_is_ored() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, 0x1000, 0x5000, P | W | U)
    top = writer.entry(root, 0)
    for bits, expected in (
        (top & ~W, Effective(False, True, False)),
        (top & ~U, Effective(True, False, False)),
        (top | NX, Effective(True, True, True)),
    ):
        writer.set(root, 0, bits)
        assert walk(Tables(writer.memory()), root, 0x1000).effective == expected
    writer.set(root, 0, top | NX)
    off = walk(Tables(writer.memory()), root, 0x1000, nxe=False).effective
    assert off == Effective(True, True, False), "NX is not there while EFER.NXE is known to be 0"


@pytest.mark.parametrize(
    ("level", "raw", "reason"),
    [
        (4, 0, "not-present"),
        (1, 0x5000 | W | U, "not-present"),
        (4, 0x5000 | P | PS, "reserved-bits"),
        (3, P | PS | 1 << 29, "reserved-bits"),
        (2, P | PS | 1 << 13, "reserved-bits"),
        (2, P | PS | 1 << 20, "reserved-bits"),
        (3, 0xDEAD_0000_0000 | P, "unreadable"),
    ],
)
def test_where_and_why_a_walk_ends(level: int, raw: int, reason: str) -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, 0x40_0000, 0x5000)
    table = root
    for number in range(4, level, -1):
        table = writer.entry(table, 0x40_0000 >> (12 + 9 * (number - 1)) & 511) & ~0xFFF
    writer.set(table, 0x40_0000 >> (12 + 9 * (level - 1)) & 511, raw)
    found = walk(Tables(writer.memory()), root, 0x40_0000)
    assert (found.pa, found.size, found.effective) == (None, None, None)
    assert found.reason == reason
    assert found.stopped_at == (level - 1 if reason == "unreadable" else level)
    assert found.entries[-1].raw == raw, "the entry that stopped it is shown"


def test_ps_is_reserved_at_the_fifth_level() -> None:
    writer = TableWriter(levels=5)
    root = writer.new_table()
    writer.map(root, 0x1000, 0x5000)
    writer.set(root, 0, writer.entry(root, 0) | PS)
    found = walk(Tables(writer.memory()), root, 0x1000, levels=5)
    assert (found.reason, found.stopped_at) == ("reserved-bits", 5)


def test_non_canonical_reads_no_table() -> None:
    memory = TableWriter().memory()
    for va in (0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF, 1 << 64, -1):
        found = walk(Tables(memory), 0x1000, va)
        assert (found.reason, found.stopped_at, found.entries) == ("non-canonical", None, ())
    assert walk(Tables(memory), 0x1000, 0x8000_0000_0000, levels=5).reason == "unreadable"
    assert not memory.asked.get(0x8000)


@pytest.mark.parametrize(
    ("level", "raw", "names"),
    [
        (1, P | W | U | 0x18 | 0x60, ("P", "W", "U", "PWT", "PCD", "A", "D")),
        (1, P | 1 << 9 | 1 << 52, ("P", "AVL9", "AVL52")),
        (1, P | 3 << 59 | NX, ("P", "PKEY3", "NX")),
        (4, P | 3 << 59, ("P", "AVL59", "AVL60")),
        (2, P | PS | G | 1 << 12, ("P", "G", "PS", "PAT")),
        (1, P | PS, ("P", "PAT")),
        (1, 0, ()),
    ],
)
def test_names_of_bits(level: int, raw: int, names: tuple[str, ...]) -> None:
    assert entry_flags(level, raw) == names


def test_a_table_is_fetched_once_and_refused_each_time() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.set(root, 1, 0x7777_0000 | P)
    memory = writer.memory()
    tables = Tables(memory)
    for _ in range(3):
        walk(tables, root, 0)
        with pytest.raises(Unreadable) as refused:
            tables.table(0x7777_0000)
        assert refused.value.pa == 0x7777_0000
    assert memory.asked == {root: 1, 0x7777_0000: 1}


def test_reading_across_pages_follows_the_tables() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, 0x1000, 0x9000)
    writer.map(root, 0x2000, 0x8000)
    frames = dict(writer.frames)
    frames[0x9000] = bytearray(b"\x11" * 0x1000)
    frames[0x8000] = bytearray(b"\x22" * 0x1000)
    memory = writer.memory()
    memory.frames.update(frames)
    tables = Tables(memory)
    assert read_virtual(tables, root, 0x1FFE, 4) == b"\x11\x11\x22\x22"
    view = VirtualMemory(tables, root)
    assert view.read(0x1FFE, 4) == b"\x11\x11\x22\x22"
    assert view.u64(0x1FFC) == 0x2222_2222_1111_1111
    assert view.u32(0x2000) == 0x2222_2222
    assert view.read(0x1000, 0) == b""
    with pytest.raises(NotMapped) as ended:
        view.read(0x2FFE, 4)
    assert (ended.value.va, ended.value.level, ended.value.reason) == (0x3000, 1, "not-present")
    with pytest.raises(NotMapped):
        translate(tables, root, 0x8000_0000_0000)
    memory.frames.pop(0x8000)
    with pytest.raises(Unreadable):
        view.read(0x2000, 1)


ENTRY = st.builds(
    lambda frame, bits, high: frame << 12 | bits | high,
    st.integers(0, 12).map(lambda n: n + 0x100),
    st.sampled_from([0, P, P | W, P | U, P | W | U, P | PS, P | W | PS | 0x20000, W, 0xFFF]),
    st.sampled_from([0, NX, 5 << 59, 1 << 40]),
)


@settings(max_examples=300, deadline=None)
@given(
    entries=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3), ENTRY), max_size=60),
    slots=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    levels=st.sampled_from([4, 5]),
    offset=st.integers(0, 0xFFF),
)
def test_any_tables_walk_as_the_model_says(
    entries: list[tuple[int, int, int]], slots: list[int], levels: int, offset: int
) -> None:
    """Twelve frames that name each other and themselves at random, one frame is not there."""
    writer = TableWriter(levels=levels)
    for _ in range(12):
        writer.new_table()
    for frame, slot, raw in entries:
        writer.set(0x100000 + frame * 0x1000, slot, raw)
    va = offset
    for number in range(1, levels + 1):
        va |= slots[number - 1] << 12 + 9 * (number - 1)
    met, reason, level = model_lookup(writer.frames, 0x100000, va, levels)
    found = walk(Tables(writer.memory()), 0x100000, va, levels)
    assert [e.raw for e in found.entries] == met
    if reason == "mapped":
        assert level is not None and found.leaf is not None
        size = 1 << 12 + 9 * (level - 1)
        assert (found.size, found.reason, found.stopped_at) == (size, None, None)
        assert found.pa == (met[-1] & 0x000F_FFFF_FFFF_F000) // size * size + va % size
        assert found.effective == Effective(
            all(r & W for r in met), all(r & U for r in met), any(r & NX for r in met)
        )
    else:
        assert (found.reason, found.stopped_at, found.pa) == (reason, level, None)
