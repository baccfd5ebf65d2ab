"""Run every check on one stop and collect what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from breenix_gdbagent.addresses import PAGE
from breenix_gdbagent.checks import (
    cpus,
    descriptors,
    faults,
    frame_states,
    frames,
    heap,
    kernel_slots,
    kernel_stacks,
    mapping,
    spaces,
    stack_use,
    tables,
    threads,
    translation_tables,
)
from breenix_gdbagent.checks.consequences import followed
from breenix_gdbagent.checks.faults.aborts import AbortFacts
from breenix_gdbagent.checks.faults.interrupted import FaultFacts
from breenix_gdbagent.checks.faults.overwritten import OverwrittenFacts, TableRunOver
from breenix_gdbagent.checks.faults.page_fault import PageFaultFacts
from breenix_gdbagent.checks.finding import CheckResult, Finding, NotChecked
from breenix_gdbagent.checks.reasons import NotRead, TablesOf
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols.spots import spots
from breenix_gdbagent.x86.control import LONGEST_INSTRUCTION

CheckFunction = Callable[[Kernel], Iterator[Finding]]
Clock = Callable[[], float]
"""Seconds of real time since some moment."""

CHECKS: tuple[tuple[str, CheckFunction], ...] = (
    ("faults", faults.check),
    ("kernel-stacks", kernel_stacks.check),
    ("kernel-slots", kernel_slots.check),
    ("page-tables", tables.check_shape),
    ("shared-tables", tables.check_shared),
    ("frames-in-ram", frames.check_ram),
    ("frames-of-tables", frames.check_tables),
    ("frames-mapped-twice", frames.check_twice),
    ("frames-allocator", frame_states.check_states),
    ("frames-left", frame_states.check_exhausted),
    ("heap", heap.check),
    ("idt-gates", descriptors.check_gates),
    ("descriptor-tables", descriptors.check_reachable),
    ("tss", descriptors.check_tss),
    ("cpus", cpus.check),
    ("stack-place", stack_use.check_place),
    ("stack-depth", stack_use.check_depth),
    ("cr3", spaces.check_cr3),
    ("processes", spaces.check_processes),
    ("current-thread", threads.check_current),
    ("ready-threads", threads.check_ready),
    ("saved-contexts", threads.check_contexts),
    ("mapping", mapping.check),
)


OF_DESCRIPTORS = frozenset(("kernel-slots", "idt-gates", "descriptor-tables", "tss"))
"""Checks that there are only where CPUs have descriptor tables, and one root for all."""

OF_X86_TABLES = frozenset((
    "kernel-stacks", "shared-tables", "frames-of-tables",
    "frames-mapped-twice", "frames-allocator", "stack-place", "stack-depth", "cr3",
))  # fmt: skip
"""Checks that read entries of page tables by x86-64's bits."""

INSTEAD: Mapping[str, CheckFunction] = {
    "page-tables": translation_tables.check_tables,
    "frames-in-ram": translation_tables.check_frames,
}
"""Checks that read translation tables of aarch64, by the name of x86-64's."""
REACH = ("kernel-reach", translation_tables.check_reach)


def checks_of(kernel: Kernel) -> Iterator[tuple[str, CheckFunction]]:
    """The checks that there are on the architecture of a stop. One that cannot read its tables
    says so, and has not passed."""
    table = kernel.stop.cpu.arch.vector_table if kernel.stop.cpus else None
    for name, run in CHECKS:
        if table is None or name not in (OF_DESCRIPTORS | OF_X86_TABLES):
            yield name, run if table is None else INSTEAD.get(name, run)
        elif name in OF_X86_TABLES:
            yield name, _not_yet
    if table is not None:
        yield REACH


def _not_yet(kernel: Kernel) -> Iterator[Finding]:
    raise NotChecked(TablesOf(kernel.stop.cpu.arch.name))


@dataclass(frozen=True, slots=True)
class Examination:
    """One stop, what was found in it, and what each check came to. `took` has the seconds of each
    check by name, where there was a clock."""

    kernel: Kernel
    findings: tuple[Finding, ...]
    checks: tuple[CheckResult, ...]
    took: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckTime:
    """How long one check of one stop took. What several checks read, the first one pays for."""

    stop: int
    check: str
    seconds: float


def times_of(seen: Examination, stop: int) -> tuple[CheckTime, ...]:
    """What each check of the stop of that number took."""
    return tuple(CheckTime(stop, name, seconds) for name, seconds in seen.took.items())


def examine(stop: Stop, kernel: Kernel | None = None, clock: Clock | None = None) -> Examination:
    """All checks on one stop. A check that lacks what it needs is `not_checked` with the reason;
    what it had already found before that stands. `clock` times them."""
    view = kernel or Kernel(stop)
    findings: list[Finding] = []
    results: list[CheckResult] = []
    took: dict[str, float] = {}
    for name, run in checks_of(view):
        began = 0.0 if clock is None else clock()
        found: list[Finding] = []
        status: CheckResult
        try:
            for finding in run(view):
                found.append(replace(finding, check=name))
            failed = any(f.effective_severity != "info" for f in found)
            status = CheckResult(name, "failed" if failed else "passed")
        except NotChecked as why:
            status = CheckResult(name, "not_checked", why.reason)
        except ReadError as why:
            status = CheckResult(name, "not_checked", NotRead(why.what))
        findings = _without_repeats(findings, found)
        results.append(status)
        if clock is not None:
            took[name] = clock() - began
    caused = followed(_led_there(findings), view.levels)
    findings = _linked([_walked(view, _located(view, f)) for f in caused])
    findings.sort(key=lambda f: f.sort_key)
    return Examination(view, tuple(findings), tuple(results), took)


