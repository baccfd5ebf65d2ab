"""The sentences about how a run ended, what was logged, and why a page could not be mapped."""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.loader import LoaderFacts
from breenix_gdbagent.checks.mapping import AlreadyFacts, Way
from breenix_gdbagent.checks.run import (
    CpuFacts,
    ExitFacts,
    HangFacts,
    LoggedFacts,
    LoopFacts,
    MissingFacts,
    PanicFacts,
    TestsFacts,
)
from breenix_gdbagent.kernel.lock_state import LockState
from breenix_gdbagent.report.wording.addresses import sentence
from breenix_gdbagent.report.wording.base import Words, at, lock_holder, named, tells
from breenix_gdbagent.x86.paging import LEVEL
from breenix_gdbagent.x86.pic import WIRED

MOST_NAMED = 4
MOST_TESTS = 8


@tells(PanicFacts)
def panicked(finding: Finding, facts: PanicFacts) -> Words:
    """Its message, and its place where the message does not hold it."""
    said = "the kernel panicked"
    if facts.at and not facts.printed:
        said += f" at {facts.at}"
    return Words(f"{said}: {facts.message}" if facts.message else said)


@tells(HangFacts)
def stuck(finding: Finding, facts: HangFacts) -> Words:
    """Where the CPU stays."""
    cpu = facts.stopped
    where = cpu.symbol or hex64(cpu.rip)
    said = f"no progress within {facts.seconds:g} s: {_how_stuck(cpu)} in {where}"
    if not facts.contended:
        return Words(said)
    waits = [f"{_waits(lock)}." for lock in facts.contended]
    return Words(said, " ".join([f"{said[0].upper()}{said[1:]}.", *waits]))


def _waits(lock: LockState) -> str:
    """Who spins on a lock, and who has it."""
    who = " and ".join(f"CPU {user.cpu} (in {user.function})" for user in lock.waiting)
    spins = "spin" if len(lock.waiting) > 1 else "spins"
    return f"{who} {spins} on {lock.name}, {lock_holder(lock.holder)}"


def _how_stuck(cpu: CpuFacts) -> str:
    interrupts = "on" if cpu.interrupts else "off"
    return f"CPU {cpu.cpu} {'halts' if cpu.halted else 'spins'} with interrupts {interrupts}"


@tells(LoopFacts)
def boot_loop(finding: Finding, facts: LoopFacts) -> Words:
    """How often it booted."""
    return Words(
        f"the guest reset itself {counted(facts.resets, 'time')} within {facts.seconds:g} s: it "
        "boots again and again"
    )


@tells(LoaderFacts)
def before_the_kernel(finding: Finding, facts: LoaderFacts) -> Words:
    """What the firmware caught, or where the loader stands."""
    if facts.vector is None:
        where = f"in {facts.mode} at {hex64(facts.rip)}"
        if facts.base is not None:
            where += f", in the UEFI program at {hex64(facts.base)}"
        said = f"; it said {facts.says!r}" if facts.says else ""
        return Words(f"the kernel was never started: the CPU is {where}{said}")
    code = "" if facts.error_code is None else f" e={hex64(facts.error_code)}"
    image = facts.image or "an image"
    place = hex64(facts.rip)
    if facts.base is not None:
        inside = facts.rip - facts.base
        place += f", {hex64(inside)} into {image} that is loaded at {hex64(facts.base)}"
    access = f", CR2 {hex64(facts.cr2)}" if facts.cr2 is not None else ""
    summary = (
        f"the firmware caught {facts.exception}{code} at RIP {place}{access}, before the kernel "
        "had started"
    )
    return Words(summary, sentence(f"{summary}.", *_borne_out(facts)))


def _borne_out(facts: LoaderFacts) -> Iterator[str]:
    yield "the firmware printed it and spins in its handler: no kernel of ours has run."
    if facts.cr2 is None:
        return
    if facts.agrees:
        yield f"CR2 and CR3 of the CPU are still those that it printed, {hex64(facts.cr2)}."
    if facts.gives is not None and facts.error_code is not None:
        same = facts.gives == facts.error_code
        told = "the same" if same else hex64(facts.gives)
        yield f"for that access the tables give {told}{' error code' if same else ''}."


@tells(MissingFacts)
def not_printed(finding: Finding, facts: MissingFacts) -> Words:
    """What did not come, and that the kernel still runs or has not started."""
    awaited = facts.waited_for
    wanted = f"{awaited!r} was not printed" if awaited else "the run came to no end"
    if facts.interrupted is not None:
        return Words(f"{wanted}; the guest was {facts.interrupted}")
    runs = "the kernel still runs"
    if facts.before:
        at_rip = f" at {hex64(facts.cpus[0].rip)}" if facts.cpus else ""
        runs = f"the kernel has not started: the CPU is in {facts.before}{at_rip}"
    summary = f"{wanted} within {facts.seconds:g} s; {runs}"
    if facts.unended is None:
        return Words(summary)
    irq, vector = facts.unended.irq, facts.unended.vector
    wired = f", {WIRED[irq]}," if irq in WIRED else ""
    summary += f", but its handler of vector {vector} never ended IRQ {irq} (no EOI)"
    return Words(
        summary,
        f"The PIC has IRQ {irq}{wired} in service at vector {vector} while no handler runs, and it "
        "asks again: the end of its interrupt was not written, so that neither it nor a line below "
        "it comes any more.",
    )


@tells(ExitFacts)
def ended(finding: Finding, facts: ExitFacts) -> Words:
    """The status, and what it came before."""
    meaning = f" ({facts.meaning})" if facts.meaning else ""
    waited = f" before {facts.waited_for!r} was printed" if facts.waited_for else ""
    said = f"QEMU ended with status {facts.exit_status}{meaning}"
    return Words(f"{said if facts.exit_status is not None else facts.ended}{waited}")


@tells(TestsFacts)
def tests_failed(finding: Finding, facts: TestsFacts) -> Words:
    """How many of how many, and their names."""
    of = facts.failed + facts.passed
    names = ", ".join(facts.failures[:MOST_TESTS])
    more = len(facts.failures) - MOST_TESTS
    named = f": {names}" + (f" and {more} more" if more > 0 else "") if names else ""
    return Words(f"{facts.failed} of the {of} {facts.suite} failed, the kernel says{named}")


@tells(LoggedFacts)
def logged(finding: Finding, facts: LoggedFacts) -> Words:
    """Who logged how many, and the first."""
    errors = f"{facts.count} error{'s' if facts.count != 1 else ''}"
    return Words(f"{finding.subject} logged {errors}: {facts.lines[0]}")


@tells(AlreadyFacts)
def already_mapped(finding: Finding, facts: AlreadyFacts) -> Words:
    """Which frame is in the way, and in which spaces."""
    place = "" if facts.va is None else f"{at(facts.va, facts.symbol)} "
    held = "where is not said" if facts.way is None else _held(facts.way)
    frame = f"because frame {hex64(facts.has)} is there"
    return Words(f"the kernel could not map {place}{frame}: {held}")


def _held(way: Way) -> str:
    if not way.holders:
        return "it is not there any more at this stop"
    names = named(way.holders, MOST_NAMED)
    if len(way.holders) > MOST_NAMED:
        names += f" and {len(way.holders) - MOST_NAMED} more"
    shared = next((level for level in way.levels if level.shared_by), None)
    if shared is None or len(way.holders) < 2:
        return f"mapped in {names}"
    table, name = hex64(shared.entry_pa & ~0xFFF), LEVEL[shared.level].name
    return f"mapped in {names}, through the {name} at {table} that they share"
