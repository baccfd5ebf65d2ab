"""Endings of a run that are no fault: panic, hang, exit, a missing marker, logged errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks import loader
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, Facts
from breenix_gdbagent.checks.faults.shutdown import REBOOT
from breenix_gdbagent.checks.finding import Finding, declare
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.lock_state import LockState
from breenix_gdbagent.kernel.own_tests import own_tests
from breenix_gdbagent.kernel.panic import panic_place
from breenix_gdbagent.kernel.reason import in_panic
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import StopReason

RFLAGS_IF = 1 << 9

PANIC = declare(
    "panic",
    "error",
    "the kernel panicked",
    arises="An assertion failed, or the kernel met a state that it gives up at.",
    confirm="bt at this stop; the last serial lines hold the message.",
    mend="Start at the message's file and line and its backtrace; where a cause is named, there.",
    kind="run",
)
HANG = declare(
    "hang",
    "error",
    "the kernel makes no progress",
    arises="CPUs spin or halt with interrupts off, and no other has work: a lock taken twice, in "
    "another order, or never released, or a fault handler that ended in `hlt`.",
    confirm="bt of each CPU; locks: which are taken, and who spins on them.",
    mend="Release the lock on every path; take it with interrupts off where a handler takes it.",
    kind="run",
    exit=4,
)
MARKER_MISSING = declare(
    "marker-missing",
    "error",
    "the awaited text never came",
    arises="The kernel still runs, but did not print what the run waited for by the deadline.",
    confirm="log FILE shows how far it came.",
    mend="Raise --timeout, or look at what the last lines wait for.",
    kind="run",
    exit=4,
)
UNEXPECTED_EXIT = declare(
    "unexpected-exit",
    "error",
    "QEMU ended before the run was over",
    arises="The guest wrote isa-debug-exit (port 0xf4), or switched the machine off by ACPI "
    "(status 0).",
    confirm="the exit status and the last serial lines; bt where QEMU waited (later versions do).",
    mend="Read the last lines; with the ELF given, the stop at the panic handler comes first.",
    kind="run",
)
TESTS_FAILED = declare(
    "tests-failed",
    "error",
    "the kernel's own tests failed",
    arises="The kernel says so itself, in the words that it has for that.",
    confirm="log FILE FAIL shows its own lines.",
    mend="Look at what the first test that failed printed: log FILE NAME.",
    kind="run",
)
LOG_ERROR = declare(
    "log.error",
    "warning",
    "the kernel logged an error",
    arises="A line of level ERROR.",
    confirm="log FILE --level error.",
    mend="Follow the module that the line names.",
)

_ERROR_LINE = re.compile(r"\[ ?ERROR\]\s*(?P<module>[\w:]+): (?P<text>.*)")
# kernel/src/interrupts.rs checks the address against a range that was right for another layout.
# What `tests-failed` tells.
_VERDICTS = re.compile(r"TEST RUNNER: FAILED|Failing userspace processes|^\s*\[FAIL\] ")
_FAULT_LOGGERS = ("kernel::interrupts",)  # the handlers: they log what the fault checks explain
_HARMLESS = re.compile(r"INVALID (timer_interrupt_entry|syscall_entry) address")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """How the run ended. `ended`: marker, fault, panic, shutdown, exit, deadline, interrupt, or
    empty when nothing was run. `until` is what was waited for, None for nothing. `faults` counts
    the faults that were seen: what the kernel logs of them is no finding of its own. `resets` is
    how often the guest reset itself, of those that did not stop it."""

    ended: str = ""
    until: str | None = None
    timeout: float | None = None
    exit_status: int | None = None
    exit_meaning: str = ""
    stuck: bool = False
    faults: int = 0
    resets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PanicFacts(Facts):
    """What the panic says and where it came up, ``file.rs:line``; `printed`: the kernel has said
    so on its serial port."""

    message: str | None
    at: str | None
    printed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFacts(Facts):
    """Where a CPU stood at the end, and whether anything could wake it."""

    cpu: int
    rip: VirtAddr
    symbol: str | None
    interrupts: bool | None
    halted: bool | None
    cpl: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HangFacts(Facts):
    """All CPUs, and the locks that are taken (None where no lock byte is known). `seconds` is how
    long was waited, `stopped` the CPU that the stop is about."""

    cpus: tuple[CpuFacts, ...]
    locks_held: tuple[str, ...] | None
    waited_for: Annotated[str | None, IF_KNOWN]
    seconds: Annotated[float, ASIDE]
    stopped: Annotated[CpuFacts, ASIDE]
    contended: Annotated[tuple[LockState, ...], ASIDE] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopFacts(Facts):
    """A guest that resets itself again and again: how often within `seconds`."""

    resets: int
    cpus: tuple[CpuFacts, ...]
    seconds: Annotated[float, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingFacts(Facts):
    """What did not come within `seconds`; `interrupted` says how the guest was stopped before.
    `before` is the state of the CPU where the kernel had not started by then, `unended` a line of
    the PIC that waits for the end of its own interrupt."""

    waited_for: Annotated[str | None, IF_KNOWN]
    cpus: tuple[CpuFacts, ...]
    seconds: Annotated[float, ASIDE]
    interrupted: Annotated[str | None, ASIDE]
    before: Annotated[str, ASIDE]
    unended: Annotated[Unended | None, ASIDE] = None


@dataclass(frozen=True, slots=True)
class Unended:
    """A line of the PIC whose interrupt was never ended, and the vector that it comes at."""

    irq: int
    vector: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitFacts(Facts):
    """The status QEMU ended with, what it means for this machine, and what was waited for; `ended`
    says how it ended where the status is not known."""

    exit_status: int | None
    meaning: str | None
    waited_for: Annotated[str | None, ASIDE]
    ended: Annotated[str, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestsFacts(Facts):
    """One suite of the kernel's own tests, and what failed in it."""

    suite: str
    failed: int
    passed: int
    failures: tuple[str, ...]
    unfinished: Annotated[tuple[str, ...], IF_KNOWN]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedFacts(Facts):
    """The first errors that a module logged, and how many they are."""

    lines: tuple[str, ...]
    count: int


