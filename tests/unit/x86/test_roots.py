"""Roots found from one that is known: those of the captures, and kernels made for the purpose."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from breenix_gdbagent.memory.core import ElfCore
from breenix_gdbagent.x86.roots import scan_roots
from tests.unit.captures import BREENIX, LINUX, capture, truth_of
from tests.writers.memory import FrameMemory
from tests.writers.tables import P, TableWriter, U, W

BREENIX_SLOTS = (256, 402, 403)


@pytest.mark.parametrize("slots", [None, BREENIX_SLOTS])
@pytest.mark.parametrize("name", BREENIX)
def test_exactly_master_and_processes_from_any_of_them(
    name: str, slots: tuple[int, ...] | None
) -> None:
    truth: Any = truth_of(name)
    roots = sorted(int(r, 16) for r in [truth["master_pml4"], *truth["process_pml4s"]])
    memory = ElfCore.open(capture(name) / "core.elf")
    for reference in roots:
        found = scan_roots(memory, reference, slots)
        assert [c.root for c in found] == roots
        assert [c.root for c in found if c.how == "reference"] == [reference]
        assert not any(c.differs for c in found)


@pytest.mark.parametrize("name", LINUX)
def test_all_roots_of_linux_from_any_of_them(name: str) -> None:
    """Freed ones, the trampoline, both roots of a pair, and those that `modify_ldt` changed."""
    truth: Any = truth_of(name)
    roots = sorted(int(r["root"], 16) for r in truth["roots"])
    memory = ElfCore.open(capture(name) / "core.elf")
    for reference in roots:
        assert [c.root for c in scan_roots(memory, reference)] == roots, hex(reference)


def test_which_roots_are_of_the_other_kind() -> None:
    truth: Any = truth_of("linux-pti")
    memory = ElfCore.open(capture("linux-pti") / "core.elf")
    kinds = {int(r["root"], 16): r["kind"] for r in truth["roots"]}
    reference = next(r for r, kind in kinds.items() if kind == "kernel")
    for found in scan_roots(memory, reference):
        assert (found.how == "pti-pair") == (kinds[found.root] == "user"), hex(found.root)


def _kernel(processes: int = 4) -> tuple[TableWriter, int, list[int]]:
    """Roots that share slots 256 (under two numbers), 402, 403 and 511; each has its own slot 0."""
    writer = TableWriter(next_frame=0x20_0000)
    master = writer.new_table()
    for slot in (256, 402, 403, 511):
        writer.map(master, (0xFFFF << 48) | slot << 39, slot << 12, P | W, way=P | W)
    writer.set(master, 300, writer.entry(master, 256))
    roots = []
    for number in range(processes):
        root = writer.new_table()
        writer.frames[root][2048:] = writer.frames[master][2048:]
        writer.map(root, 0x40_0000, 0x7000_0000 + number * 0x1000, P | U)
        roots.append(root)
    return writer, master, roots


def test_flags_of_the_shared_entries_may_differ() -> None:
    writer, master, roots = _kernel()
    for slot in (256, 402, 403, 511):
        writer.set(roots[1], slot, writer.entry(roots[1], slot) | 0x20 | 1 << 9 | 1 << 8)
    assert [c.root for c in scan_roots(writer.memory(), master)] == [master, *roots]


@pytest.mark.parametrize("slot", [256, 402, 403, 511])
@pytest.mark.parametrize("raw", [0, 0x9999_0000 | P | W])
def test_one_kernel_slot_that_is_wrong_is_found_and_named(slot: int, raw: int) -> None:
    """The very bug that one looks for must not hide the root that has it."""
    writer, master, roots = _kernel()
    writer.set(roots[2], slot, raw)
    found = {c.root: c.differs for c in scan_roots(writer.memory(), master)}
    assert set(found) == {master, *roots}
    assert found.pop(roots[2]) == (slot,)
    assert not any(found.values())


def test_two_wrong_slots_are_another_kernel_unless_asked_for() -> None:
    writer, master, roots = _kernel()
    for slot in (402, 403):
        writer.set(roots[0], slot, 0x9999_0000 | P)
    memory = writer.memory()
    assert roots[0] not in [c.root for c in scan_roots(memory, master)]
    assert roots[0] in [c.root for c in scan_roots(memory, master, tolerance=2)]
    one_off = [c.root for c in scan_roots(memory, master, BREENIX_SLOTS)]
    assert one_off == [master, *roots[1:]]


def test_a_slot_that_names_the_root_itself_is_not_shared() -> None:
    writer, master, roots = _kernel()
    for root in (master, *roots):
        writer.set(root, 510, root | P | W)
    assert [c.root for c in scan_roots(writer.memory(), roots[0])] == [master, *roots]


def test_a_kernel_with_one_shared_table_and_a_slot_for_itself() -> None:
    writer = TableWriter(next_frame=0x20_0000)
    roots = [writer.new_table(), writer.new_table()]
    writer.map(roots[0], 0xFFFF_8000_0000_0000, 0x5000)
    writer.set(roots[1], 256, writer.entry(roots[0], 256))
    for root in roots:
        writer.set(root, 510, root | P | W)
    assert [c.root for c in scan_roots(writer.memory(), roots[0])] == roots


def test_tables_in_low_memory() -> None:
    """Below 64 KiB the bits compared first are zero, as in most entries of most frames."""
    writer = TableWriter(next_frame=0x1000)
    master, other = writer.new_table(), writer.new_table()
    writer.map(master, 0xFFFF_8000_0000_0000, 0x5000)
    writer.set(other, 256, writer.entry(master, 256))
    empty = writer.new_table()
    found = [c.root for c in scan_roots(writer.memory(), master)]
    assert found == [master, other] and empty not in found


def test_no_reference_no_roots() -> None:
    writer, _, _ = _kernel()
    memory = writer.memory()
    assert scan_roots(memory, 0x7_0000_0000) == []
    bare = TableWriter(next_frame=0x80_0000)
    root = bare.new_table()
    memory.frames |= bare.frames
    assert [c.root for c in scan_roots(memory, root | 0x18)] == [root], "nothing to know it by"


@pytest.mark.parametrize("seed", range(20))
def test_random_memory_has_no_roots(seed: int) -> None:
    writer, master, roots = _kernel()
    rng = random.Random(seed)
    frames = {0x100_0000 + n * 0x1000: rng.randbytes(0x1000) for n in range(64)}
    memory = FrameMemory({**frames, **writer.frames})
    assert [c.root for c in scan_roots(memory, master)] == [master, *roots]


def test_the_sweep_does_not_look_at_whole_frames() -> None:
    """64 MiB in tens of milliseconds at worst: one cache line of each frame is read."""

    class Block(FrameMemory):
        def filled(self) -> Any:
            yield 0x1_0000_0000, memoryview(block)
            yield from super().filled()

    block = bytes(64 << 20)
    writer, master, roots = _kernel()
    memory = Block(writer.frames)
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        found = scan_roots(memory, master)
        best = min(best, time.process_time() - began)
    assert [c.root for c in found] == [master, *roots]
    assert best < 0.05
