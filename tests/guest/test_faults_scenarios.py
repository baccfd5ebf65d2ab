"""The fault of every scenario against QEMU's own log: each exception that the CPU raised on the
way, each delivery that it tried with its error code, and CR2, are in the chain that is told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from breenix_gdbagent.checks.faults import check
from breenix_gdbagent.checks.faults.analyzer import explain_cpu
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.cpumodel.context import context_of_cpu
from breenix_gdbagent.cpumodel.explanation import Explanation, Observed, explain
from breenix_gdbagent.kernel.image import attach_image
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.lab import Scenario, scenarios
from breenix_gdbagent.stop import Stop
from tests.guest.live_support import DONE, ELF, lab, needs_qemu
from tests.said import evidence

pytestmark = needs_qemu

FAMILIES = (
    "page-fault.", "double-fault", "triple-fault", "general-protection", "invalid-opcode",
    "divide-error", "exception.unhandled",
)  # fmt: skip
FAULTING = [
    s
    for s in scenarios().values()
    if s.smp == 1 and any(c.startswith(FAMILIES) for c in (*s.codes, *s.strict))
]
"""Of one CPU: QEMU's log does not keep the exceptions of several apart; fixtures/labguest/verify.py
holds those against it by their planned words."""
_ENTRY = re.compile(
    r"v=([0-9a-f]{2}) e=([0-9a-f]{4}) i=(\d) cpl=(\d) .*?CR2=([0-9a-f]+)", re.DOTALL
)
_RAISED = re.compile(r"check_exception old: 0x[0-9a-f]+ new 0x([0-9a-f]+)")


@dataclass(frozen=True)
class Log:
    """Deliveries that were tried as (vector, error code, CR2), and every exception raised."""

    deliveries: list[tuple[int, int, int]]
    raised: list[int]
    triple: bool

    @classmethod
    def of(cls, text: str) -> Log:
        found = [(int(v, 16), int(e, 16), int(c, 16)) for v, e, _, _, c in _ENTRY.findall(text)]
        return cls(found, [int(v, 16) for v in _RAISED.findall(text)], "Triple fault" in text)


def explained(stop: Stop) -> Explanation:
    kernel = Kernel(stop)
    if stop.reason.kind == "shutdown":
        context = context_of_cpu(kernel.tables, stop.cpu)
        return explain(context, Observed(None, None, stop.cpu.get("cr2"), None))
    assert stop.reason.vector is not None
    return explain_cpu(kernel, stop.cpu, stop.reason.vector)[0]


@pytest.mark.parametrize("scenario", FAULTING, ids=lambda s: s.name)
def test_the_chain_is_the_one_in_the_log(scenario: Scenario, tmp_path: Path) -> None:
    log = tmp_path / "int.log"
    era = int(re.findall(r"era=(\d+)", scenario.append)[0])
    arguments = ("-d", "int,cpu_reset", "-D", str(log))
    with lab(scenario.name, arguments=arguments, era=era, cpu=scenario.cpu) as vm:
        vm.arm(ELF)
        stop = attach_image(vm.run_until([DONE], 20), ELF)
        assert stop.reason.kind in ("fault", "shutdown")
        explanation = explained(stop)
        findings = list(check(Kernel(stop)))
    logged = Log.of(log.read_text())
    course = explanation.course
    assert course is not None and explanation.confidence == "proved"
    own = [course.first.vector] if course.first.origin == "exception" else []
    raised = own + [a.raised.vector for a in course.attempts if a.raised is not None]
    assert logged.raised[-len(raised) :] == raised
    tried = logged.deliveries[-len(course.attempts) :]
    assert [v for v, _, _ in tried] == [a.event.vector for a in course.attempts]
    for (vector, error, _), attempt in zip(tried, course.attempts, strict=True):
        assert error in by_manual_or_qemu_7(vector, attempt.event.error_code or 0)
    assert (course.end == "shutdown") == logged.triple
    if course.end == "delivered" and course.cr2 is not None:
        assert tried[-1][2] == course.cr2 == stop.cpu.get("cr2")
    holds_together(findings, explanation)


def by_manual_or_qemu_7(vector: int, error: int) -> tuple[int, ...]:
    """The error code, and what QEMU 7's TCG makes of it by two known deviations: 16 * vector + 2
    for gates that cannot be used, and P=0 for reserved bits."""
    if vector in (11, 13) and error & 7 == 2:
        return error, (error >> 3) * 16 + 2
    return (error, error & ~1) if vector == 14 and error & 8 else (error,)


def holds_together(findings: list[Finding], explanation: Explanation) -> None:
    """Every cause is a finding of its own (or another check's), all is said in sentences."""
    assert findings and findings[0].chain == explanation.chain
    for finding in findings:
        assert evidence(finding)["explanation"]
        assert (
            finding.cause is None
            or finding.cause == "cr3.bootloader"
            or finding.cause in {f.code.name for f in findings}
        )
