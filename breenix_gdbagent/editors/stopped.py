"""Why the guest stopped, as an editor shows it: the reason of an event, and our explanation."""

from __future__ import annotations

from collections.abc import Mapping

from breenix_gdbagent.debugger.held import Held
from breenix_gdbagent.editors.wire import Message
from breenix_gdbagent.report.model import ShownFinding
from breenix_gdbagent.stop import StopReason

EXCEPTIONS = ("fault", "shutdown", "panic", "handler", "halted")
REASONS = {
    "breakpoint": "breakpoint", "step": "step", "interrupt": "pause", "deadline": "pause",
    "attached": "entry", "marker": "pause",
}  # fmt: skip
MOST_TOLD = 5


def stopped(held: Held) -> Message:
    """The body of a ``stopped`` event."""
    reason = held.kernel.stop.reason
    event = held.event
    points = [] if event is None else [point.number for point in event.points]
    told: Message = {
        "reason": "breakpoint" if points else REASONS.get(reason.kind, "exception"),
        "threadId": reason.cpu + 1,
        "allThreadsStopped": True,
    }
    if points:
        told["hitBreakpointIds"] = list(points)
    if reason.kind in EXCEPTIONS and not points:
        finding = leading(held)
        told["description"] = (
            name_of(reason, held.kernel.stop.arch.vectors) if finding is None else finding.title
        )
        told["text"] = (
            name_of(reason, held.kernel.stop.arch.vectors) if finding is None else finding.summary
        )
    elif held.notes:
        told["text"] = "; ".join(held.notes[:MOST_TOLD])
    return told


def name_of(reason: StopReason, names: Mapping[int, str]) -> str:
    """A stop's kind, or its exception by one of `names`, in words."""
    if reason.kind == "fault" and reason.vector is not None:
        return names.get(reason.vector, f"vector {reason.vector}")
    return reason.kind if not reason.text else f"{reason.kind}: {reason.text}"


def leading(held: Held) -> ShownFinding | None:
    """The finding that weighs most, None where nothing was found."""
    findings = held.report().findings
    return findings[0] if findings and findings[0].severity != "info" else None


def exception(held: Held) -> Message:
    """The body of an ``exceptionInfo`` answer."""
    finding = leading(held)
    name = name_of(held.kernel.stop.reason, held.kernel.stop.arch.vectors)
    if finding is None:
        return {"exceptionId": name, "breakMode": "always", "description": "no finding explains it"}
    text = f"{finding.summary}\n{finding.fix}".strip()
    return {
        "exceptionId": finding.code,
        "description": text,
        "breakMode": "unhandled",
        "details": {
            "message": finding.evidence.explanation or finding.summary,
            "typeName": finding.code,
            "fullTypeName": finding.title,
            "stackTrace": finding.evidence.walk_text,
        },
    }


def explained(held: Held) -> str:
    """What was found, for the debug console; "" where there is nothing worse than information."""
    findings = [one for one in held.report().findings if one.severity != "info"]
    lines = []
    for one in findings[:MOST_TOLD]:
        lines += [f"{one.severity}: {one.code}: {one.summary}", f"  {one.fix}"]
    if len(findings) > MOST_TOLD:
        lines.append(f"and {len(findings) - MOST_TOLD} more findings: evaluate `explain`")
    return "".join(f"{line}\n" for line in lines if line.strip())
