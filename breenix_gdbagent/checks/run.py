"""Endings of a run that are no fault: panic, hang, exit, a missing marker, logged errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.finding import Finding, declare
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.panic import panic_place
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.cpu import Cpu

RFLAGS_IF = 1 << 9

PANIC = declare(
    "panic",
    "error",
    "the kernel panicked",
    arises="A Rust panic: an assertion, an unwrap of None, or a handler that gives up "
    "(`EXCEPTION: DOUBLE FAULT`). The panic handler prints `KERNEL PANIC:` and halts, or leaves "
    "QEMU through isa-debug-exit with feature testing.",
    confirm="bt at this stop; the last serial lines hold the message.",
    mend="Start at the message's file and line and its backtrace; where a cause is named, there.",
    see=("kernel/src/main.rs",),
)
HANG = declare(
    "hang",
    "error",
    "the kernel makes no progress",
    arises="Every CPU spins or halts with interrupts off: a lock taken twice or never released "
    "(Breenix #609, the logger in a context switch), or a fault handler that ended in `hlt`.",
    confirm="bt; print the lock's static to see its lock byte.",
    mend="Release the lock on every path; take it with interrupts off where a handler takes it.",
    see=("kernel/src/interrupts.rs", "kernel/src/task/scheduler.rs"),
)
MARKER_MISSING = declare(
    "marker-missing",
    "error",
    "the awaited text never came",
    arises="The kernel still runs, but did not print what the run waited for by the deadline.",
    confirm="log FILE shows how far it came.",
    mend="Raise --timeout, or look at what the last lines wait for.",
)
UNEXPECTED_EXIT = declare(
    "unexpected-exit",
    "error",
    "QEMU ended before the run was over",
    arises="The guest wrote isa-debug-exit (port 0xf4): Breenix's panic handler with feature "
    "testing exits 35, a missing test disk too. Or it switched the machine off by ACPI (status 0).",
    confirm="the exit status and the last serial lines; bt where QEMU waited (later versions do).",
    mend="Read the last lines; with the ELF given, the stop at the panic handler comes first.",
    see=("kernel/src/lib.rs",),
)
LOG_ERROR = declare(
    "log.error",
    "warning",
    "the kernel logged an error",
    arises="A line of level ERROR. Breenix prints `INVALID timer_interrupt_entry address` and "
    "`INVALID syscall_entry address` at every boot: harmless, and not counted.",
    confirm="log FILE --level error.",
    mend="Follow the module that the line names.",
)

_ERROR_LINE = re.compile(r"\[ ?ERROR\]\s*(?P<module>[\w:]+): (?P<text>.*)")
# kernel/src/interrupts.rs checks the address against a range that was right for another layout.
_FAULT_LOGGERS = ("kernel::interrupts",)  # the handlers: they log what the fault checks explain
_HARMLESS = re.compile(r"INVALID (timer_interrupt_entry|syscall_entry) address")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """How the run ended. `ended`: marker, fault, panic, shutdown, exit, deadline, interrupt, or
    empty when nothing was run. `until` is what was waited for, None for nothing. `faults` counts
    the faults that were seen: what the kernel logs of them is no finding of its own."""

    ended: str = ""
    until: str | None = None
    timeout: float | None = None
    exit_status: int | None = None
    exit_meaning: str = ""
    stuck: bool = False
    faults: int = 0


def check(kernel: Kernel, facts: RunFacts, cause: str | None) -> Iterator[Finding]:
    """Findings about the run's end. `cause` is the code of the fault that led there, if any."""
    if facts.ended == "panic" or (kernel.log.panics and facts.ended):
        yield _panic(kernel, facts, cause)
    if facts.ended in ("deadline", "interrupt"):
        yield _stuck(kernel, facts, cause) if facts.stuck else _missing(kernel, facts)
    if facts.ended == "exit":
        yield _exit(kernel, facts, cause)
    yield from logged_errors(kernel, explained=_FAULT_LOGGERS if facts.faults else ())


def _panic(kernel: Kernel, facts: RunFacts, cause: str | None) -> Finding:
    printed = kernel.log.panics[0] if kernel.log.panics else None
    message = kernel.panic_message
    place = _panic_place(kernel, facts, printed)
    said = "the kernel panicked"
    if place and not printed:
        said += f" at {place}"
    if message:
        said += f": {message}"
    return Finding(
        PANIC,
        said,
        re.sub(r":\d+$", "", place) if place else "panic handler",
        {"message": message, "at": place, "printed": printed is not None},
        cause=cause,
        chain=(cause, "panic") if cause else (),
        fix=PANIC.mend,
    )


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


