"""Where the guest stands, as every tool that moves it answers."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.agents.answers import Place, Where
from breenix_gdbagent.agents.session import Session
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.backtraces import short
from breenix_gdbagent.symbols.spots import spots
from breenix_gdbagent.timeline.held import HeldRecording

FEW_LINES = 6
LONGEST_LINE = 160


def where(session: Session, *notes: str) -> Where:
    """Where what is held stands, and what its serial ports have said since the last answer."""
    held = session.held
    kernel = held.kernel
    stop = kernel.stop
    cpu, reason = stop.cpu, stop.reason
    event = held.event
    if isinstance(held, HeldRecording):
        notes = (held.moment, *notes)
    rip = cpu.at
    here = Place() if rip is None else place(kernel, rip)
    error_code, cr2, interrupted = _exception(kernel)
    return Where(
        state="saved" if not held.runs else "ended" if reason.kind == "exit" else "stopped",
        kind=reason.kind,
        seconds=round(stop.seconds, 3),
        text=reason.text[:LONGEST_LINE],
        place=here.place or None,
        symbol=here.symbol,
        at=here.at,
        process=_process(kernel),
        thread=kernel.thread_name(cpu) if stop.image is not None else None,
        vector=reason.vector,
        points=() if event is None else tuple(p.number for p in event.points),
        notes=(*notes, *_notes(session)),
        serial=_news(session),
        error_code=error_code,
        cr2=cr2,
        interrupted=interrupted,
    )


def place(kernel: Kernel, va: int) -> Place:
    """A code address with its symbol and line."""
    return Place(hex64(va), kernel.symbol(va), at(kernel, va))


def at(kernel: Kernel, va: int) -> str | None:
    """``file.rs:12`` of the innermost call at an address, None where no line is known."""
    chain = spots(kernel.stop.image, va)
    if not chain or chain[0].file is None or chain[0].line is None:
        return None
    return f"{short(chain[0].file)}:{chain[0].line}"


def _exception(kernel: Kernel) -> tuple[str | None, str | None, Place | None]:
    """Where the CPU is at an exception's handler: error code, CR2, the instruction cut in at."""
    try:
        event = kernel.event
    except ReadError:
        return None, None, None
    if event is None:
        return None, None, None
    cr2 = kernel.stop.cpu.get("cr2") if event.vector == 14 else None
    return (
        None if event.error_code is None else hex64(event.error_code),
        None if cr2 is None else hex64(cr2),
        place(kernel, event.rip),
    )


def _process(kernel: Kernel) -> str | None:
    """Whose address space the CPU is in, as far as names are known without a search of RAM."""
    cpu = kernel.stop.cpu
    if cpu.paging is None or cpu.root is None:
        return None
    return next((s.label for s in kernel.named_spaces if s.root == cpu.root), None)


def _notes(session: Session) -> tuple[str, ...]:
    notes = session.held.notes
    more = len(notes) - FEW_LINES
    shown = tuple(note[:LONGEST_LINE] for note in notes[:FEW_LINES])
    return (*shown, f"and {more} more") if more > 0 else shown


def _news(session: Session) -> tuple[str, ...]:
    """The last lines since the last answer."""
    lines = session.held.serial.lines()
    fresh = lines[session.told_lines :]
    session.told_lines = len(lines)
    return tuple(line[:LONGEST_LINE] for line in fresh[-FEW_LINES:] if line.strip())
