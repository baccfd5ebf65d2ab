"""Frames at the prompt: ``frame``, ``up``, ``down``, ``args``, ``locals``.

A frame has the number that ``bt`` gives it; a call that was inlined in it is ``N.1``, ``N.2``, ...
from the innermost (``N``) out to the function itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands.shell.context import SHORT, short_path, source_lines
from breenix_gdbagent.commands.shell.line import Line, arguments, count_of
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.evaluation.source import Source
from breenix_gdbagent.views.variables import SHOWN, read_variable

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.backtrace import Frame
    from breenix_gdbagent.symbols.variables import Scope

_NUMBER = re.compile(r"(\d+)(?:\.(\d+))?\Z")


def do_frame(session: Session, line: Line) -> int:
    options = arguments(line, ("number", "?"))
    with session.while_stopped():
        if options.number is not None:
            found = _NUMBER.match(options.number)
            if found is None:
                raise InputError(f"{options.number!r} is no number of a frame", fix="list them: bt")
            _choose(session, int(found[1]), int(found[2] or 0))
        print("\n".join(frame_told(session)))
    return 0


def do_up(session: Session, line: Line) -> int:
    return _move(session, line, 1)


def do_down(session: Session, line: Line) -> int:
    return _move(session, line, -1)


def do_args(session: Session, line: Line) -> int:
    return _variables(session, line, "arguments")


def do_locals(session: Session, line: Line) -> int:
    return _variables(session, line, "locals")


def frame_info(session: Session) -> int:
    """``info frame``: where the frame is, its caller, its registers."""
    frames = session.backtrace.frames
    number = session.frame[0] if session.frame is not None else 0
    frame = frames[number]
    print("\n".join(frame_told(session)))
    print(f"  stack pointer {hex64(frame.sp)}; found by: {frame.how}")
    if number + 1 < len(frames):
        caller = frames[number + 1]
        how = "interrupted" if caller.vector is not None else "called"
        print(f"  {how} by #{number + 1} at {session.view.describe(caller.pc)}")
    else:
        print(f"  no caller: {session.backtrace.end}")
    known = ", ".join(f"{name} {hex64(value)}" for name, value in sorted(frame.registers.items()))
    print(f"  registers known: {known or 'none but rip and rsp'}")
    return 0


def _choose(session: Session, number: int, depth: int = 0) -> None:
    frames = session.backtrace.frames
    if number >= len(frames):
        raise InputError(f"there is no frame {number}", fix=f"the last is #{len(frames) - 1}: bt")
    inside = _inlined(session, frames[number])
    if depth > inside:
        raise InputError(
            f"there is no frame {number}.{depth}",
            f"{inside} calls are inlined in frame {number}" if inside else "",
            f"frame {number}",
        )
    session.frame = number, depth


def _inlined(session: Session, frame: Frame) -> int:
    """How many calls are inlined at a frame."""
    from breenix_gdbagent.symbols.spots import spots

    return max(len(spots(session.view.stop.image, frame.lookup)) - 1, 0)


def _move(session: Session, line: Line, step: int) -> int:
    """One frame further out or in, inlined calls counted as gdb counts them."""
    count = count_of(arguments(line, ("count", "?")).count, "frames")
    with session.while_stopped():
        frames = session.backtrace.frames
        number, depth = session.frame or (0, session.evaluation.depth)
        for _ in range(count):
            if step > 0 and depth < _inlined(session, frames[number]):
                depth += 1
            elif step < 0 and depth > 0:
                depth -= 1
            elif not 0 <= number + step < len(frames):
                end = session.backtrace.end if step > 0 else "this is the innermost"
                raise InputError(f"there is no frame further {'out' if step > 0 else 'in'}", end)
            else:
                number += step
                depth = 0 if step > 0 else _inlined(session, frames[number])
        session.frame = number, depth
        print("\n".join(frame_told(session)))
    return 0


def frame_told(session: Session) -> list[str]:
    """The chosen frame in gdb's way: number, address, function with its arguments, source line."""
    from breenix_gdbagent.symbols.spots import spots

    evaluation = session.evaluation
    number, depth = session.frame or (0, evaluation.depth)
    frame = session.backtrace.frames[number]
    image = session.view.stop.image
    chain = spots(image, frame.lookup)
    name = chain[depth].function if depth < len(chain) else frame.name
    if frame.ring:
        name = f"ring {frame.ring}"
    given = f"({arguments_told(evaluation.scopes[0])})" if evaluation.scopes else ""
    at, source = "", []
    if image is not None and depth < len(chain):
        spot = chain[depth]
        file, number_of = spot.file, spot.line
        if session.frame is None:
            position = Source(image).position(frame.pc, evaluation.depth)
            file, number_of = position.line
        if file and number_of:
            at = f" at {short_path(file)}:{number_of}"
            source = _source_line(session, file, number_of)
    inner = f".{depth}" if depth else ""
    inlined = ", inlined" if depth < len(chain) - 1 else ""
    return [f"#{number}{inner}  {hex64(frame.pc)} in {name}{given}{at}{inlined}", *source]


def _source_line(session: Session, file: str, line: int) -> list[str]:
    return [f"{number}\t{text}" for number, text in source_lines(session, file, line, 0)]


def arguments_told(scope: Scope) -> str:
    """``a=1, b=<optimised out>``: the arguments in one line."""
    return ", ".join(
        f"{v.name}={read_variable(v, SHOWN).brief(SHORT)}" for v in scope.variables if v.argument
    )


def _variables(session: Session, line: Line, which: str) -> int:
    arguments(line)
    with session.while_stopped():
        return variables_told(session, which)


def variables_told(session: Session, which: str) -> int:
    """``args`` and ``locals`` of the chosen frame, one a line or as many as it takes."""
    from breenix_gdbagent.symbols.tree_text import render

    scopes = session.evaluation.scopes
    if not scopes:
        print(f"no {which} are known here{_why(session)}")
        return 1
    found = [v for v in scopes[0].variables if v.argument == (which == "arguments")]
    if not found:
        print(f"{scopes[0].function} has no {which}{'' if which == 'arguments' else ' here'}")
    for variable in found:
        lines = [read_variable(variable).told]
        if variable.value is not None and len(lines[0]) + len(variable.name) > session.screen.width:
            lines = render(variable.value, width=session.screen.width)
        print(f"{variable.name} = " + "\n".join(lines))
    return 0


def _why(session: Session) -> str:
    image = session.view.stop.image
    if image is None or not image.image.has_dwarf:
        return ": the kernel's ELF has no debug information (DWARF)"
    frame = session.evaluation.frame
    at = frame.pc if frame is not None else session.view.stop.cpu.rip
    return f": debug information describes no function at {session.view.describe(at)}"
