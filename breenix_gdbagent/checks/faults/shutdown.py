"""A guest paused because it asked for a reset or shut down: triple fault, or a wanted reboot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from breenix_gdbagent.addresses import Hex, VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, Facts
from breenix_gdbagent.checks.faults import double_fault, overwritten
from breenix_gdbagent.checks.faults.address_kind import TABLES, kind_of
from breenix_gdbagent.checks.faults.interrupted import FaultFacts, interrupted, subject
from breenix_gdbagent.checks.finding import Finding, NotChecked, Where, declare
from breenix_gdbagent.checks.reasons import ShutdownNotRead
from breenix_gdbagent.cpumodel.context import PF, Context, context_of_cpu
from breenix_gdbagent.cpumodel.explanation import Explanation, Observed, explain
from breenix_gdbagent.cpumodel.instruction import Instruction, register_value
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import no_paging

REBOOT = declare(
    "reboot",
    "error",
    "the guest reset itself",
    arises="The kernel pulsed the reset line: keyboard controller (0xfe to port 0x64), port 0xcf9 "
    "or 0x92. Nobody does that in a run that should go on. A triple fault looks the same from "
    "outside: it is looked for on every CPU first.",
    confirm="The instruction before RIP is an out to such a port; -d int has no triple fault.",
    mend="Look at who calls the reboot function (bt).",
    kind="run",
)

# Port -> (which bits of the value ask for a reset, their value). IBM AT keyboard controller;
# PIIX3 reset control register; PS/2 system control port A.
_RESETS = {0x64: (0xFF, 0xFE), 0xCF9: (0x04, 0x04), 0x92: (0x01, 0x01)}
# The pause comes when the main loop sees the request: the CPU may have run on a little.
_LOOK_BACK = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootFacts(FaultFacts):
    """The port that was written to and the instruction that did it, at `address`, where one is
    found; `unseen`: CPUs that could not be looked at for a triple fault. `said` is QEMU's word for
    how the machine ended."""

    port: Hex | None
    by: str | None
    address: Annotated[VirtAddr | None, ASIDE]
    unseen: Annotated[tuple[int, ...], ASIDE]
    said: Annotated[str, ASIDE]
    resets: Annotated[int | None, IF_KNOWN]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyFacts(Facts):
    """A guest that reset itself where exceptions are not judged: `mode` says in what state."""

    rip: VirtAddr
    resets: Annotated[int | None, IF_KNOWN]
    mode: Annotated[str, ASIDE]


def check(kernel: Kernel) -> Iterator[Finding]:
    """What a stop of kind ``shutdown`` was: ``triple-fault`` with its chain, or ``reboot``.

    Any CPU can have done it, whichever QEMU names. Raises `NotChecked` where neither can be told
    of any (no registers, paging off).
    """
    witnesses, lacking = _witnesses(kernel)
    if not witnesses:
        if kernel.stop.cpus:
            yield _early(kernel)
        raise NotChecked(ShutdownNotRead(lacking[kernel.stop.cpu.index]))
    for witness in witnesses:
        yield from overwritten.of_context(kernel, witness.context)
    dead = [w for w in witnesses if w.confidence == "proved" and _left_by_triple_fault(w)]
    asked = [(w, found) for w in witnesses if (found := reset_asked(w.context)) is not None]
    possible = [w for w in witnesses if w.course is not None]
    doubtful = [w for w in witnesses if w.doubt]
    if dead:
        yield from double_fault.check(kernel, dead[0])
    elif asked:
        yield _reboot(kernel, *asked[0], tuple(lacking))
    elif possible or doubtful:
        yield from double_fault.check(kernel, (possible or doubtful)[0])
    else:
        delivering = next((w for w in witnesses if _read_a_table(kernel, w)), None)
        if delivering is not None:
            yield from double_fault.check(kernel, replace(delivering, doubt=_OWN_READ))
        else:
            yield _reboot(kernel, witnesses[0], None, tuple(lacking))


_OWN_READ = (
    "how it came to that is not seen in the tables as they are; CR2 lies in a descriptor table or "
    "the TSS, which the CPU itself reads while it delivers an exception"
)


def _read_a_table(kernel: Kernel, witness: Explanation) -> bool:
    """Whether the last page fault was at a table of the CPU's own that is not mapped now."""
    cr2, context = witness.observed.cr2, witness.context
    if cr2 is None or kernel.walk(context.root, cr2).mapped:
        return False
    return kind_of(kernel, cr2, context.root).name in TABLES