def _located(kernel: Kernel, finding: Finding) -> Finding:
    """The finding with the source line of the instruction that it is about."""
    facts = finding.facts
    if isinstance(facts, AbortFacts):
        return replace(finding, source=spots(kernel.stop.image, facts.pc))
    if not isinstance(facts, FaultFacts | spaces.BootFacts | spaces.NobodysFacts):
        return finding
    return replace(finding, source=spots(kernel.stop.image, facts.at.rip))


def _walked(kernel: Kernel, finding: Finding) -> Finding:
    """The finding with the walk of the place that it names."""
    root, va = finding.where.root, finding.where.va
    if root is None or va is None:
        return finding
    return replace(finding, walk=kernel.walk(root, va))


def _led_there(findings: list[Finding]) -> list[Finding]:
    """A program did not fault by itself where the kernel mixed up its registers (the exception came
    at the address that such a context returns to) or its space (others map what was not found):
    that is the cause."""
    resumed = {f.where.va: f for f in findings if f.code is threads.PRIVILEGE}
    wrong = (spaces.UNKNOWN, spaces.BOOTLOADER, spaces.WRONG_PROCESS)
    astray = {f.where.root: f for f in findings if f.code in wrong}
    return [_with_cause(_on_ruins(f, findings), resumed, astray) for f in findings]


def _on_ruins(finding: Finding, findings: list[Finding]) -> Finding:
    """What came of code that has been written over, or of a table that has: that is the cause."""
    for found in findings:
        code = found.facts
        if isinstance(code, OverwrittenFacts):
            over, mend, advice = _stood_in(finding, code), found.code, ""
        elif isinstance(code, TableRunOver) and finding.cause is None:
            over = (finding.where.entry_pa or 0) & -PAGE == code.table
            mend, advice = None, found.advice
        else:
            continue
        if over and found is not finding and found not in finding.because:
            told = replace(finding, mend=mend, advice=advice)
            return replace(told, cause=found.code.name, because=(found, *finding.because))
    return finding


def _stood_in(finding: Finding, code: OverwrittenFacts) -> bool:
    """Whether the CPU was in that code when it came to what `finding` tells."""
    facts = finding.facts
    if isinstance(facts, TableRunOver):
        return code.start <= facts.code < code.end
    if not isinstance(facts, FaultFacts) or facts.at.ring:
        return False
    return code.start - LONGEST_INSTRUCTION < facts.at.rip < code.end


def _with_cause(
    finding: Finding,
    resumed: Mapping[int | None, Finding],
    astray: Mapping[int | None, Finding],
) -> Finding:
    facts = finding.facts
    if finding.cause is not None or not isinstance(facts, FaultFacts):
        return finding
    found = resumed.get(facts.at.rip)
    if found is None and isinstance(facts, PageFaultFacts) and facts.mapped_in:
        found = astray.get(finding.where.root)
    if found is None:
        return finding
    return replace(finding, cause=found.code.name, because=(found, *finding.because))


def _thing(finding: Finding) -> tuple[str, str]:
    """What two checks mean when they say the same: the code, and the thing that it is about."""
    return finding.code.name, finding.facts.about or finding.subject


def _without_repeats(earlier: list[Finding], found: list[Finding]) -> list[Finding]:
    """Both together. What a fault rests on (a stack, a gate) an audit may find as well: the later
    one stays, an audit has looked at all spaces and not only at the one that faulted. It weighs
    what the fault made of it: a missing gate is an error once it was needed."""
    known = {_thing(f) for f in found}
    errors = {_thing(f) for f in earlier if f.effective_severity == "error"}
    return [
        *(f for f in earlier if _thing(f) not in known),
        *(replace(f, severity="error") if _thing(f) in errors else f for f in found),
    ]


def _linked(findings: list[Finding]) -> list[Finding]:
    """The findings, each resting on others of this list: what it named when it was made may have
    been said again by another check, or be more by now. A cause that another check was to find
    comes first."""
    things = {_thing(f): f for f in reversed(findings)}
    codes = {(f.code.name, root): f for f in reversed(findings) for root in (None, f.where.root)}
    done: dict[int, Finding] = {}

    def link(finding: Finding) -> Finding:
        if id(finding) not in done:
            done[id(finding)] = finding  # a circle ends here
            named = [things.get(_thing(f), f) for f in finding.because]
            here = (finding.cause or "", finding.where.root)
            cause = codes.get(here, codes.get((here[0], None)))
            if cause is not None and all(f.code is not cause.code for f in named):
                named.insert(0, cause)
            rests = tuple(link(f) for f in named)
            advice = finding.advice
            if rests and rests[0].code.name == finding.cause and finding.code.kind == "event":
                advice = rests[0].fix  # what to mend is the cause, whatever the CPU made of it
            done[id(finding)] = replace(finding, because=rests, advice=advice)
        return done[id(finding)]

    return [link(f) for f in findings]
