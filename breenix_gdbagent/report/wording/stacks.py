"""The sentences about kernel stacks: how they are mapped, and how they are used."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.any_kernel import OpenFacts, TopFacts, UserStackFacts
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.kernel_stacks import AliasFacts, StackFacts
from breenix_gdbagent.checks.stack_use import (
    DeadOwnerFacts,
    DepthFacts,
    ForeignFacts,
    OverflowFacts,
)
from breenix_gdbagent.report.wording.base import Words, and_more, at, named, tells
from breenix_gdbagent.x86.vectors import VECTOR_NAMES

MOST_NAMED = 8


@tells(StackFacts)
def pages_of_a_stack(finding: Finding, facts: StackFacts) -> Words:
    """Which stack, how much of it, and in which spaces."""
    names = "every address space" if facts.everywhere else named(facts.spaces, MOST_NAMED)
    if not facts.everywhere and facts.spaces_count > MOST_NAMED:
        names += f" and {facts.spaces_count - MOST_NAMED} more"
    of = f", of {', '.join(facts.owners)}" if facts.owners else ""
    what = f"{facts.stack} ({hex64(facts.bottom)}-{hex64(facts.top)}{of})"
    count = f"{facts.pages} of {facts.whole} pages" if facts.pages > 1 else "one page"
    return Words(f"{finding.code.title}: {what}, {count} in {names}")


@tells(AliasFacts)
def two_on_one(finding: Finding, facts: AliasFacts) -> Words:
    """Which stacks lie on one frame, or one in the other."""
    inner = facts.stretch
    if inner is not None:
        place = f"{hex64(inner.bottom)}-{hex64(inner.top)}"
        return Words(f"{inner.name} lies in {facts.stacks[-1]}, at {place}")
    names = facts.stacks
    who = " and ".join(names) if len(names) > 1 else f"two pages of {names[0]}"
    frame = hex64(facts.frame or 0)
    return Words(f"{who} lie on one frame, {frame}{and_more(facts.frames)}")


@tells(OverflowFacts)
def run_over(finding: Finding, facts: OverflowFacts) -> Words:
    """How far below its stack a CPU runs."""
    use = facts.use
    return Words(
        f"CPU {use.cpu} runs {use.bottom - use.rsp} bytes below the bottom of {use.stack} "
        f"({hex64(use.bottom)}), in {at(use.rip, use.symbol)}"
    )


@tells(ForeignFacts)
def on_another(finding: Finding, facts: ForeignFacts) -> Words:
    """On whose stack a CPU runs, and why it is not its own."""
    use = facts.use
    place = f"(RSP {hex64(use.rsp)}, in {at(use.rip, use.symbol)})"
    return Words(f"{_why_foreign(facts)} {place}")


def _why_foreign(facts: ForeignFacts) -> str:
    use = facts.use
    if facts.other_cpu is not None:
        return f"CPU {facts.other_cpu} and CPU {use.cpu} run on one stack, {use.stack}"
    if facts.own_top is None:
        return f"CPU {use.cpu} runs on {use.stack} with interrupts on, outside an exception"
    owners = ", ".join(use.owners)
    whose = f"{use.stack}, the stack of {owners}" if owners else use.stack
    return (
        f"CPU {use.cpu} runs {use.thread or 'the running thread'} on {whose}; its own ends at "
        f"{hex64(facts.own_top)}"
    )


@tells(DeadOwnerFacts)
def on_a_dead_threads(finding: Finding, facts: DeadOwnerFacts) -> Words:
    """On whose stack a CPU runs, and that it is over."""
    use = facts.use
    return Words(
        f"CPU {use.cpu} runs {use.thread or 'the running thread'} on {use.stack}, the stack of "
        f"{facts.dead_name} (thread {facts.dead_thread}), which is over (RSP {hex64(use.rsp)}, in "
        f"{at(use.rip, use.symbol)})"
    )


@tells(DepthFacts)
def nearly_full(finding: Finding, facts: DepthFacts) -> Words:
    """How much of a stack is left."""
    whose = f" of {', '.join(facts.owners)}" if facts.owners else ""
    size = facts.top - facts.bottom
    return Words(
        f"{facts.stack}{whose} was used down to {hex64(facts.lowest)}: {facts.free} of {size} "
        "bytes are left"
    )


@tells(TopFacts)
def top_of_tss(finding: Finding, facts: TopFacts) -> Words:
    """Which stack, and what is wrong with it."""
    why = {
        "not-set": "is not set",
        "unmapped": f"{hex64(facts.top)} is the top of a stack that is not mapped",
        "read-only": f"{hex64(facts.top)} is the top of a stack that is read-only",
    }[facts.flaw]
    names = ", ".join(VECTOR_NAMES.get(v, f"vector {v}") for v in facts.vectors)
    who = f"{names} there" if names else "the next interrupt of ring 3"
    return Words(f"{facts.stack} of CPU {facts.cpu} {why}: {who} cannot be delivered")


@tells(UserStackFacts)
def on_a_user_stack(finding: Finding, facts: UserStackFacts) -> Words:
    """That the kernel runs on memory of a program, and what shows it."""
    shown = "an exception's frame was pushed there"
    if facts.left is not None:
        shown = f"the kernel's return address {at(facts.left.va, facts.left.symbol)} is on it"
    return Words(
        f"CPU {facts.cpu} runs in ring 0, in {at(facts.rip, facts.symbol)}, with RSP "
        f"{hex64(facts.rsp)} in memory that ring 3 may use: {shown}"
    )


@tells(OpenFacts)
def open_to_ring_3(finding: Finding, facts: OpenFacts) -> Words:
    """What ring 3 may use."""
    return Words(f"ring 3 may use the {facts.holds} of CPU {facts.cpu}, {hex64(facts.va)}")
