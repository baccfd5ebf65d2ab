"""Predict every case from the tables, then let the CPU make the access, and compare."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from breenix_gdbagent.kernel.layout import IST_STACKS_SLOT, KERNEL_STACKS_SLOT
from breenix_gdbagent.selftest.bench import (
    NOPS,
    PAGE,
    READ,
    STUB_SLOT,
    STUBS,
    TABLES,
    WRITE,
    Bench,
    Outcome,
)
from breenix_gdbagent.selftest.matrix import GROUPS, KINDS, PERMISSIVE, Builder, Group, Mapping
from breenix_gdbagent.x86.cpu import PagingMode
from breenix_gdbagent.x86.paging import ADDRESS, NX, PS, P, Tables, W, walk
from breenix_gdbagent.x86.verdict import Access, Processor, Verdict, verdict

RINGS = (0, 3)
LEVELS = 4
KERNEL_SLOTS = (1, KERNEL_STACKS_SLOT, IST_STACKS_SLOT)  # image with GDT, IDT and TSS; stacks


@dataclass(frozen=True, slots=True)
class Case:
    """One access of one group, and what the tables say must come of it."""

    group: Group
    mapping: Mapping
    kind: str
    ring: int
    predicted: Verdict

    @property
    def name(self) -> str:
        return f"{self.group.name}: {self.kind} in ring {self.ring}, {self.mapping.what}"


@dataclass(frozen=True, slots=True)
class Result:
    """A case, what the CPU did, and how that compares: ``agree``, ``deviation`` (a way of this
    emulator that is known by name) or ``differ``."""

    case: Case
    outcome: Outcome
    compared: str


def run(progress: Callable[[int, int], None]) -> list[Result]:
    """All cases. `progress` is told (done, of). Raises `AgentError`, `LinkError`, `QemuError`."""
    bench = Bench()
    try:
        root, mappings = _write(bench)
        cases = _predict(bench, root, mappings)
        results = []
        current: Group | None = None
        for number, case in enumerate(cases):
            if case.group is not current:
                current = case.group
                bench.set_group(current, root)
                progress(number, len(cases))
            outcome = bench.access(case.mapping.va, case.kind, case.ring, ac=case.group.ac)
            results.append(Result(case, outcome, _compare(case.predicted, outcome)))
        return results
    finally:
        bench.close()


def _write(bench: Bench) -> tuple[int, list[Mapping]]:
    """Page tables of all cases and the code of the accesses, into RAM; the root and mappings."""
    master = bench.kernel.reference_root
    assert master is not None
    builder = Builder(root=TABLES, next_frame=TABLES, page=PAGE)
    root = builder.new_table()
    for slot in KERNEL_SLOTS:
        raw = bench.kernel.tables.table(master)[slot]
        builder.frames[root][slot] = _without_nx(bench, builder, raw, LEVELS - 1)
    mappings = list(builder.mappings())
    stubs = [builder.new_table() for _ in range(3)]
    builder.frames[root][STUB_SLOT] = stubs[0] | PERMISSIVE
    builder.frames[stubs[0]][0] = stubs[1] | PERMISSIVE
    builder.frames[stubs[1]][0] = stubs[2] | PERMISSIVE
    builder.frames[stubs[2]][:2] = [STUBS | P | W, (STUBS + 0x1000) | PERMISSIVE]
    for frame, entries in builder.frames.items():
        bench.write(frame, struct.pack("<512Q", *entries))
    bench.write(PAGE, NOPS)
    code = READ.ljust(0x10, b"\x90") + WRITE
    for page in (STUBS, STUBS + 0x1000):
        bench.write(page, code.ljust(0x1000, b"\x90"))
    return root, mappings


def _without_nx(bench: Bench, builder: Builder, raw: int, level: int) -> int:
    """A copy of the tables below a kernel entry, executable all over: with NXE off an NX bit is a
    reserved bit, and the exception could not be delivered."""
    entries = bench.kernel.tables.table(raw & ADDRESS).tolist()
    copy = builder.new_table()
    builder.frames[copy] = [
        e & ~NX if level == 1 or not e & P or e & PS else _without_nx(bench, builder, e, level - 1)
        for e in entries
    ]
    return copy | raw & 0xFFF


def _predict(bench: Bench, root: int, mappings: list[Mapping]) -> list[Case]:
    tables = Tables(bench.vm.recent_memory())
    processor = Processor(gigabyte_pages=True)
    cases = []
    for group in GROUPS:
        mode = PagingMode(LEVELS, group.nxe, group.wp, group.smep, group.smap, False)
        for mapping in mappings:
            way = walk(tables, root, mapping.va, LEVELS, group.nxe)
            for kind in KINDS:
                for ring in RINGS:
                    access = Access(kind, ring, ac=group.ac)
                    said = verdict(way, access, mode, processor)
                    cases.append(Case(group, mapping, kind, ring, said))
    return cases


def _compare(predicted: Verdict, outcome: Outcome) -> str:
    if predicted.allowed:
        return "agree" if outcome.vector is None else "differ"
    if outcome.vector != predicted.vector:
        return "differ"
    if outcome.error_code == predicted.error_code:
        return "agree"
    return "deviation" if outcome.error_code in predicted.also else "differ"
