"""The shell's commands that let the guest run: ``continue``, ``step``, ``until``, ``reset``, ..."""

from __future__ import annotations

import re

from breenix_gdbagent.commands.shell.line import Line, arguments, count_of
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.patterns import compiled

WAIT_SECONDS = 60.0
TRACED = 1000  # instructions


def do_continue(session: Session, line: Line) -> int:
    text, seconds = _for(line.text)
    patterns = [] if not text or text.isdecimal() else [_regex(_unquoted(text))]
    if text.isdecimal():
        _pass(session, int(text))
    elif patterns:
        session.debugger.vm.console.pass_over()
    return session.run(
        lambda: session.debugger.go(patterns, seconds), bounded=seconds is not None
    )


def _for(text: str) -> tuple[str, float | None]:
    """(the rest, seconds) of ``--for S`` at either end of a line. Raises `InputError`."""
    found = re.search(r"(?:^|\s)--for(?:\s+|=)(\S+)", text)
    if found is None:
        return text, None
    seconds = _seconds(found[1])
    if seconds is None:
        raise InputError(f"--for {found[1]}: no number of seconds")
    return f"{text[: found.start()]} {text[found.end() :]}".strip(), seconds


def _pass(session: Session, hits: int) -> None:
    """As in gdb: the guest stops at the `hits`-th hit from now of the point that it stands at."""
    points = session.event.points if session.event is not None else ()
    if not points or hits < 1:
        raise InputError(
            "continue NUMBER passes hits of the point that the guest stands at",
            "it stands at none" if not points else "",
            "continue alone; serial text of digits is written continue [0-9]...",
        )
    for point in points:
        point.ignore = hits - 1


def do_wait(session: Session, line: Line) -> int:
    """Exit code 1 when the text does not come in time: a script wants to know."""
    pattern, _, last = line.text.rpartition(" ")
    seconds = _seconds(last) if pattern else None
    if seconds is None:
        pattern, seconds = line.text, WAIT_SECONDS
    if not pattern:
        raise InputError("wait for what?", fix="wait REGEX [SECONDS]")
    pattern = _regex(_unquoted(pattern))
    code = session.run(lambda: session.debugger.go([pattern], seconds), bounded=True)
    if session.background or session.event is None:
        return code
    return int(session.event.reason.kind != "marker")


def do_step(session: Session, line: Line) -> int:
    return _repeat(session, line, over=False)


def do_next(session: Session, line: Line) -> int:
    return _repeat(session, line, over=True)


def do_stepi(session: Session, line: Line) -> int:
    count = count_of(arguments(line, ("count", "?")).count, "steps")
    _stands(session)
    stepper = session.stepper
    return session.run(lambda: stepper.instruction(count))


def do_nexti(session: Session, line: Line) -> int:
    count = count_of(arguments(line, ("count", "?")).count, "steps")
    _stands(session)
    stepper = session.stepper
    return session.run(lambda: stepper.instruction(count, over=True))


def do_finish(session: Session, line: Line) -> int:
    arguments(line)
    kernel = _stands(session)
    stepper = session.stepper
    return session.run(lambda: stepper.finish(kernel))


def do_until(session: Session, line: Line) -> int:
    from breenix_gdbagent.commands.shell.points import in_file_at_hand
    from breenix_gdbagent.evaluation.places import find_place

    kernel = _stands(session)
    stepper = session.stepper
    if not line.text:
        return session.run(stepper.until)
    image = kernel.stop.image
    text = in_file_at_hand(session, line.text)
    place = find_place(text, image.image if image is not None else None, session.evaluation)
    addresses = place.at(image.bias if image is not None else 0)
    return session.run(lambda: stepper.to(addresses, kernel))


def do_trace(session: Session, line: Line) -> int:
    """``trace FROM..TO``: at the next hit of FROM, instruction by instruction up to TO."""
    from breenix_gdbagent.debugger.tracing import Tracing
    from breenix_gdbagent.evaluation.places import find_place

    text, limit = line.text, TRACED
    if found := re.search(r"\s*--limit\s+(\d+)", text):
        limit, text = int(found[1]), text[: found.start()] + text[found.end() :]
    first, dots, last = text.partition("..")
    if not dots or not first.strip() or not last.strip():
        raise InputError("trace from where to where?", fix="trace FROM..TO [--limit N]")
    kernel = _stands(session)
    image = session.debugger.loaded_or_linked
    elf = None if image is None else image.image
    here = None if session.known is None else session.evaluation
    begin, end = (find_place(one.strip(), elf, here) for one in (first, last))
    chosen = session.cpu if session.cpu is not None else kernel.stop.reason.cpu
    tracing = Tracing(session.debugger, chosen, begin, end, limit, session.screen.write)
    return session.run(tracing.run)


def do_interrupt(session: Session, line: Line) -> int:
    if line.text:
        from breenix_gdbagent.commands.shell.writing import inject

        return inject(session, line)
    if session.arbiter is None:
        session.debugger  # noqa: B018  (raises: a snapshot does not run)
    elif session.lost:
        debugger = session.debugger
        return session.run(lambda: debugger.stopped(debugger.vm.interrupt()))
    elif not session.arbiter.interrupt():
        print("the guest stands still already")
        return 1
    return 0


def do_reset(session: Session, line: Line) -> int:
    arguments(line)
    with session.while_stopped():
        session.debugger.reset()
        session.forget()
    print("the machine is reset and stands before its first instruction")
    return 0


def _repeat(session: Session, line: Line, *, over: bool) -> int:
    count = count_of(arguments(line, ("count", "?")).count, "steps")
    _stands(session)
    stepper = session.stepper

    def job() -> StopEvent:
        event = stepper.line(over=over)
        for _ in range(count - 1):
            if event.reason.kind != "step":
                break
            event = stepper.line(over=over)
        return event

    return session.run(job)


def _stands(session: Session) -> Kernel:
    """The stop at hand of a guest that can run on; made when nothing has run yet."""
    session.debugger  # noqa: B018  (raises: a snapshot does not run)
    with session.while_stopped():
        return session.view


def _unquoted(text: str) -> str:
    """Without the quotes around the whole, as one would write it in a shell."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _regex(pattern: str) -> str:
    compiled(pattern)
    return pattern


def _seconds(text: str) -> float | None:
    number = parse_number(text) if text.isdigit() else None
    if number is not None:
        return float(number)
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else None
