"""Predict every case from the tables, then let the CPU make the access, and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.selftest.bench import PAGE, TABLES, Bench, Outcome
from breenix_gdbagent.selftest.matrix import GROUPS, KINDS, RINGS, Builder, Group, Mapping
from breenix_gdbagent.x86.control import PagingMode
from breenix_gdbagent.x86.paging import walk
from breenix_gdbagent.x86.verdict import Access, Processor, Verdict, verdict

LEVELS = 4
PAGE_FAULT = 14


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
    """A case and what the CPU did."""

    case: Case
    outcome: Outcome


@dataclass(slots=True)
class Tally:
    """What came of a group: how many cases ``agree``, how many are a ``deviation`` (a way of this
    emulator that is known by name), and those that differ."""

    group: Group
    agree: int = 0
    deviation: int = 0
    differ: list[Result] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.agree + self.deviation + len(self.differ)


def run(progress: Callable[[int, int], None], groups: Sequence[Group] = GROUPS) -> list[Tally]:
    """All cases. `progress` is told (done, of). Raises `AgentError`, `LinkError`, `QemuError`."""
    bench = Bench()
    try:
        builder = Builder(root=TABLES, next_frame=TABLES, page=PAGE)
        root = builder.new_table()
        mappings = list(builder.mappings())
        each = len(mappings) * len(RINGS) * len(KINDS)
        bench.prepare(builder, each)
        tables = Tables(bench.vm.recent_memory())
        ways = {
            nxe: [walk(tables, root, m.va, LEVELS, nxe) for m in mappings] for nxe in (False, True)
        }
        tallies = []
        for number, group in enumerate(groups):
            progress(number * each, len(groups) * each)
            # Predicted before the guest runs: what it does cannot leak into it.
            predicted = list(_predict(ways[group.nxe], group))
            tallies.append(_judge(group, mappings, predicted, bench.run(group, root, mappings)))
        return tallies
    finally:
        bench.close()


def _predict(ways: Sequence[Walk], group: Group) -> Iterator[Verdict]:
    """What each access of a group comes to, in the order in which the bench makes them."""
    mode = PagingMode(LEVELS, group.nxe, group.wp, group.smep, group.smap, False)
    processor = Processor(gigabyte_pages=True)
    accesses = [Access(kind, ring, ac=group.ac) for ring in RINGS for kind in KINDS]
    for way in ways:
        for access in accesses:
            yield verdict(way, access, mode, processor)


def _judge(
    group: Group,
    mappings: Sequence[Mapping],
    predicted: Sequence[Verdict],
    outcomes: Iterator[Outcome],
) -> Tally:
    tally = Tally(group)
    order = [(kind, ring) for ring in RINGS for kind in KINDS]
    said = iter(predicted)
    for mapping in mappings:
        verdicts = islice(said, len(order))
        for (kind, ring), expected in zip(order, verdicts, strict=True):
            outcome = next(outcomes)
            compared = compare(expected, outcome, mapping.va)
            if compared == "agree":
                tally.agree += 1
            elif compared == "deviation":
                tally.deviation += 1
            else:
                case = Case(group, mapping, kind, ring, expected)
                tally.differ.append(Result(case, outcome))
    return tally


def compare(predicted: Verdict, outcome: Outcome, va: int) -> str:
    """``agree``, ``deviation`` or ``differ``: vector, error code, and CR2 of a page fault."""
    if predicted.allowed:
        return "agree" if outcome.vector is None else "differ"
    if outcome.vector != predicted.vector:
        return "differ"
    if outcome.vector == PAGE_FAULT and outcome.cr2 != va:
        return "differ"
    if outcome.error_code == predicted.error_code:
        return "agree"
    return "deviation" if outcome.error_code in predicted.also else "differ"