def _stuck(kernel: Kernel, facts: RunFacts, cause: str | None) -> Finding:
    cpus: list[Json] = [_cpu_state(kernel, cpu) for cpu in kernel.stop.cpus]
    where = kernel.symbol(kernel.stop.cpu.rip) or hex64(kernel.stop.cpu.rip)
    return Finding(
        HANG,
        f"no progress within {facts.timeout or 0:g} s: {_how_stuck(kernel.stop.cpu)} in {where}",
        re.sub(r"\+0x[0-9a-f]+$", "", where) if not where.startswith("0x") else "kernel",
        {"cpus": cpus, "locks_held": held_locks(kernel), **_waited(facts)},
        cause=cause,
        chain=(cause, "hang") if cause else (),
        fix=HANG.mend,
    )


def held_locks(kernel: Kernel) -> Json:
    """Names of the kernel's locks that are taken at this stop; None where no lock byte is known."""
    books = kernel.books
    readers: dict[str, Callable[[], bool | None]] = {
        "PROCESS_MANAGER": lambda: books.processes.locked,
        "SCHEDULER": lambda: books.scheduler.locked,
        "frame allocator": lambda: books.frames.locked,
        "heap": lambda: books.heap.locked,
    }
    known: list[tuple[str, bool]] = []
    for name, locked in readers.items():
        try:
            taken = locked()
        except ReadError:
            continue
        if taken is not None:
            known.append((name, taken))
    return [name for name, taken in known if taken] if known else None


def _how_stuck(cpu: Cpu) -> str:
    flags = cpu.get("eflags") or 0
    interrupts = "on" if flags & RFLAGS_IF else "off"
    return f"the CPU {'halts' if cpu.halted else 'spins'} with interrupts {interrupts}"


def _cpu_state(kernel: Kernel, cpu: Cpu) -> dict[str, Json]:
    flags = cpu.get("eflags")
    return {
        "cpu": cpu.index,
        "rip": hex64(cpu.rip),
        "symbol": kernel.symbol(cpu.rip),
        "interrupts": None if flags is None else bool(flags & RFLAGS_IF),
        "halted": cpu.halted,
        "cpl": cpu.cpl,
    }


def _waited(facts: RunFacts) -> dict[str, Json]:
    return {} if facts.until is None else {"waited_for": facts.until}


def _missing(kernel: Kernel, facts: RunFacts) -> Finding:
    wanted = f"{facts.until!r} was not printed" if facts.until else "the run came to no end"
    said = f"{wanted} within {facts.timeout or 0:g} s; the kernel still runs"
    if facts.ended == "interrupt":
        said = f"{wanted}; the guest was {kernel.stop.reason.text or 'interrupted'}"
    return Finding(
        MARKER_MISSING,
        said,
        facts.until or "end of run",
        {
            **_waited(facts),
            "cpus": list[Json](_cpu_state(kernel, c) for c in kernel.stop.cpus),
        },
        fix=MARKER_MISSING.mend,
    )


def _exit(kernel: Kernel, facts: RunFacts, cause: str | None) -> Finding:
    meaning = f" ({facts.exit_meaning})" if facts.exit_meaning else ""
    waited = f" before {facts.until!r} was printed" if facts.until else ""
    known = facts.exit_status is not None
    said = f"QEMU ended with status {facts.exit_status}{meaning}"
    return Finding(
        UNEXPECTED_EXIT,
        f"{said if known else kernel.stop.reason.text}{waited}",
        f"status {facts.exit_status if known else 'not known'}",
        {"exit_status": facts.exit_status, "meaning": facts.exit_meaning or None},
        cause=cause,
        fix=UNEXPECTED_EXIT.mend,
    )


def logged_errors(kernel: Kernel, explained: tuple[str, ...]) -> Iterator[Finding]:
    """One finding for each module that logged errors, the harmless lines left out and those of
    modules whose errors are `explained`."""
    found: dict[str, list[str]] = {}
    for line in kernel.stop.serial.lines():
        match = _ERROR_LINE.search(line)
        if match is None or _HARMLESS.search(line) or match["module"].startswith(explained):
            continue
        found.setdefault(match["module"], []).append(match["text"])
    for module, lines in found.items():
        yield Finding(
            LOG_ERROR,
            f"{module} logged {len(lines)} error{'s' if len(lines) != 1 else ''}: {lines[0]}",
            module,
            {"lines": list[Json](lines[:8]), "count": len(lines)},
            fix=LOG_ERROR.mend,
        )
