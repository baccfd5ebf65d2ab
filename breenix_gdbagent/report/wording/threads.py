"""The sentences about threads, their saved registers, and the spaces that CPUs are in."""

from __future__ import annotations

from collections.abc import Sequence

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.facts import Place
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.registers import RegistersFacts
from breenix_gdbagent.checks.spaces import (
    BootFacts,
    Load,
    NextFacts,
    NobodysFacts,
    NoTableFacts,
    WrongSpaceFacts,
)
from breenix_gdbagent.checks.threads import (
    ContextFacts,
    DeadFacts,
    DesyncFacts,
    InterruptedFacts,
    LostFacts,
    TwoCpusFacts,
)
from breenix_gdbagent.report.wording.base import Words, at, tells


@tells(DesyncFacts)
def disagreement(finding: Finding, facts: DesyncFacts) -> Words:
    """Whom the scheduler has, and whom the per-CPU block."""
    has = f"thread {facts.scheduler_current}"
    has += f" ({facts.scheduler_name})" if facts.scheduler_name is not None else ""
    own = (
        f"thread {facts.percpu_id} ({facts.percpu_name})"
        if facts.percpu_id is not None
        else f"no thread of the scheduler's ({hex64(facts.percpu_current)})"
    )
    return Words(f"the scheduler has {has} on CPU {facts.cpu}, gs:[8] names {own}")


@tells(TwoCpusFacts)
def run_twice(finding: Finding, facts: TwoCpusFacts) -> Words:
    """Which CPUs, which thread."""
    whom = f"thread {facts.thread} ({facts.name})" if facts.thread is not None else "one thread"
    return Words(f"{_cpus(facts.on_cpus)} run {whom}: gs:[8] is {hex64(facts.address)} on each")


def _cpus(numbers: Sequence[int]) -> str:
    """``CPU 1 and CPU 2``"""
    names = [f"CPU {number}" for number in numbers]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


@tells(LostFacts)
def never_run_again(finding: Finding, facts: LostFacts) -> Words:
    """Whose thread."""
    whose = f" of process {facts.pid}" if facts.pid is not None else ""
    return Words(
        f"thread {facts.thread} ({facts.name}){whose} is {facts.state}, and it is in no ready "
        "queue and on no CPU: nothing will run it again"
    )


@tells(InterruptedFacts)
def ring_3_in_the_kernel(finding: Finding, facts: InterruptedFacts) -> Words:
    """Where ring 3 stood, and the two ways that lead there."""
    return Words(
        f"ring 3 (cs {hex64(facts.cs)}) stood at {at(facts.rip, facts.symbol)}, in the kernel's "
        "own code: a kernel frame was resumed in ring 3, or a process jumped there"
    )


@tells(ContextFacts)
def mixed_context(finding: Finding, facts: ContextFacts) -> Words:
    """Where whose context returns to, and what does not go together."""
    wrong = {
        "ring-3-in-kernel": f"cs {hex64(facts.cs)} is of ring 3, and rip is the kernel's",
        "ring-0-in-process": f"cs {hex64(facts.cs)} is of ring 0, and rip is the process's",
        "starts-in-kernel": "it starts in ring 3, and rip is the kernel's",
    }[facts.mix]
    return Words(
        f"the saved context of {finding.subject} (pid {facts.pid}, thread {facts.thread}) returns "
        f"to {at(facts.rip, facts.symbol)}: {wrong}"
    )


@tells(DeadFacts)
def runs_though_over(finding: Finding, facts: DeadFacts) -> Words:
    """Which thread, on which CPU, and what its state says."""
    return Words(
        f"CPU {facts.cpu} runs thread {facts.thread} ({facts.name}) in ring {facts.ring} at "
        f"{hex64(facts.rip)}, and the scheduler has it as {facts.state}"
    )


@tells(RegistersFacts)
def other_registers(finding: Finding, facts: RegistersFacts) -> Words:
    """Which registers, how many of how many returns, the first one, and the code that did it."""
    names = ", ".join(one.register for one in facts.registers)
    said = (
        f"{facts.changed} of {facts.returns} returns to ring {facts.ring} by {facts.returned_by} "
        f"gave other registers back: {names}"
    )
    whose = f" in {facts.thread_of}" if facts.thread_of else ""
    first = f"the first was back at {at(facts.rip, None)}{whose}, RSP {hex64(facts.rsp)}"
    if facts.loaded_by:
        return Words(said, f"{first}; what the way out writes over stands under `loaded by`")
    return Words(said, f"{first}; reading the ways to it shows no instruction that does it")


@tells(NobodysFacts)
def nobodys_root(finding: Finding, facts: NobodysFacts) -> Words:
    """What CR3 is not."""
    known = (
        "no process has it, and no dead one waits to give it back"
        if facts.listed
        else "its kernel half is not this kernel's"
    )
    said = f"CR3 of CPU {facts.at.cpu} is {hex64(facts.at.cr3)}: {known}"
    return Words(said, _loaded_by(facts.load))


@tells(BootFacts)
def back_on_the_bootloaders(finding: Finding, facts: BootFacts) -> Words:
    """Which root, and which it should be."""
    cpu = facts.at
    return Words(
        f"CR3 of CPU {cpu.cpu} is {hex64(cpu.cr3)}, the bootloader's PML4; the master is "
        f"{hex64(facts.master)} (in {at(cpu.rip, cpu.symbol)})",
        _loaded_by(facts.load),
    )


def _loaded_by(load: Load | None) -> str:
    """Where it was loaded, as far as the frames show it."""
    if load is None:
        return ""
    said = f"The last `mov cr3` that the frames here show is at {_place(load.mov_cr3)}"
    if load.called_by is not None:
        said += f", in a function that {_place(load.called_by)} called"
    return f"{said}: it was loaded there, it seems."


def _place(place: Place) -> str:
    return at(place.va, place.symbol)


@tells(NextFacts)
def about_to_load(finding: Finding, facts: NextFacts) -> Words:
    """What is in gs:[64]."""
    boot = facts.at.role == "boot"
    whose = "the bootloader's PML4" if boot else "a page table that nobody owns"
    root = hex64(facts.at.cr3)
    return Words(f"CPU {facts.at.cpu} is about to load {root}, {whose}, into CR3 (gs:[64])")


@tells(WrongSpaceFacts)
def wrong_space(finding: Finding, facts: WrongSpaceFacts) -> Words:
    """Who runs in whose space."""
    cpu, owner = facts.at, facts.owner
    if owner is None:
        said = f"CPU {cpu.cpu} is in ring 3 with the master PML4 {hex64(cpu.cr3)} in CR3"
    else:
        said = (
            f"CPU {cpu.cpu} runs {owner.owner} (pid {owner.owner_pid}), whose page table is "
            f"{hex64(owner.owner_root or 0)}, with {hex64(cpu.cr3)} of {facts.space} in CR3"
        )
    return Words(f"{said} (in {at(cpu.rip, cpu.symbol)})")


@tells(NoTableFacts)
def without_a_table(finding: Finding, facts: NoTableFacts) -> Words:
    """Which process."""
    return Words(f"{finding.subject} (pid {facts.pid}) is {facts.state} and has no page table")
