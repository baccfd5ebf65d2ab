"""The table graph on tables made here: shared, looping, out of RAM, random."""

from __future__ import annotations

import random

import pytest

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.kernel.sharing import learn_slots
from breenix_gdbagent.x86.graph import MOST_TABLES, RootPlan, TableGraph
from breenix_gdbagent.x86.paging import Tables
from tests.writers.memory import FrameMemory, ram_of
from tests.writers.tables import NX, PS, P, TableWriter, U, W

HEAP = 0x4444_4444_0000
USER = 0x4000_0000
RAM = ram_of((0, 0x1000_0000))
EVERY = range(512)


def graph(writer: TableWriter, *plans: RootPlan) -> TableGraph:
    return TableGraph(Tables(FrameMemory(writer.frames, RAM)), plans, writer.levels, RAM)


def own(root: int) -> RootPlan:
    return RootPlan(PhysAddr(root), (), EVERY)


def test_every_table_is_one_node_with_its_leaves() -> None:
    writer = TableWriter()
    root = writer.new_table()
    for page in range(5):
        writer.map(root, HEAP + page * 0x1000, 0x20_0000 + page * 0x1000, P | W | NX)
    writer.map(root, 0x8000_0000, 0x40_0000, level=2)
    found = graph(writer, own(root))
    assert len(found.nodes) == 1 + 3 + 2
    leaves = {
        (node.level, node.va + (index << node.shift), raw & ~0xFFF & ~NX)
        for node in found.nodes.values()
        for index, raw in node.leaves()
    }
    assert leaves == {(1, HEAP + i * 0x1000, 0x20_0000 + i * 0x1000) for i in range(5)} | {
        (2, 0x8000_0000, 0x40_0000)
    }
    assert not found.cycles and not found.beyond and not found.unreadable


def test_a_full_and_an_empty_table() -> None:
    writer = TableWriter()
    root = writer.new_table()
    for page in range(512):
        writer.map(root, HEAP & ~0x1F_FFFF | page << 12, page << 12)
    full = next(n for n in graph(writer, own(root)).nodes.values() if n.level == 1)
    assert list(full.at) == list(range(512)) and len(full.raws) == 512
    other = TableWriter()
    assert [n.raws for n in graph(other, own(other.new_table())).nodes.values()] == [[]]


def test_rights_are_those_of_the_way() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, USER, 0x20_0000, P | W | U, way=P | U)
    (node,) = [n for n in graph(writer, own(root)).nodes.values() if n.level == 1]
    assert not node.rights & W and node.rights & U


def test_what_two_roots_share_belongs_to_the_first() -> None:
    writer = TableWriter()
    one, two = writer.new_table(), writer.new_table()
    writer.map(one, USER, 0x20_0000, P | W | U)
    writer.set(two, 0, writer.entry(one, 0))
    found = graph(writer, own(one), own(two))
    (key,) = found.sharers
    assert found.nodes[key].owner == one and found.nodes[key].level == 3
    assert [link.root for link in found.sharers[key]] == [two]


def test_kernel_slots_are_not_shared_by_mistake() -> None:
    writer = TableWriter()
    master, process = writer.new_table(), writer.new_table()
    writer.map(master, HEAP, 0x20_0000)
    writer.set(process, 136, writer.entry(master, 136))
    found = graph(
        writer, RootPlan(PhysAddr(master), (136,), ()), RootPlan(PhysAddr(process), (), ())
    )
    assert not found.sharers and not found.again


def test_a_table_that_names_itself_is_not_followed() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, HEAP, 0x20_0000)
    pdpt = writer.entry(root, 136) & ~0xFFF
    writer.set(pdpt, 400, pdpt | P | W)
    found = graph(writer, own(root))
    (cycle,) = found.cycles
    assert cycle.entry_pa == pdpt + 8 * 400 and cycle.table == pdpt and cycle.level == 3
    assert all(len(levels) == 1 for levels in found.levels_of.values())


def test_a_table_outside_ram_is_noted() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.set(root, 7, 0x20_0000_0000 | P)
    found = graph(writer, own(root))
    assert [hex(link.raw) for link in found.beyond] == [hex(0x20_0000_0000 | P)]


def test_a_table_that_the_file_lacks_is_noted() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.set(root, 7, 0x80_0000 | P)
    found = graph(writer, own(root))
    assert [link.table for link in found.unreadable] == [0x80_0000]


def test_one_frame_at_two_levels() -> None:
    writer = TableWriter()
    root, table = writer.new_table(), writer.new_table()
    writer.set(root, 5, table | P | W)
    writer.map(root, 0, 0x20_0000)
    pdpt = writer.entry(root, 0) & ~0xFFF
    writer.set(pdpt, 9, table | P | W)
    assert sorted(graph(writer, own(root)).levels_of[PhysAddr(table)]) == [2, 3]


def test_512_equal_entries_are_one_table() -> None:
    writer = TableWriter()
    root, pdpt = writer.new_table(), writer.new_table()
    writer.map(root, 0, 0x20_0000)
    directory = writer.entry(writer.entry(root, 0) & ~0xFFF, 0) & ~0xFFF
    for index in range(512):
        writer.set(pdpt, index, directory | P | W)
    writer.set(root, 1, pdpt | P | W)
    found = graph(writer, own(root))
    assert len([n for n in found.nodes.values() if n.level == 2]) == 1
    assert len(found.again[directory | 2]) == 512


def test_slots_are_learned_and_compared() -> None:
    writer = TableWriter()
    master = writer.new_table()
    processes = [writer.new_table() for _ in range(3)]
    shared = writer.new_table()
    for slot in (4, 136, 300):
        writer.set(master, slot, shared | P | W)
    writer.set(master, 255, writer.new_table() | P | W | U)  # a user stack made in the master
    writer.set(master, 9, writer.new_table() | P | W)  # the bootloader's, no process has it
    for root in processes:
        for slot in (4, 136, 300):
            writer.set(root, slot, writer.entry(master, slot) | 1 << 5)  # accessed: the CPU's
        writer.set(root, 255, writer.entry(master, 255))
        writer.set(root, 0, writer.new_table() | P | W | U)
    tables = Tables(FrameMemory(writer.frames, RAM))
    roots = [PhysAddr(r) for r in processes]
    slots = learn_slots(tables, PhysAddr(master), roots, {136: "kernel heap"})
    assert slots.slots == (4, 136, 300)
    assert [slots.differing(tables.table(r)) for r in processes] == [[], [], []]
    assert slots.own(tables.table(processes[0])) == [0, 255]
    writer.set(processes[1], 136, 0)
    writer.set(processes[1], 300, writer.new_table() | P | W)
    broken = Tables(FrameMemory(writer.frames, RAM)).table(PhysAddr(processes[1]))
    assert slots.differing(broken) == [136, 300]
    assert slots.elsewhere(broken) == [300]


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_as_tables_end(seed: int) -> None:
    """Bounded in time and in what is kept, whatever the bytes say."""
    dice = random.Random(seed)
    frames = {n << 12: bytearray(dice.randbytes(0x1000)) for n in range(1, 65)}
    if seed % 2:  # entries that stay inside: cycles and levels without end
        for data in frames.values():
            for index in range(512):
                raw = dice.randrange(1, 65) << 12 | dice.choice((0, P, P | W | U, P | PS))
                data[8 * index : 8 * index + 8] = raw.to_bytes(8, "little")
    memory = FrameMemory(frames, ram_of((0, 0x100_0000)))
    found = TableGraph(Tables(memory), [own(0x1000), own(0x2000)], 4, memory.ram)
    assert len(found.nodes) <= min(MOST_TABLES, 64 * 4)
