"""What is shown at every stop: why, who, registers, source, code, frames, stack, new findings."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.arch.cpu import Arch, Cpu
from breenix_gdbagent.commands.shell.registers import registers
from breenix_gdbagent.commands.shell.screen import clipped, columns_of
from breenix_gdbagent.commands.shell.session import Session, space_label
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.ink import Ink

if TYPE_CHECKING:
    from breenix_gdbagent.checks.finding import Finding
    from breenix_gdbagent.symbols.backtrace import Backtrace

WIDE = 150  # from here on two panels stand side by side
BEFORE, BEHIND = 2, 5
SLOW = 0.03  # seconds of an examination from which on steps go without one
FINDINGS = 4
SHORT = 60  # columns of one argument or local


class Detail(NamedTuple):
    """How much of each part is shown: frames, words of the stack, instructions before RIP and from
    it on, source lines on either side."""

    frames: int
    words: int
    before: int
    behind: int
    around: int


DETAILS = (
    Detail(7, 6, BEFORE, BEHIND, 3),
    Detail(5, 4, 1, 4, 2),
    Detail(3, 3, 1, 3, 1),
    Detail(2, 1, 0, 2, 0),
)
"""The first that the terminal is high enough for is shown, else the last."""


def context(session: Session, event: StopEvent | None, width: int) -> str:
    """The view of the chosen CPU; every line fits `width`, all of them the terminal if they can."""
    ink = session.screen.ink
    kernel = session.view
    cpu = kernel.stop.cpu
    head = [rule(ink, ink("head", why(session, event, kernel)), width), who(kernel)]
    if cpu.at is None:
        return "\n".join(clipped(line, width) for line in head)
    head += registers(session, cpu, width)
    trace = trace_of(kernel)
    others = list(_others(kernel, ink))
    room = session.screen.room
    for detail in DETAILS:
        panels = _panels(session, kernel, trace, width, detail)
        if room is None or len(head) + len(panels) + len(others) <= room:
            break
    return "\n".join(clipped(line, width) for line in (*head, *panels, *others))


def _panels(
    session: Session, kernel: Kernel, trace: Backtrace | ReadError, width: int, detail: Detail
) -> list[str]:
    """Source and code, frames and stack: side by side where the terminal is wide."""
    ink = session.screen.ink
    at, how = _at(kernel)
    left = [
        *textwrap.wrap(how, width if width < WIDE else width // 2 - 2, subsequent_indent="  "),
        *_source(session, kernel, ink, at, detail.around),
        *_variables(session, ink, at),
        *code(kernel, ink, at, detail.behind, detail.before),
    ]
    right = [
        *_frames(kernel, trace, ink, detail.frames), *stack(kernel, ink, detail.words, trace)
    ]  # fmt: skip
    return _beside(left, right, width) if width >= WIDE else [*left, *right]


def rule(ink: Ink, text: str, width: int) -> str:
    """A line that begins a section."""
    text = clipped(text, width - 8)
    return f"{ink('dim', '──')} {text} {ink('dim', '─' * max(2, width - columns_of(text) - 4))}"


# Why and who ----------------------------------------------------------------------------------


def who(kernel: Kernel) -> str:
    """CPU, ring, process, thread, running time."""
    cpu = kernel.stop.cpu
    parts = []
    if cpu.at is not None:
        parts.append(f"CPU {cpu.index} {cpu.privilege}{' halted' if cpu.halted else ''}")
        space = space_label(kernel)
        if space:
            parts.append(space)
        thread = kernel.thread_of(cpu)
        if thread is not None:
            parts.append(f"thread {thread.id} {thread.name}")
    if kernel.stop.seconds:  # a bare core does not know
        parts.append(f"{kernel.stop.seconds:.3f} s")
    return ", ".join(parts)


def why(session: Session, event: StopEvent | None, kernel: Kernel) -> str:
    """The reason in words."""
    reason = kernel.stop.reason
    points = event.points if event is not None and reason.cpu == event.reason.cpu else ()
    if points:
        named = ", ".join(f"{p.number}: {p.describe()}" for p in points)
        hits = f", hit {points[0].hits}" if points[0].hits > 1 else ""
        told = reason.vector is None or any(p.place.text.startswith("exception") for p in points)
        vector = "" if told else f" ({vector_name(reason.vector, kernel.arch)})"
        several = f", CPU {reason.cpu}" if len(kernel.stop.cpus) > 1 else ""
        return f"{named}{vector}{hits}{several}"
    if reason.kind == "fault":
        vector = vector_name(reason.vector, kernel.arch)
        what = reason.text if reason.vector is None else f"exception {vector}"
        return f"{what}, caught before its handler runs"
    if reason.kind == "shutdown":
        also = ", or was switched off" if reason.text else ""
        return f"shutdown: the guest triple-faulted, or asked for a reset{also}"
    if reason.kind == "exit":
        if reason.exit_status is None:
            return f"exit: {reason.text or 'QEMU has ended'}"
        return f"exit: QEMU has ended with status {reason.exit_status}"
    if reason.kind == "panic":
        return f"panic: {kernel.panic_message or 'the kernel panics'}"
    if reason.kind == "marker":
        return f"serial text: {reason.text}"
    if reason.kind == "step" and " " not in reason.text:
        return reason.text or "step"
    if reason.kind == "breakpoint":
        return f"breakpoint of gdb's at {reason.text}"
    return f"{reason.kind}{': ' + reason.text if reason.text else ''}"


def vector_name(vector: int | None, arch: Arch) -> str:
    """``14 (#PF)``."""
    if vector is None:
        return "?"
    name = arch.vectors.get(vector)
    return f"{vector} ({name})" if name else str(vector)


def notes(session: Session, event: StopEvent) -> str:
    """What is to be said below the view: values that changed, and findings not told before."""
    ink = session.screen.ink
    width = max(session.screen.width, 40)
    lines = [ink("note", line) for note in event.notes for line in textwrap.wrap(note, width)]
    if event.returned is not None:
        lines.append(f"returned rax = {session.kernel.describe(event.returned)}")
    lines += _findings(session, event, width)
    return "\n".join(lines)


def _findings(session: Session, event: StopEvent, width: int) -> Iterator[str]:
    """Findings of this stop that no stop before had. A step does without where they take long."""
    kernel = session.kernel
    if kernel.stop.cpu.paging is None and kernel.stop.reason.kind != "shutdown":
        return
    if event.reason.kind == "step" and session.examine_seconds > SLOW:
        return
    from breenix_gdbagent.report.sentences import summary

    begun = time.perf_counter()
    found = session.examine().findings
    session.examine_seconds = time.perf_counter() - begun
    worth_saying = [f for f in found if f.effective_severity != "info"]
    fresh = [f for f in worth_saying if f.fingerprint not in session.reported]
    follow = [f for f in fresh if f.code.kind == "state" and _follows(f, worth_saying)]
    fresh = [f for f in fresh if not any(f is one for one in follow)]
    session.reported.update(f.fingerprint for f in found)
    ink = session.screen.ink
    for finding in fresh[:FINDINGS]:
        head = f"{finding.effective_severity.upper()} {finding.code.name}"
        text = textwrap.wrap(f"{head}: {summary(finding)}", width, subsequent_indent="  ")
        yield text[0].replace(head, ink(finding.effective_severity, head), 1)
        yield from text[1:]
    if follow:
        yield ink("dim", f"{counted(len(follow), 'consequence')} of that: audit -v")
    if len(fresh) > FINDINGS:
        yield f"and {counted(len(fresh) - FINDINGS, 'more finding')}: audit"
    elif any(f.effective_severity == "error" for f in fresh):
        faulted = kernel.event is not None or any(f.code.kind == "event" for f in fresh)
        yield ink("dim", "fault explains it" if faulted else "audit explains")


def _follows(finding: Finding, told: Sequence[Finding]) -> bool:
    """Whether it rests on another one that is told as well."""
    causes = {base.fingerprint for base in finding.because[:1]}
    return any(f.fingerprint in causes and f is not finding for f in told)


def _at(kernel: Kernel) -> tuple[int, str]:
    """(the address whose source and code are shown, what is said of it): of an exception of the
    kernel's own the instruction that it interrupted."""
    rip = kernel.stop.cpu.rip
    try:
        event = kernel.event
    except ReadError:
        return rip, ""
    if event is None:
        return rip, ""
    code = "" if event.error_code is None else f", error code {hex64(event.error_code)}"
    cr2 = "" if event.cr2 is None else f", CR2 {hex64(event.cr2)}"
    line = f"interrupted ring {event.cpl} at {kernel.describe(event.rip)}{code}{cr2}"
    return (rip if event.cpl else int(event.rip)), line


# Source and code ------------------------------------------------------------------------------


def _source(session: Session, kernel: Kernel, ink: Ink, at: int, around: int) -> Iterator[str]:
    """The line of an address, with its neighbours where the source is at hand."""
    from breenix_gdbagent.evaluation.source import Source

    image = kernel.stop.image
    if image is None or not image.holds(at):
        return
    position = session.stepper.position if session.arbiter is not None else None
    if position is None or position.pc != at:
        position = Source(image).position(at)
    file, line = position.line
    if file is None or line is None:
        return
    hidden = ", at a call that is inlined" if position.hidden else ""
    yield ink("head", f"{short_path(file)}:{line}") + f" in {position.function}{hidden}"
    for number, text in source_lines(session, file, line, around):
        marked = number == line
        yield ink("head" if marked else "dim", f"{'>' if marked else ' '}{number:5} {text}")


def _variables(session: Session, ink: Ink, at: int) -> Iterator[str]:
    """The arguments and locals where the CPU stands, in a line each. Not while the kernel's types
    are still being read: the view does not wait for them."""
    if not session.types_read or at != session.view.stop.cpu.at:
        return
    from breenix_gdbagent.views.variables import SHOWN, read_variable

    for scope in session.evaluation.scopes[:1]:
        for title, wanted in (("arguments", True), ("locals", False)):
            found = [v for v in scope.variables if v.argument == wanted]
            told = (f"{v.name} = {read_variable(v, SHOWN).brief(SHORT)}" for v in found)
            if found:
                yield f"{ink('dim', f'{title}:')} {', '.join(told)}"


def source_lines(session: Session, file: str, line: int, around: int) -> list[tuple[int, str]]:
    """Lines of a source file around one, [] where the file is not at hand."""
    from breenix_gdbagent.views.sources import text_of

    text = text_of(session.sources, file)
    first = max(line - around, 1)
    return [(n, text[n - 1]) for n in range(first, min(line + around, len(text)) + 1)]


def short_path(file: str) -> str:
    """A path as people name it: the standard library's without its hash."""
    if file.startswith("/rustc/"):
        return file.split("/", 3)[-1]
    return file


def code(
    kernel: Kernel, ink: Ink, at: int, behind: int = BEHIND, before: int = BEFORE
) -> Iterator[str]:
    """Instructions around an address; before it only where a symbol says where code begins."""
    from breenix_gdbagent.views.code_around import code_around

    found = code_around(kernel, kernel.stop.cpu, at, before, behind)
    if found.lacking:
        yield ink("dim" if kernel.stop.cpu.paging is None else "bad", found.lacking)
    for one in found.instructions:
        here = one.address == at
        name = kernel.symbol(one.address)
        if name is not None and (one is found.instructions[0] or "+" not in name):
            yield ink("dim", f"{name}:")
        text = f"{'=>' if here else '  '} {hex64(one.address)}  {_named(kernel, one.text)}"
        yield ink("head", text) if here else text


def _named(kernel: Kernel, text: str) -> str:
    """A call's or jump's target with its symbol."""
    word, _, operand = text.partition(" ")
    if word.startswith(("call", "j")) and operand.startswith("0x"):
        name = kernel.symbol(int(operand, 16))
        return f"{text} <{name}>" if name else text
    return text


# Frames and stack -----------------------------------------------------------------------------


def trace_of(kernel: Kernel) -> Backtrace | ReadError:
    """The frames of the stop's CPU, or why there are none."""
    from breenix_gdbagent.kernel import trace

    try:
        return trace.of_cpu(kernel, kernel.stop.cpu)
    except ReadError as error:
        return error


def _frames(kernel: Kernel, found: Backtrace | ReadError, ink: Ink, most: int) -> Iterator[str]:
    """The innermost frames, a recursion folded."""
    if isinstance(found, ReadError):
        yield ink("dim", f"frames: {found.what}")
        return
    from breenix_gdbagent.symbols.spots import spots

    shown = 0
    for number in found.folded():
        if isinstance(number, tuple):
            frames = counted(number[0], "frame")
            rounds = counted(number[1], "more round")
            yield ink("dim", f"   ... {rounds} of the recursion, {frames}")
            continue
        if shown == most:
            yield ink("dim", f"   ... {counted(len(found.frames) - number, 'more frame')}: bt")
            return
        shown += 1
        frame = found.frames[number]
        if frame.vector is not None:
            yield ink("dim", f"   --- {vector_name(frame.vector, kernel.arch)} interrupted ---")
        chain = spots(kernel.stop.image, frame.lookup)
        at = next((f" {_end(s.file)}:{s.line}" for s in chain[-1:] if s.file and s.line), "")
        name = f"ring {frame.ring}" if frame.ring else frame.name
        yield f"#{number:<2} {hex64(frame.pc)} {name}{ink('dim', at)}"


def _end(file: str) -> str:
    """The last two components of a path."""
    return "/".join(file.rsplit("/", 2)[-2:])


def stack(
    kernel: Kernel, ink: Ink, count: int, found: Backtrace | ReadError | None = None
) -> Iterator[str]:
    """Words from RSP on, with what they name; ``<-`` marks return addresses of the frames."""
    cpu = kernel.stop.cpu
    rsp, root = cpu.stack, cpu.root
    if rsp is None or root is None or cpu.paging is None:
        return
    where = kernel.stack_at(rsp)
    yield ink("dim", f"stack at {hex64(rsp)}" + (f", {where.name}" if where is not None else ""))
    frames = () if found is None or isinstance(found, ReadError) else found.frames
    returns = {frame.sp - 8: number for number, frame in enumerate(frames) if not frame.exact}
    read = kernel.memory_of(root).read
    for at in range(rsp, rsp + 8 * count, 8):
        try:
            word = int.from_bytes(read(at, 8), "little")
        except ReadError as error:
            mapped = kernel.walk(root, at).mapped
            why = error.what if mapped else "not mapped: the end of the stack"
            yield f"  +{at - rsp:<3x} {hex64(at)}  {ink('bad', why)}"
            return
        name = kernel.symbol(word)
        mark = f"  <- return to #{returns[at]}" if at in returns else ""
        yield f"  +{at - rsp:<3x} {hex64(word)}{f' <{name}>' if name else ''}{ink('dim', mark)}"


def _others(kernel: Kernel, ink: Ink) -> Iterator[str]:
    """Where the other CPUs are."""
    for cpu in kernel.stop.cpus:
        if cpu.index != kernel.stop.cpu.index and cpu.at is not None:
            yield ink("dim", cpu_line(kernel, cpu))


def cpu_line(kernel: Kernel, cpu: Cpu) -> str:
    """One CPU in one line."""
    halted = ", halted" if cpu.halted else ""
    thread = kernel.thread_of(cpu)
    named = f", thread {thread.id} {thread.name}" if thread is not None else ""
    return f"CPU {cpu.index} {cpu.privilege}{halted} at {kernel.describe(cpu.rip)}{named}"


def _beside(left: Sequence[str], right: Sequence[str], width: int) -> list[str]:
    """Two panels, each half as wide as the screen."""
    half = width // 2
    lines = []
    for number in range(max(len(left), len(right))):
        a = clipped(left[number], half - 2) if number < len(left) else ""
        b = right[number] if number < len(right) else ""
        lines.append(f"{a}{' ' * (half - columns_of(a))}{b}".rstrip())
    return lines
