"""Code and tables that are not the kernel's any more: what is damage, and what is meant."""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.faults.overwritten import OverwrittenFacts, TableRunOver
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.stop import Stop
from tests.unit.checks.loaded import CALL_AT, CODE, NOWHERE, WRITES, image, overwritten
from tests.writers.elf import ET_DYN, ET_EXEC
from tests.writers.machine import DATA, TEXT, Machine

OTHER = bytes(255 - byte for byte in CODE)


def findings(stop: Stop) -> dict[str, Finding]:
    return {f.code.name: f for f in examine(stop).findings}


def damage(data: bytes, at: int = 0, **elf: object) -> OverwrittenFacts | None:
    sections = elf.pop("sections", ())
    shown = image(*sections, **elf)  # type: ignore[arg-type,misc]
    stop = overwritten(Machine(), at, data, shown, TEXT + at)
    found = findings(stop).get("kernel-code.overwritten")
    assert found is None or isinstance(found.facts, OverwrittenFacts)
    return None if found is None else found.facts


def test_the_extent_and_both_sides() -> None:
    facts = damage(bytes(0x300))
    assert facts is not None
    assert facts.start == TEXT + len(WRITES) and TEXT + 0x300 - 4 < facts.end <= TEXT + 0x300
    assert bytes.fromhex(facts.elf) == CODE[:15]
    assert (bytes.fromhex(facts.memory), facts.fill) == (bytes(15), 0)


def test_a_fault_in_it_rests_on_it() -> None:
    found = findings(overwritten(Machine(), 0, bytes(0x300)))
    fault = found["page-fault.unmapped"]
    assert fault.cause == "kernel-code.overwritten"
    assert fault.fix == found["kernel-code.overwritten"].fix


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("size", [16, 0x200])
def test_a_kernel_that_patches_itself_changes_little_at_once(size: int, patches: bool) -> None:
    data = WRITES + OTHER[2:size]
    facts = damage(data, sections=(".altinstructions",) if patches else ())
    assert (facts is None) is (patches and size == 16)


def test_even_of_a_kernel_that_patches_itself_a_stretch_of_one_byte_is_damage() -> None:
    assert damage(bytes(32), sections=(".smp_locks",)) is not None


@pytest.mark.parametrize(("kind", "meant"), [(ET_DYN, True), (ET_EXEC, False)])
def test_a_word_may_be_a_relocation_where_there_are_any(kind: int, meant: bool) -> None:
    assert (damage(bytes(8), at=0x40, kind=kind) is None) is meant


def test_a_breakpoint_is_no_damage() -> None:
    stop = overwritten(Machine(), 0x41, b"\xcc", image(), TEXT + 0x40)
    m = Machine()
    m.write(TEXT, image().read(TEXT, 0x1000) or b"")
    m.write(TEXT + 0x40, b"\xcc")
    clean = m.fault(3, TEXT + 0x40, ring=0)._replace(image=image().loaded(0))
    assert "kernel-code.overwritten" not in findings(clean)
    assert "kernel-code.overwritten" in findings(stop)  # of two bytes, one of them no breakpoint


def test_of_another_kernels_elf_nothing_is_said() -> None:
    assert damage(WRITES, code=OTHER) is None


def tables_with(words: list[int]) -> Stop:
    """The last table on the way to NOWHERE holds these words around its entry."""
    m = Machine()
    m.map(NOWHERE, 0)
    entry = m.leaf(NOWHERE)
    table = entry & ~0xFFF
    for index, word in enumerate(words, (entry & 0xFFF) // 8 + 1):
        m.tables.set(table, index, word)
    return overwritten(m, 0, WRITES)


def test_a_stack_that_ran_over_a_table() -> None:
    back = TEXT + CALL_AT + 5
    found = findings(tables_with([back, 7, back, 0, back]))
    facts = found["kernel-stack.overflow"].facts
    assert isinstance(facts, TableRunOver)
    assert (facts.level, facts.calls, facts.function) == (1, 3, "kernel_main")
    assert found["page-fault.unmapped"].cause == "kernel-stack.overflow"


def test_frames_of_exceptions_in_a_table() -> None:
    frame = [TEXT + 0x10, 8, 0x46, DATA, 0]
    found = findings(tables_with([*frame, *frame, *frame]))
    assert "kernel-stack.overflow" in found


def test_entries_that_look_like_code_are_none() -> None:
    """Physical address and link address of a kernel at 1 MiB are alike: no call is before them."""
    entries = [TEXT + 0x1000 * n | 0x63 for n in range(4)]
    assert "kernel-stack.overflow" not in findings(tables_with(entries))
