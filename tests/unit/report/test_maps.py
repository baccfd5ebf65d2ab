"""Matrix, memory map, atlas and table tree, drawn from stops with one thing broken in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report import atlas, maps, tree
from breenix_gdbagent.report.cells import CELLS
from breenix_gdbagent.report.document import RunRecord
from breenix_gdbagent.report.story import objects, record, texts
from breenix_gdbagent.run_report import build
from breenix_gdbagent.views.space_map import space_map
from breenix_gdbagent.views.stop_detail import stop_detail
from breenix_gdbagent.views.table_runs import runs, table_runs
from breenix_gdbagent.x86.paging import ADDRESS, NX, P, U, W
from tests.unit.report import stops
from tests.unit.report.sides import Side, compare
from tests.writers.overlay import OverlayMemory, overlaid

NAME = "breenix-first-gp"
FRESH = 0x1F00_0000


def broken(spoil: Callable[[Kernel, OverlayMemory], None]) -> Kernel:
    """The captured stop with `spoil` done to its memory."""
    stop, memory = overlaid(stops.stop(NAME))
    spoil(Kernel(stops.stop(NAME)), memory)
    return Kernel(stop)


def own_tables(kernel: Kernel, memory: OverlayMemory, root: int, va: int) -> list[int]:
    """Gives `root` tables of its own down to `va`; the addresses of the entries on the way."""
    entries = [e.entry_pa for e in kernel.walk(root, va).entries]
    for level in range(len(entries) - 1):
        frame = FRESH + level * 0x1000
        old = memory.entry(entries[level])
        memory.copy_frame(old & ADDRESS, frame)
        memory.set_entry(entries[level], old & ~ADDRESS | frame)
        entries[level + 1] = frame | entries[level + 1] & 0xFFF  # type: ignore[call-overload]
    return [int(e) for e in entries]


def leaf_of_slot_3(kernel: Kernel, memory: OverlayMemory, page: int = 0) -> tuple[int, int]:
    """(entry of a page of stack slot 3 in the last space's own tables, its old value)."""
    stack = kernel.stacks[3]
    entries = own_tables(kernel, memory, kernel.audited[-1].root, stack.bottom + page * 4096)
    return entries[-1], memory.entry(entries[-1])


def _unmap_page(kernel: Kernel, memory: OverlayMemory) -> None:
    at, _ = leaf_of_slot_3(kernel, memory)
    memory.set_entry(at, 0)


def _unmap_all(kernel: Kernel, memory: OverlayMemory) -> None:
    at, _ = leaf_of_slot_3(kernel, memory)
    for page in range(len(kernel.stacks[3].pages)):
        memory.set_entry(at + page * 8, 0)


def _read_only(kernel: Kernel, memory: OverlayMemory) -> None:
    at, old = leaf_of_slot_3(kernel, memory)
    memory.set_entry(at, old & ~W)


def _executable(kernel: Kernel, memory: OverlayMemory) -> None:
    at, old = leaf_of_slot_3(kernel, memory)
    memory.set_entry(at, old & ~NX)


def _other_frame(kernel: Kernel, memory: OverlayMemory) -> None:
    at, old = leaf_of_slot_3(kernel, memory)
    memory.set_entry(at, old + 0x1000)


def _guard(kernel: Kernel, memory: OverlayMemory) -> None:
    at, old = leaf_of_slot_3(kernel, memory)
    memory.set_entry(at - 8, old)


def _user(kernel: Kernel, memory: OverlayMemory) -> None:
    root = kernel.audited[-1].root
    for entry in own_tables(kernel, memory, root, kernel.stacks[3].bottom):
        memory.set_entry(entry, memory.entry(entry) | U)


@pytest.mark.parametrize(
    ("spoil", "glyph"),
    [
        (_unmap_page, "p"), (_unmap_all, "-"), (_read_only, "r"), (_executable, "x"),
        (_other_frame, "d"), (_guard, "g"), (_user, "u"),
    ],
)  # fmt: skip
def test_each_defect_has_its_glyph_in_its_cell_alone(
    spoil: Callable[[Kernel, OverlayMemory], None], glyph: str
) -> None:
    drawn = maps.build(space_map(broken(spoil)))
    cells = {str(row["stack"]): str(row["cells"]) for row in objects(drawn["stacks"])}
    width = len(texts(drawn["spaces"]))
    assert cells["slot 3"] == "." * (width - 1) + glyph
    assert all(set(c) == {"."} for s, c in cells.items() if s.startswith("slot") and s != "slot 3")


def test_glyphs_have_words_and_an_order() -> None:
    assert set(CELLS) == set("-pgurdx?.")
    assert list(CELLS)[-1] == "."


def test_users_of_the_stacks() -> None:
    kernel = Kernel(stops.stop(NAME))
    rows = objects(maps.build(space_map(kernel))["stacks"])
    here = kernel.stack_at(kernel.stop.cpu.rsp)
    assert here is not None
    users = {str(r["stack"]): texts(r["users"]) for r in rows if r["users"]}
    assert "RSP of CPU 0" in users[here.name]


def test_regions_cover_what_is_mapped() -> None:
    """Every mapped range of every space lies in one of its regions, and no region is empty."""
    kernel = Kernel(stops.stop(NAME))
    drawn = maps.build(space_map(kernel))
    common = objects(drawn["common"])
    for root, own in zip(texts(drawn["spaces"]), drawn["own"], strict=True):  # type: ignore[arg-type]
        changed = {tuple(r["slots"]) for r in objects(own)}  # type: ignore[arg-type]
        mine = [*objects(own), *(r for r in common if tuple(r["slots"]) not in changed)]  # type: ignore[arg-type]
        spans = [(int(str(r["start"]), 16), int(str(r["last"]), 16)) for r in mine]
        for one in kernel.merged.space(int(root, 16)).ranges:
            assert any(a <= one.start and one.end - 1 <= b for a, b in spans), hex(one.start)


def test_a_slot_that_one_space_lacks_is_named() -> None:
    def spoil(kernel: Kernel, memory: OverlayMemory) -> None:
        memory.set_entry(kernel.audited[-1].root + 136 * 8, 0)

    drawn = maps.build(space_map(broken(spoil)))
    assert [r["slots"] for r in objects(drawn["common"])].count([136, 136]) == 1
    *others, last = drawn["own"]  # type: ignore[misc]
    missing = [r for r in objects(last) if r["slots"] == [136, 136]]
    assert [(r["mapped"], r["holds"], r["in_master"]) for r in missing] == [
        (0, "kernel heap", False)
    ]
    assert not any(r["slots"] == [136, 136] for own in others for r in objects(own))


def test_without_paging_there_is_a_reason() -> None:
    from tests.writers.overlay import with_registers

    drawn = maps.build(space_map(Kernel(with_registers(stops.stop(NAME), cr0=0x11))))
    assert drawn["reason"] and drawn["stacks"] == [] and drawn["spaces"] == []


def test_atlas_keeps_the_order_of_addresses_and_draws_aliases_once() -> None:
    kernel = Kernel(stops.stop(NAME))
    document = build({"kind": "snapshot"}, RunRecord(), examine(kernel.stop, kernel))
    found = atlas.build(document, stop_detail(kernel))
    assert found is not None
    for row in found.rows:
        places = [found.place(p.start) for p in row.pieces]
        assert places == sorted(places) and places[0] >= 0 and places[-1] < 1000
        assert all(found.place(p.end) > found.place(p.start) for p in row.pieces)
        slots = {p.start >> 39 & 0x1FF for p in row.pieces}
        assert 256 in slots and not slots & set(range(257, 402))
    shared = {p.shared for row in found.rows for p in row.pieces}
    assert shared == {"all", "some", "own"}
    stack = kernel.stacks[0]
    band = next(b for b in found.bands if b.name == "kernel stacks")
    assert band.left <= found.place(stack.bottom) < found.place(stack.top) <= band.right + 0.01


def test_tree_has_every_entry_of_every_table() -> None:
    """The runs, unrolled again, are the tables' entries: none lost, none invented."""
    kernel = Kernel(stops.stop(NAME))
    roots = [f"{s.root:#x}" for s in kernel.audited]
    data = tree.build(table_runs(kernel, (int(root, 16) for root in roots)), roots)
    tables = record(data["tables"])
    assert len(tables) > 100
    rolled = 0
    for key, of_table in tables.items():
        frame, level = (int(x, 16) for x in key.split("."))
        entries = [0] * 512
        for first, count, raw, step in of_table:  # type: ignore[misc,union-attr]
            size = 1 << 12 + 9 * (level - 1)
            rolled += count > 1 and step
            for n in range(count):
                entries[first + n] = int(str(raw), 16) + n * size * step
        assert entries == kernel.tables.table(frame).tolist()
        for n, raw in enumerate(entries):
            if raw & P and level > 1 and not raw & 0x80:
                below = f"{raw & ADDRESS:x}.{level - 1}"
                assert below in tables or below in data["unreadable"], (key, n)  # type: ignore[operator]
    assert rolled > 10


def test_runs_end_where_the_step_changes() -> None:
    entries = [0x1003, 0x2003, 0x1003, 0x1003, 0, 0x5002] + [0] * 506
    assert runs(entries, 1) == [
        (0, 2, 0x1003, 1), (2, 2, 0x1003, 0), (5, 1, 0x5002, 0),
    ]  # fmt: skip


def test_diff_says_a_change_of_the_master_once() -> None:
    """A page unmapped in tables that all spaces share is one change, and not one a space."""

    def spoil(kernel: Kernel, memory: OverlayMemory) -> None:
        root = kernel.reference_root or 0
        memory.set_entry(kernel.walk(root, kernel.stacks[3].bottom).entries[-1].entry_pa, 0)

    def side(kernel: Kernel) -> Side:
        document = build({"kind": "snapshot"}, RunRecord(), examine(kernel.stop, kernel))
        return Side("x", document, kernel)

    found = compare(side(Kernel(stops.stop(NAME))), side(broken(spoil)))
    (changed,) = objects(record(found["spaces"])["changed"])
    assert record(changed["b"])["role"] == "master"
    (removed,) = objects(changed["removed"])
    assert removed["size"] == 4096 and found["same_run"] is True
