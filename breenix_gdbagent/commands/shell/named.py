"""The shell's commands that need names and types: ``bt``, ``ps``, ``print``, ``list``, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breenix_gdbagent.commands import names
from breenix_gdbagent.commands.shell.line import Line, parser_of
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.views.sources import text_of

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.known import Known
    from breenix_gdbagent.symbols import LoadedImage

AROUND = 8


def _answer(session: Session, line: Line) -> int:
    """As the command line has it, on the stop at hand."""
    parser = parser_of(line)
    names.add_arguments(line.command.name, parser)
    options = parser.parse_args(line.words)
    with session.while_stopped():
        return names.answer(line.command.name, session.view, options)


do_bt = do_ps = do_threads = do_heap = do_frames = do_symbol = do_type = do_disassemble = _answer


def do_print(session: Session, line: Line) -> int:
    """An expression; a whole value of the kernel on as many lines as it takes."""
    from breenix_gdbagent.commands.printing import printed, split_format

    letter, text = split_format(f"/{line.form} {line.text}" if line.form else line.text)
    if not text:
        raise InputError("print what?", fix="see: help print")
    with session.while_stopped():
        found = printed(session.evaluation, text, session.screen.width, letter)
        print("\n".join(found.lines))
        keep(session, found.value)
    return 0


def keep(session: Session, value: Known) -> None:
    """As gdb's history of values: ``$`` is the last, ``$$`` the one before, ``$1`` the first."""
    kept = session.kept
    number = sum(1 for name in kept if name[1:].isdigit()) + 1
    kept[f"${number}"] = value
    kept["$$"], kept["$"] = kept.get("$", value), value


def do_list(session: Session, line: Line) -> int:
    """Source lines of a location, of a line of the file at hand, or of where the CPU stands."""
    from breenix_gdbagent.errors import ReadError
    from breenix_gdbagent.evaluation.places import find_place
    from breenix_gdbagent.evaluation.source import Source

    with session.while_stopped():
        kernel = session.view
        if line.text.isdecimal():
            here, wanted = file_at_hand(session, line.text), int(line.text)
            return _lines_around(session, here, wanted, f"{here}:{wanted}")
        image = kernel.stop.image if line.text == "" else names.anywhere(kernel)
        if image is None:
            image = kernel.stop.loaded
        if line.text:
            place = find_place(line.text, image.image, session.evaluation)
            va = place.at(image.bias)[0]
            file, number = Source(image).position(va, 0).line
        else:
            va = session.evaluation.register(session.view.arch.names.pc)
            file, number = where_chosen(session, image)
        if file is None or number is None:
            raise ReadError(f"no source line is known for {names.called(image, va)}")
        _lines_around(session, file, number, f"{names.called(image, va)} is at {file}:{number}")
    return 0


def where_chosen(session: Session, image: LoadedImage) -> tuple[str | None, int | None]:
    """(file, line) of the chosen frame, or of where the CPU stands."""
    from breenix_gdbagent.evaluation.source import Source
    from breenix_gdbagent.symbols.spots import spots

    if session.frame is not None:
        number, depth = session.frame
        chain = spots(image, session.backtrace.frames[number].lookup)
        return (chain[depth].file, chain[depth].line) if depth < len(chain) else (None, None)
    va = session.view.stop.cpu.rip
    position = session.stepper.position if session.arbiter is not None else None
    if position is None or position.pc != va:
        position = Source(image).position(va)
    return position.line


def _lines_around(session: Session, file: str, number: int, head: str) -> int:
    """Print a source line with those around it; 1 where the file has no such line."""
    text = text_of(session.sources, file)
    if text and not 0 < number <= len(text):
        print(f"{file} has no line {number}, it ends at {len(text)}")
        return 1
    print(head)
    if not text:
        print("its source is not at hand: source DIR says where it lies")
    for n in range(max(number - AROUND, 1), min(number + AROUND, len(text)) + 1):
        print(f"{'>' if n == number else ' '}{n:5} {text[n - 1]}")
    return 0


def file_at_hand(session: Session, number: str) -> str:
    """The source file where the CPU stands, in which a bare line number is meant. Raises
    `InputError`."""
    kernel = session.view
    image, rip = kernel.stop.image, kernel.stop.cpu.at
    file = None
    if image is not None and rip is not None:
        file = where_chosen(session, image)[0]
    if file is None:
        raise InputError(
            f"{number} is a line number, and the CPU stands in no source file that is known",
            fix=f"name the file: FILE.rs:{number}; an address is written as {int(number):#x}",
        )
    return file