def _witnesses(kernel: Kernel) -> tuple[list[Explanation], dict[int, str]]:
    """What each CPU's registers tell, if it has shut down, the CPU that the stop is about first;
    and why nothing is known of the others. A CPU that nobody has started since the reset, or that
    waits for its start, is no witness."""
    about = kernel.stop.cpu
    found, lacking = list[Explanation](), dict[int, str]()
    for cpu in (about, *(c for c in kernel.stop.cpus if c.index != about.index)):
        try:
            context = replace(context_of_cpu(kernel.tables, cpu), served=served(kernel, cpu))
        except ReadError as reason:
            if cpu is about or not cpu.at_reset:
                lacking[cpu.index] = reason.what
            continue
        found.append(explain(context, Observed(None, None, cpu.get("cr2"), None)))
    return found, lacking


def served(kernel: Kernel, cpu: Cpu) -> int | None:
    """The vector of the interrupt that the PIC, which is wired to CPU 0, has in service."""
    pic = kernel.stop.pic
    return pic.served if pic is not None and cpu.index == 0 else None


def _early(kernel: Kernel) -> Finding:
    """It did one or the other: that it ended is known, whatever the mode."""
    cpu = kernel.stop.cpu
    facts = EarlyFacts(
        rip=VirtAddr(cpu.at or 0),
        resets=kernel.stop.reason.resets or None,
        mode=no_paging(cpu),
    )
    return Finding(REBOOT, "before 64-bit mode", facts, confidence="likely")


def found(kernel: Kernel, cpu: Cpu) -> Iterator[Finding]:
    """The triple fault that a CPU stands after at a stop whose reason nobody told (a bare core):
    nothing unless its registers are what one leaves behind, see `_left_by_triple_fault`."""
    try:
        context = context_of_cpu(kernel.tables, cpu)
    except ReadError:
        return
    explanation = explain(context, Observed(None, None, cpu.get("cr2"), None))
    if not _left_by_triple_fault(explanation):
        return
    doubt = explanation.doubt or "that the CPU has shut down is seen in its registers only"
    yield from double_fault.check(kernel, replace(explanation, confidence="likely", doubt=doubt))


def _left_by_triple_fault(explanation: Explanation) -> bool:
    """By the tables no delivery gets through, and CR2 is the last push that failed: whoever runs on
    has not made that push. Where none was made, the instruction itself has to raise the first."""
    course, cr2 = explanation.course, explanation.observed.cr2
    if course is None or cr2 is None:
        return False
    pushed = course.attempts[-1].raised
    if pushed is not None and pushed.vector == PF and pushed.address == cr2:
        return True
    return explanation.confidence == "proved" and course.first.origin == "exception"


def reset_asked(context: Context) -> tuple[Instruction, int] | None:
    """The `out` just before RIP that asks for a reset, and its port; None when there is none."""
    for back in range(1, _LOOK_BACK):
        try:
            code = context.read(context.rip - back, back)
        except ReadError:
            return None
        found = _last_out(context, code, context.rip - back)
        if found is not None:
            return found
    return None


def _last_out(context: Context, code: bytes, start: int) -> tuple[Instruction, int] | None:
    """An `out` that `code` begins with and after which whole instructions lead to RIP."""
    from breenix_gdbagent.cpumodel.decoding import decode

    first = decode(code, start, context.registers)
    if first is None or first.name != "out" or not _leads_to_end(code[first.size :]):
        return None
    port, value = first.operands[0].value, register_value("al", context.registers)
    if first.operands[0].kind == "register":
        port = register_value("dx", context.registers)
    if port not in _RESETS or value is None:
        return None
    mask, want = _RESETS[port]
    return (first, port) if value & mask == want else None


def _leads_to_end(rest: bytes) -> bool:
    from breenix_gdbagent.cpumodel.decoding import decode

    while rest:
        step = decode(rest, 0, {})
        if step is None or step.size > len(rest):
            return False
        rest = rest[step.size :]
    return True


def _reboot(
    kernel: Kernel,
    explanation: Explanation,
    asked: tuple[Instruction, int] | None,
    unseen: tuple[int, ...],
) -> Finding:
    context = explanation.context
    facts = RebootFacts(
        at=interrupted(kernel, context, explanation.prediction.instruction),
        port=Hex(asked[1]) if asked is not None else None,
        by=asked[0].text if asked is not None else None,
        address=VirtAddr(asked[0].address) if asked is not None else None,
        unseen=unseen,
        said=kernel.stop.reason.text,
        resets=kernel.stop.reason.resets or None,
    )
    return Finding(
        REBOOT,
        subject(kernel, context),
        facts,
        Where(root=context.root),
        confidence="proved" if asked is not None else "possible",
    )