def facts_of(reason: StopReason) -> RunFacts:
    """What one stop alone tells of how the run ended: of a guest that nobody watched up to it."""
    ended = reason.kind if reason.kind in ("fault", "panic", "shutdown", "exit") else ""
    return RunFacts(ended, exit_status=reason.exit_status, faults=int(ended == "fault"))


def check(kernel: Kernel, facts: RunFacts, cause: Finding | None) -> Iterator[Finding]:
    """Findings about the run's end. `cause` is the fault that led there, if any."""
    told = facts.ended == "panic" or kernel.log.panics
    if told or (facts.ended in _UNTOLD and in_panic(kernel)):
        yield _panic(kernel, facts, cause)
    over = facts.ended in _OVER
    before = None if over else loader.fault(kernel, still=facts.stuck)
    if before is not None:
        yield _led_to(before, cause)
    elif facts.resets and facts.ended in ("deadline", "interrupt"):
        yield _boot_loop(kernel, facts)
    elif facts.ended in ("deadline", "interrupt"):
        yield _stuck(kernel, facts, cause) if facts.stuck else _missing(kernel, facts)
    if facts.ended == "exit":
        yield _exit(kernel, facts, cause)
    yield from failed_tests(kernel)
    yield from logged_errors(kernel, explained=_FAULT_LOGGERS if facts.faults else ())


_OVER = ("marker", "exit", "panic")
"""Ends to which a kernel has come, or nothing that is left to be looked at."""
_UNTOLD = ("", "deadline", "interrupt")
"""Ends at which a kernel may have panicked before, and nobody caught it."""


def _panic(kernel: Kernel, facts: RunFacts, cause: Finding | None) -> Finding:
    printed = kernel.log.panics[0] if kernel.log.panics else None
    place = _panic_place(kernel, facts, printed)
    told = PanicFacts(message=kernel.panic_message, at=place, printed=printed is not None)
    subject = re.sub(r":\d+$", "", place) if place else "panic handler"
    return _led_to(Finding(PANIC, subject, told), cause)


