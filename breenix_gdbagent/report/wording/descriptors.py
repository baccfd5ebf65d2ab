"""The sentences about findings on IDT, GDT and TSS."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.cpus import ControlFacts, IdtFacts, TssFacts
from breenix_gdbagent.checks.descriptors import (
    TABLES,
    GateFacts,
    IstSharedFacts,
    Rsp0InvalidFacts,
    Rsp0MismatchFacts,
    UnreachedFacts,
)
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.report.wording.base import Words, at, named, tells

MOST_NAMED = 8


@tells(GateFacts)
def no_gate(finding: Finding, facts: GateFacts) -> Words:
    """Which gate is not there."""
    return Words(f"the IDT has no gate for {finding.subject} (vector {facts.vector})")


@tells(UnreachedFacts)
def unreached(finding: Finding, facts: UnreachedFacts) -> Words:
    """What cannot be reached, and in which spaces."""
    names = "every address space" if facts.everywhere else named(facts.spaces, MOST_NAMED)
    why = "cannot be executed" if facts.mapped else "is not mapped"
    if facts.what[0] in TABLES:
        said = f"the {' and '.join(facts.what)}"
    else:
        others = len(facts.what) - 1
        said = f"the handler of {facts.what[0]}"
        said += f" (and of {others} more vectors)" if others else ""
    return Words(f"{said}, {at(facts.va, facts.symbol)}, {why} in {names}")


@tells(Rsp0InvalidFacts)
def no_usable_top(finding: Finding, facts: Rsp0InvalidFacts) -> Words:
    """What is wrong with RSP0."""
    why = {
        "not-set": "it was never set",
        "not-canonical": "it is not canonical",
        "in-the-middle": f"it lies in the middle of {facts.inside}, and is the top of no stack",
        "no-stack": "it is the top of no stack that is mapped",
        "unmapped-below": "nothing is mapped below it",
        "read-only-below": "what lies below it cannot be written",
    }[facts.flaw]
    return Words(f"TSS.RSP0 of CPU {facts.at.cpu} is {hex64(facts.at.rsp0)}: {why}")


@tells(Rsp0MismatchFacts)
def of_another_thread(finding: Finding, facts: Rsp0MismatchFacts) -> Words:
    """Whose stack RSP0 is, and whose it should be."""
    whose = f" ({facts.stack})" if facts.stack is not None else ""
    runs = f"{facts.at.thread} runs" if facts.at.thread is not None else "the thread that runs"
    return Words(
        f"TSS.RSP0 of CPU {facts.at.cpu} is {hex64(facts.at.rsp0)}{whose}, but {runs} on the stack "
        f"that ends at {hex64(facts.right)}"
    )


@tells(IstSharedFacts)
def one_for_two(finding: Finding, facts: IstSharedFacts) -> Words:
    """Which vectors have one IST stack."""
    names = " and ".join(facts.names)
    top = hex64(facts.top)
    return Words(f"{names} use one IST stack, the one that ends at {top} (CPU {facts.cpu})")


@tells(ControlFacts)
def other_control(finding: Finding, facts: ControlFacts) -> Words:
    """Which register of which CPU, and the bits."""
    return Words(
        f"{facts.register} of CPU {facts.cpu} is {hex64(facts.value)}, and {hex64(facts.others)} "
        f"on the others: they differ in {hex64(facts.differs)}"
    )


@tells(IdtFacts)
def other_idt(finding: Finding, facts: IdtFacts) -> Words:
    """Which CPU, and for which vectors."""
    vectors = ", ".join(str(v) for v in facts.vectors[:MOST_NAMED])
    more = len(facts.vectors) - MOST_NAMED
    vectors += f" and {more} more" if more > 0 else ""
    return Words(
        f"the IDT of CPU {facts.cpu} at {hex64(facts.idt)} has other gates than that of the others "
        f"at {hex64(facts.others)}, for vector {vectors}"
    )


@tells(TssFacts)
def one_tss(finding: Finding, facts: TssFacts) -> Words:
    """Which CPUs."""
    cpus = " and ".join(f"CPU {number}" for number in facts.on_cpus)
    return Words(f"{cpus} have the TSS at {hex64(facts.tss)} loaded")
