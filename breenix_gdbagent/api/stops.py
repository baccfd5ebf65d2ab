"""Questions to a guest that is stopped, live or out of a file.

`At` is what is asked: a `Stop`, or a `Kernel` made of it once when many questions follow, so that
RAM is searched only once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent import run_report
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.checks import examine as checks
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.run import facts_of
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import address_at, parse
from breenix_gdbagent.evaluation.operands import plain
from breenix_gdbagent.kernel import trace
from breenix_gdbagent.kernel.adapters import BREENIX
from breenix_gdbagent.kernel.reason import with_reason
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import History, RunRecord, shown_finding
from breenix_gdbagent.report.model import ShownFinding
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols.backtrace import Backtrace
from breenix_gdbagent.targets.saved import saved

if TYPE_CHECKING:
    from breenix_gdbagent.api.examined import Examined
    from breenix_gdbagent.api.frames import Call
    from breenix_gdbagent.evaluation.known import Known

At = Stop | Kernel
MEMORY = ("tables", "kernel", "all")


def open_snapshot(
    path: str | Path, kernel: str | Path | None = None, ram_size: str | None = None
) -> Stop:
    """The stop that a file holds: a snapshot of ours or a bare ELF core, whose RAM map `ram_size`
    is (``"512M"``). `kernel` is the ELF; that of the lab guest is found. Raises `InputError`.

    >>> import breenix_gdbagent as ba
    >>> stop = ba.open_snapshot(snapshot)
    >>> stop.reason.kind, stop.reason.vector
    ('fault', 14)
    >>> [space.name for space in ba.Kernel(stop).spaces if space.role == "process"]
    ['smoke_hello_time', 'clock_gettime_test', 'syscall_enosys']
    """
    elf = Path(kernel) if kernel is not None else None
    return with_reason(saved(Path(path), elf, ram_size)[0])


def examine(at: At) -> Examined:
    """All checks. A check that lacks what it needs is `not_checked`, which is no pass. What comes
    is an `Examination` that can be told as a report.

    >>> import breenix_gdbagent as ba
    >>> seen = ba.examine(ba.open_snapshot(snapshot))
    >>> [(finding.code.name, finding.effective_severity) for finding in seen.findings]
    [('page-fault.guard-page', 'error')]
    >>> [check.name for check in seen.checks if check.status == "failed"]
    ['faults']
    >>> seen, [finding.code.name for finding in seen]
    (<Examined: 1 finding, 1 check failed, 2 checks not made>, ['page-fault.guard-page'])
    >>> report = seen.report()
    >>> report.json["run"]["outcome"], report.html()[:15]
    ('findings', '<!doctype html>')
    """
    from breenix_gdbagent.api.examined import Examined

    kernel = _kernel(at)
    seen = checks.examine(kernel.stop, kernel)
    return Examined(seen.kernel, seen.findings, seen.checks, seen.took)


def frames(at: At, cpu: int | None = None) -> list[Call]:
    """Every call of a backtrace, innermost first, inlined ones too, as gdb numbers them; each with
    its arguments and locals. Raises as `backtrace`.

    >>> import breenix_gdbagent as ba
    >>> calls = ba.frames(ba.open_snapshot(snapshot))
    >>> calls[1].name, calls[1].args["depth"], calls[1].line > 0
    ('kernel::scenarios::probes::recurse', 65, True)
    """
    from breenix_gdbagent.api.frames import calls

    kernel = _kernel(at)
    chosen = next((c for c in kernel.stop.cpus if c.index == cpu), kernel.stop.cpu)
    return calls(kernel, chosen, backtrace(kernel, cpu))


def tell(finding: Finding, at: At | None = None) -> ShownFinding:
    """A finding as a report tells it: its summary, its evidence, what to do. The finding itself
    holds values (`facts`) and no sentence. What to do is said for the kernel of `at`, else for
    Breenix.

    >>> import breenix_gdbagent as ba
    >>> (finding,) = ba.examine(ba.open_snapshot(snapshot)).findings
    >>> told = ba.tell(finding)
    >>> finding.facts.access, told.severity
    ('write', 'error')
    >>> told.summary.startswith("the kernel")
    True
    """
    return shown_finding(finding, 0, BREENIX if at is None else _kernel(at).adapter)


def read(at: At, va: int | str, length: int) -> bytes:
    """Virtual memory under CR3 of the CPU that stopped; `va` is a number, a symbol or an
    expression. Raises `ReadError` for what is not mapped or not in the file, `InputError`.

    >>> import breenix_gdbagent as ba
    >>> ba.read(ba.open_snapshot(snapshot), "rip", 2).hex()
    '5051'
    """
    kernel = _kernel(at)
    return Evaluation.of(kernel).memory.read(address(kernel, va), length)


def value(at: At, text: str) -> Known:
    """An expression of the shell's (``help print``): numbers, text and None as Python's, a slice as
    a tuple, a struct as a `Value`, whose fields are ``value["name"]``. Raises `ReadError`,
    `InputError`.

    >>> import breenix_gdbagent as ba
    >>> stop = ba.open_snapshot(snapshot)
    >>> ba.value(stop, "process.name"), ba.value(stop, "SCHEDULER.current_thread")
    ('clock_gettime_test', 3)
    >>> ba.value(stop, "thread.kernel_stack_top") == ba.value(stop, "u64[gs_base+16]")
    True
    """
    from breenix_gdbagent.symbols.values import Value

    found = parse(text).value(Evaluation.of(_kernel(at)))
    if not isinstance(found, Value):
        return found
    try:
        return plain(found)
    except InputError:
        return found


def walk(at: At, va: int | str, root: int | None = None) -> Walk:
    """The page-table walk of an address under `root`, else CR3 of the CPU that stopped.
    Raises `ReadError` while paging is off, `InputError`.

    >>> import breenix_gdbagent as ba
    >>> walk = ba.walk(ba.open_snapshot(snapshot), "cr2")
    >>> walk.pa, walk.reason, walk.stopped_at
    (None, 'not-present', 1)
    """
    kernel = _kernel(at)
    chosen = root if root is not None else kernel.stop.cpu.root
    if chosen is None or (root is None and kernel.stop.cpu.paging is None):
        raise ReadError(kernel.stop.no_paging)
    return kernel.walk(chosen, address(kernel, va))


def backtrace(at: At, cpu: int | None = None) -> Backtrace:
    """Frames of a CPU, else of the one that stopped, through interrupts down to ring 3.
    Raises `ReadError` where there are none, `InputError` for a CPU that there is not.

    >>> import breenix_gdbagent as ba
    >>> frames = ba.backtrace(ba.open_snapshot(snapshot)).frames
    >>> frames[0].name, frames[1].vector, frames[-1].ring
    ('kernel::interrupts::page_fault_handler', 14, 3)
    """
    kernel = _kernel(at)
    if cpu is None:
        return trace.of_cpu(kernel, kernel.stop.cpu)
    for one in kernel.stop.cpus:
        if one.index == cpu:
            return trace.of_cpu(kernel, one)
    raise InputError(f"there is no CPU {cpu}")


def save(at: At, path: str | Path, memory: str = "kernel") -> Path:
    """Write the stop as a snapshot: `memory` is tables, kernel or all. Raises `OutputError`."""
    if memory not in MEMORY:
        raise InputError(f"{memory!r} is none of {', '.join(MEMORY)}")
    kernel, file = _kernel(at), Path(path)
    record, facts = RunRecord(seconds=kernel.stop.seconds), facts_of(kernel.stop.reason)
    run_report.save(file, kernel, memory, {"kind": "python"}, record, facts, History(), {})
    return file


def address(kernel: Kernel, va: int | str) -> int:
    """A virtual address: a number, a symbol or an expression."""
    return va if isinstance(va, int) else address_at(Evaluation.of(kernel), va)


def _kernel(at: At) -> Kernel:
    return at if isinstance(at, Kernel) else Kernel(at)