def _led_to(finding: Finding, cause: Finding | None) -> Finding:
    if cause is None:
        return finding
    chain = (cause.code.name, finding.code.name)
    return replace(finding, cause=cause.code.name, because=(cause,), chain=chain)


def _panic_place(kernel: Kernel, facts: RunFacts, message: str | None) -> str | None:
    """``file.rs:line`` of the panic: from its message, else from the handler's argument."""
    found = re.search(r"panicked at ([^\s:]+:\d+)", message or "")
    if found is not None:
        return found[1]
    cpu = kernel.stop.cpu
    info, root = cpu.get("rdi"), cpu.root
    at_handler = kernel.stop.reason.kind == "panic" and not kernel.stop.reason.text
    if not at_handler or info is None or root is None:
        return None
    place = panic_place(info, kernel.memory_of(root).read)
    return f"{place.file}:{place.line}" if place is not None else None


def _stuck(kernel: Kernel, facts: RunFacts, cause: Finding | None) -> Finding:
    contended = _contended(kernel)
    stopped = _cpu_facts(kernel, _that_stays(kernel, contended))
    told = HangFacts(
        cpus=tuple(_cpu_facts(kernel, cpu) for cpu in kernel.stop.cpus),
        locks_held=_held(kernel, contended),
        waited_for=facts.until,
        seconds=facts.timeout or 0,
        stopped=stopped,
        contended=contended,
    )
    subject = "kernel" if stopped.symbol is None else re.sub(r"\+0x[0-9a-f]+$", "", stopped.symbol)
    return _led_to(Finding(HANG, subject, told), cause)


def _contended(kernel: Kernel) -> tuple[LockState, ...]:
    """The locks that CPUs wait for; none where the kernel's types are not known."""
    from breenix_gdbagent.kernel.locks import locks

    try:
        return tuple(one for one in locks(kernel) if one.taken and one.waiting)
    except ReadError:
        return ()


def _that_stays(kernel: Kernel, contended: Sequence[LockState]) -> Cpu:
    """The CPU that a hang is told of: the first that waits for a lock, else the first that will not
    be interrupted and does not halt."""
    waiting = {user.cpu for lock in contended for user in lock.waiting}
    for cpu in kernel.stop.cpus:
        if cpu.index in waiting:
            return cpu
    spin = (c for c in kernel.stop.cpus if not c.halted and not (c.get("eflags") or 0) & RFLAGS_IF)
    return next(spin, kernel.stop.cpu)


def _held(kernel: Kernel, contended: Sequence[LockState]) -> tuple[str, ...] | None:
    """The kernel's own locks that are taken, and all others that a CPU waits for."""
    own = held_locks(kernel)
    others = [one.name for one in contended if one.name.rpartition("::")[2] not in (own or ())]
    return (*(own or ()), *others) if own is not None or others else None


def _boot_loop(kernel: Kernel, facts: RunFacts) -> Finding:
    told = LoopFacts(
        resets=facts.resets,
        cpus=tuple(_cpu_facts(kernel, cpu) for cpu in kernel.stop.cpus),
        seconds=facts.timeout or kernel.stop.seconds,
    )
    return Finding(REBOOT, "boot loop", told, confidence="likely")


def held_locks(kernel: Kernel) -> tuple[str, ...] | None:
    """Names of the kernel's locks that are taken at this stop; None where no lock byte is known."""
    structures = kernel.structures
    readers: dict[str, Callable[[], bool | None]] = {
        "PROCESS_MANAGER": lambda: structures.processes.locked,
        "SCHEDULER": lambda: structures.scheduler.locked,
        "frame allocator": lambda: structures.frames.locked,
        "heap": lambda: structures.heap.locked,
    }
    known: list[tuple[str, bool]] = []
    for name, locked in readers.items():
        try:
            taken = locked()
        except ReadError:
            continue
        if taken is not None:
            known.append((name, taken))
    return tuple(name for name, taken in known if taken) if known else None


