"""Names, types and frames of the stop at hand: the commands of that name, and expressions."""

from __future__ import annotations

from breenix_gdbagent.commands import Parser, names
from breenix_gdbagent.commands.shell.line import Line
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.commands.shell.sources import text_of
from breenix_gdbagent.errors import InputError

AROUND = 8


def _answer(session: Session, line: Line) -> int:
    """As the command line has it, on the stop at hand."""
    parser = Parser(line.command.name)
    names.add_arguments(line.command.name, parser)
    options = parser.parse_args(line.words)
    with session.standing():
        return names.answer(line.command.name, session.view, options)


do_bt = do_ps = do_threads = do_heap = do_frames = do_symbol = do_type = do_disassemble = _answer


def do_print(session: Session, line: Line) -> int:
    """An expression; a whole value of the kernel on as many lines as it takes."""
    from breenix_gdbagent.control.expressions import parse
    from breenix_gdbagent.control.scene import Scene
    from breenix_gdbagent.symbols.tree_text import render
    from breenix_gdbagent.symbols.values import Value

    if not line.text:
        raise InputError("print what?", fix="see: help print")
    with session.standing():
        expression = parse(line.text)
        scene = Scene.of(session.view)
        value = expression.value(scene)
        if isinstance(value, Value):
            print("\n".join(render(value, width=session.screen.width)))
        else:
            print(expression.shown(scene))
    return 0


def do_list(session: Session, line: Line) -> int:
    """Source lines of a location, or of where the CPU stands."""
    from breenix_gdbagent.control.places import find_place
    from breenix_gdbagent.control.source import Source
    from breenix_gdbagent.errors import ReadError

    with session.standing():
        kernel = session.view
        image = kernel.stop.image if line.text == "" else names.anywhere(kernel)
        if image is None:
            image = kernel.stop.loaded
        if line.text:
            place = find_place(line.text, image.image)
            va = place.at(image.bias)[0]
            file, number = Source(image).seat(va, 0).line
        else:
            va = kernel.stop.cpu.rip
            seat = session.stepper.seat if session.arbiter is not None else None
            known = seat is not None and seat.pc == va
            file, number = seat.line if known and seat is not None else Source(image).seat(va).line
        if file is None or number is None:
            raise ReadError(f"no source line is known for {names.called(image, va)}")
        print(f"{names.called(image, va)} is at {file}:{number}")
        text = text_of(session.sources, file)
        if not text:
            print("its source is not at hand: source DIR says where it lies")
        for n in range(max(number - AROUND, 1), min(number + AROUND, len(text)) + 1):
            print(f"{'>' if n == number else ' '}{n:5} {text[n - 1]}")
    return 0
