"""States that are as they are because of another one: they name it in `because`.

Two kinds are certain. A space that no process owns and that a CPU has loaded (the bootloader's, or
one that nobody knows) lacks what the kernel's spaces have: that is one defect, not one for each
stack. And where a space has no entry at all in a slot, no stack of that slot is mapped in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from breenix_gdbagent.checks import spaces
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.kernel_slots import SlotFacts
from breenix_gdbagent.checks.kernel_stacks import StackFacts
from breenix_gdbagent.x86.paging import index_at

_STACKS = (
    "kernel-stack.unmapped", "kernel-stack.read-only", "kernel-stack.user-accessible",
    "kernel-stack.differs", "ist.unmapped",
)  # fmt: skip
_SLOTS = (
    "kernel-slot.missing", "kernel-slot.diverged", "kernel-slot.user-accessible",
    "kernel-slot.read-only",
)  # fmt: skip
_TABLES = ("idt.handler-unmapped", "gdt.unmapped")


def followed(findings: Sequence[Finding], levels: int) -> list[Finding]:
    """The findings, those that follow from another one resting on it. `levels` of paging."""
    loaded = {f.where.root: f for f in findings if f.code in (spaces.BOOTLOADER, spaces.UNKNOWN)}
    entries = {
        (f.where.root, f.facts.slot): f
        for f in findings
        if f.code.name == "kernel-slot.missing" and isinstance(f.facts, SlotFacts)
    }
    return [_resting(f, loaded, entries, levels) for f in findings]


def _resting(
    finding: Finding,
    loaded: Mapping[int | None, Finding],
    entries: Mapping[tuple[int | None, int], Finding],
    levels: int,
) -> Finding:
    if finding.because or finding.code.name not in (*_STACKS, *_SLOTS, *_TABLES):
        return finding
    root, va = _only_root(finding), finding.where.va
    cause = loaded.get(root) if root is not None else None
    if cause is None and finding.code.name in _STACKS and root is not None and va is not None:
        cause = entries.get((root, index_at(va, levels)))
    return finding if cause is None else replace(finding, because=(cause,))


def _only_root(finding: Finding) -> int | None:
    """The root of the one space that it is about; None where there are several."""
    facts = finding.facts
    if isinstance(facts, StackFacts) and (facts.spaces_count != 1 or len(facts.spaces) != 1):
        return None
    return finding.where.root