def _cpu_facts(kernel: Kernel, cpu: Cpu) -> CpuFacts:
    flags, off = cpu.get("eflags"), cpu.arch.interrupts_off(cpu)
    on = None if off is None else not off
    return CpuFacts(
        cpu=cpu.index,
        rip=VirtAddr(cpu.rip),
        symbol=kernel.symbol(cpu.rip),
        interrupts=on if flags is None else bool(flags & RFLAGS_IF),
        halted=cpu.halted,
        cpl=cpu.cpl,
    )


def _missing(kernel: Kernel, facts: RunFacts) -> Finding:
    interrupted = facts.ended == "interrupt"
    told = MissingFacts(
        waited_for=facts.until,
        cpus=tuple(_cpu_facts(kernel, cpu) for cpu in kernel.stop.cpus),
        seconds=facts.timeout or 0,
        interrupted=(kernel.stop.reason.text or "interrupted") if interrupted else None,
        before=loader.never_started(kernel),
        unended=_unended(kernel),
    )
    advice = _NOT_STARTED if told.before else _NO_EOI if told.unended else ""
    return Finding(MARKER_MISSING, facts.until or "end of run", told, advice=advice)


def _unended(kernel: Kernel) -> Unended | None:
    """The line that the PIC has in service and that asks again, while every CPU has interrupts on
    and halts or is in ring 3: no handler runs any more, and its end of interrupt was not written.
    The PIC sends nothing of that priority or below until it is (Intel 8259A, fully nested mode)."""
    pic = kernel.stop.pic
    if pic is None or not kernel.stop.cpus:
        return None
    for cpu in kernel.stop.cpus:
        waits = cpu.cpl == 3 or bool(cpu.halted)
        if not waits or not (cpu.get("eflags") or 0) & RFLAGS_IF:
            return None
    irq = pic.waiting
    return None if irq is None else Unended(irq, pic.vector_of(irq))


_NO_EOI = (
    "Write the end of interrupt in that handler before it returns: 0x20 to port 0x20, and for the "
    "lines 8 to 15 to port 0xa0 before it."
)
_NOT_STARTED = (
    "Raise --timeout if firmware and loader need longer. Else look at what they say: on the "
    "machine's screen where nothing is on COM1 (an image that is not bootable, a loader that waits "
    "at its menu or for a key)."
)


def _exit(kernel: Kernel, facts: RunFacts, cause: Finding | None) -> Finding:
    known = facts.exit_status is not None
    told = ExitFacts(
        exit_status=facts.exit_status,
        meaning=facts.exit_meaning or None,
        waited_for=facts.until,
        ended=kernel.stop.reason.text,
    )
    status = f"status {facts.exit_status if known else 'not known'}"
    ended = Finding(UNEXPECTED_EXIT, status, told)
    return replace(_led_to(ended, cause), chain=())


def failed_tests(kernel: Kernel) -> Iterator[Finding]:
    """One finding for each suite of the kernel's own tests in which something failed."""
    for suite in own_tests(kernel):
        if suite.failed:
            facts = TestsFacts(
                suite=suite.name,
                failed=suite.failed,
                passed=suite.passed,
                failures=suite.failures,
                unfinished=suite.unfinished,
            )
            yield Finding(TESTS_FAILED, suite.name, facts)


def logged_errors(kernel: Kernel, explained: tuple[str, ...]) -> Iterator[Finding]:
    """One finding for each module that logged errors, the harmless lines left out and those of
    modules whose errors are `explained`."""
    found: dict[str, list[str]] = {}
    for line in kernel.stop.serial.lines():
        match = _ERROR_LINE.search(line)
        if match is None or _HARMLESS.search(line) or match["module"].startswith(explained):
            continue
        if _VERDICTS.search(match["text"]):
            continue
        found.setdefault(match["module"], []).append(match["text"])
    for module, lines in found.items():
        yield Finding(LOG_ERROR, module, LoggedFacts(lines=tuple(lines[:8]), count=len(lines)))
