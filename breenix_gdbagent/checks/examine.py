"""Run every check on one stop and collect what they say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from breenix_gdbagent.checks import (
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
)
from breenix_gdbagent.checks.finding import CheckResult, Finding, NotChecked
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop

CheckFunction = Callable[[Kernel], Iterator[Finding]]

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
    ("stack-place", stack_use.check_place),
    ("stack-depth", stack_use.check_depth),
    ("cr3", spaces.check_cr3),
    ("processes", spaces.check_processes),
    ("current-thread", threads.check_current),
    ("saved-contexts", threads.check_contexts),
    ("mapping", mapping.check),
)


@dataclass(frozen=True, slots=True)
class Examination:
    """One stop, what was found in it, and what each check came to."""

    kernel: Kernel
    findings: tuple[Finding, ...]
    checks: tuple[CheckResult, ...]


def examine(stop: Stop, kernel: Kernel | None = None) -> Examination:
    """All checks on one stop. A check that lacks what it needs is `not_checked` with the reason;
    what it had already found before that stands."""
    view = kernel or Kernel(stop)
    findings: list[Finding] = []
    results: list[CheckResult] = []
    for name, run in CHECKS:
        found: list[Finding] = []
        status: CheckResult
        try:
            for finding in run(view):
                found.append(finding)
            failed = any(f.weight != "info" for f in found)
            status = CheckResult(name, "failed" if failed else "passed")
        except NotChecked as why:
            status = CheckResult(name, "not_checked", str(why))
        except ReadError as why:
            status = CheckResult(name, "not_checked", why.what)
        findings = _without_repeats(findings, found)
        results.append(status)
    findings = _led_there(findings)
    findings.sort(key=lambda f: f.sort_key)
    return Examination(view, tuple(findings), tuple(results))


def _led_there(findings: list[Finding]) -> list[Finding]:
    """A program did not fault by itself where the kernel mixed up its registers (the exception came
    at the address that such a context returns to) or its space (others map what was not found):
    that is the cause."""
    resumed = {f.evidence["rip"] for f in findings if f.code is threads.PRIVILEGE}
    wrong = (spaces.UNKNOWN, spaces.BOOTLOADER, spaces.WRONG_PROCESS)
    astray = {f.where.root: f.code.name for f in findings if f.code in wrong}
    return [replace(f, cause=_cause(f, resumed, astray)) for f in findings]


def _cause(
    finding: Finding, resumed: Collection[Json], astray: Mapping[int | None, str]
) -> str | None:
    facts = finding.evidence
    if finding.cause is not None or "ring" not in facts or "instruction" not in facts:
        return finding.cause  # a cause of its own, or no exception
    if facts.get("rip") in resumed:
        return threads.PRIVILEGE.name
    return astray.get(finding.where.root) if facts.get("mapped_in") else None


def _without_repeats(earlier: list[Finding], found: list[Finding]) -> list[Finding]:
    """Both together. What a fault rests on (a stack, a gate) an audit may find as well: the later
    one stays, an audit has looked at all spaces and not only at the one that faulted. It weighs
    what the fault made of it: a missing gate is an error once it was needed."""

    def place(finding: Finding) -> tuple[str, object]:
        stack = None if finding.subject == "TSS" else finding.evidence.get("stack")
        return finding.code.name, stack or finding.subject

    known = {place(f) for f in found}
    errors = {place(f) for f in earlier if f.weight == "error"}
    return [
        *(f for f in earlier if place(f) not in known),
        *(replace(f, severity="error") if place(f) in errors else f for f in found),
    ]
