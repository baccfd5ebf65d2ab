"""The stack matrix draws what the check of the kernel stacks finds: one judgement, drawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from breenix_gdbagent.checks import kernel_stacks
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report import maps
from breenix_gdbagent.report.story import objects, texts
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.views.space_map import space_map
from tests.writers.machine import CODE, DATA, NX, SLOT, STACKS, Machine
from tests.writers.tables import P, W

STACK, PAGES = STACKS + SLOT + 0x1000, 16
GLYPHS = {
    "kernel-stack.unmapped": "-p", "ist.unmapped": "-p", "kernel-stack.guard-mapped": "g",
    "kernel-stack.user-accessible": "u", "kernel-stack.read-only": "r",
    "kernel-stack.differs": "d", "kernel-stack.executable": "x",
}  # fmt: skip


def own_slot(machine: Machine, slot: int = 402) -> None:
    """The first process gets tables of its own for the kernel stacks, with the same pages."""
    machine.tables.set(machine.root, slot, 0)
    for number in range(3):
        bottom = STACKS + number * SLOT + 0x1000
        for va in range(bottom, bottom + SLOT - 0x1000, 0x1000):
            frame = machine.entry(machine.leaf(va, machine.master)) & ~0xFFF & ~NX
            machine.tables.map(machine.root, va, frame, P | W | NX, way=P | W)


def aliased(machine: Machine) -> None:
    """The process names, for the kernel stacks, the table that the master has in slot 300: other
    frames at every page."""
    for number in range(3):
        bottom = (STACKS + number * SLOT) - (402 - 300 << 39) + 0x1000
        for va in range(bottom, bottom + SLOT - 0x1000, 0x1000):
            if va == bottom and number == 0:
                machine.tables.set(machine.master, 300, 0)
            machine.tables.map(
                machine.master, va, machine.tables.new_table(), P | W | NX, way=P | W
            )
    machine.tables.set(machine.root, 402, machine.tables.entry(machine.master, 300))


def changed(change: Callable[[Machine], None]) -> Callable[[Machine], None]:
    def both(machine: Machine) -> None:
        own_slot(machine)
        change(machine)

    return both


def other_frame(machine: Machine) -> None:
    machine.set_entry(machine.leaf(STACK), machine.tables.new_table() | P | W | NX)


def missing(machine: Machine) -> None:
    for page in range(PAGES):
        machine.unmap(STACK + 0x1000 * page)


SPOILT: dict[str, Callable[[Machine], None]] = {
    "as built": lambda m: None,
    "own tables, same frames": own_slot,
    "aliased": aliased,
    "other frame": changed(other_frame),
    "a page missing": changed(lambda m: m.unmap(STACK)),
    "all missing": changed(missing),
    "read-only": changed(lambda m: m.change(STACK, clear=W)),
    "executable": changed(lambda m: m.change(STACK, clear=NX)),
    "guard mapped": changed(lambda m: m.map(STACK - 0x1000, P | W | NX)),
    "lacks the slot": lambda m: m.tables.set(m.root, 402, 0),
    "bootloader's root": lambda m: setattr(m, "root", m.boot_root()),
}


def looked_at(spoil: Callable[[Machine], None]) -> Kernel:
    machine = Machine()
    spoil(machine)
    cpu = machine.cpu(rip=CODE, rsp=DATA + 0xF00, cs=0x33, ss=0x2B, eflags=0x202)
    return Kernel(machine.stop(StopReason("marker"), cpu))


def found_by_check(kernel: Kernel) -> dict[tuple[str, str], str]:
    """(stack, root) -> the glyphs of the codes that the check's findings name there."""
    found: dict[tuple[str, str], str] = {}
    iterator = kernel_stacks.check(kernel)
    while True:
        try:
            finding = next(iterator)
        except (StopIteration, NotChecked):
            return found
        facts = finding.facts
        if isinstance(facts, kernel_stacks.StackFacts):
            for space in facts.spaces:
                key = (facts.stack, f"{space.root:#x}")
                found[key] = found.get(key, "") + GLYPHS[finding.code.name]


@pytest.mark.parametrize("name", SPOILT)
def test_a_cell_shows_a_finding_of_the_check_and_is_quiet_without(name: str) -> None:
    kernel = looked_at(SPOILT[name])
    drawn = maps.build(space_map(kernel))
    found = found_by_check(kernel)
    roots = texts(drawn["spaces"])
    assert roots and drawn["stacks"]
    for row in objects(drawn["stacks"]):
        for root, glyph in zip(roots, str(row["cells"]), strict=True):
            told = found.get((str(row["stack"]), root), "")
            assert (glyph in told) if told else glyph == ".", (name, row["stack"], root, told)


def test_an_aliased_slot_is_no_stack_of_other_frames() -> None:
    """kernel-slot.aliased is what is wrong there, and not each frame of each stack."""
    kernel = looked_at(aliased)
    cells = "".join(str(row["cells"]) for row in objects(maps.build(space_map(kernel))["stacks"]))
    assert "d" not in cells and "p" not in cells and "-" not in cells
