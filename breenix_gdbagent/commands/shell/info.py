"""``info``: what gdb's users ask for by that word, answered by the commands here and by the ELF."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands.shell.line import Line
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.patterns import compiled

if TYPE_CHECKING:
    from breenix_gdbagent.symbols import Image

Answer = Callable[[Session, str], int]


def do_info(session: Session, line: Line) -> int:
    word, _, rest = line.text.partition(" ")
    if not word:
        print("\n".join(f"info {name:<12} {about}" for name, (about, _) in TOPICS.items()))
        return 0
    name = ALSO.get(word, word)
    found = [name] if name in TOPICS else [t for t in TOPICS if t.startswith(name)]
    if len(found) != 1:
        near = ", ".join(found) if found else "info alone lists what there is"
        raise InputError(f"info {word}: no such thing", fix=near)
    return TOPICS[found[0]][1](session, rest.strip())


def _registers(session: Session, rest: str) -> int:
    """All, or in gdb's way those that are named."""
    from breenix_gdbagent.evaluation.operands import is_register, register_named

    if not rest:
        return _command("registers")(session, "")
    with session.while_stopped():
        for name in rest.split():
            if not is_register(name):
                raise InputError(f"{name} is no register", fix="registers lists them")
            value = register_named(session.evaluation, name)
            print(f"{name.removeprefix('$'):<15}{value:<#19x}{session.view.describe(value)}")
    return 0


def _frame(session: Session, rest: str) -> int:
    from breenix_gdbagent.commands.shell.stackframes import frame_info

    with session.while_stopped():
        if rest:
            return _command("frame")(session, rest)
        return frame_info(session)


def _line(session: Session, rest: str) -> int:
    """Which code a source line has, or which line an address is of."""
    from breenix_gdbagent.evaluation.places import find_place
    from breenix_gdbagent.evaluation.source import Source

    with session.while_stopped():
        image = session.view.stop.loaded
        if rest:
            addresses = find_place(rest, image.image, session.evaluation).at(image.bias)
        else:
            addresses = (session.evaluation.register(session.view.arch.names.pc),)
        for va in addresses:
            row = Source(image).row(va)
            if row is None:
                raise ReadError(f"no source line is known for {session.view.describe(va)}")
            begin, end = session.view.describe(row.start), session.view.describe(row.end)
            print(f'line {row.line} of "{row.file}" starts at {begin} and ends at {end}')
    return 0


def _symbol(session: Session, rest: str) -> int:
    from breenix_gdbagent.commands.shell.looking import address_of

    with session.while_stopped():
        va = address_of(session, rest or "$pc")
        image = session.view.stop.loaded
        hit = image.symbol_at(va)
        if hit is None:
            print(f"no symbol covers {hex64(va)}")
            return 1
        link = image.link(va)
        sections = image.image.sections
        named = [s.name for s in sections if s.address and s.address <= link < s.address + s.size]
        plus = f" + {hit.offset}" if hit.offset else ""
        print(f"{hit.name}{plus}" + (f" in section {named[0]}" if named else ""))
    return 0


def _functions(session: Session, rest: str) -> int:
    return _symbols(session, rest, executable=True)


def _variables(session: Session, rest: str) -> int:
    return _symbols(session, rest, executable=False)


def _symbols(session: Session, rest: str, *, executable: bool) -> int:
    """Names that a regular expression is found in, with their addresses."""
    image = _image(session)
    wanted = compiled(rest)
    bias = _bias(session)
    found = sorted(
        {
            (symbol.address + bias, symbol.name)
            for symbol in image.symbols.symbols
            if symbol.executable == executable
            and (executable or symbol.kind == "object")
            and wanted.search(symbol.name)
        }
    )
    for address, name in found:
        print(f"{hex64(address)}  {name}")
    return _some(len(found), rest, "function" if executable else "static")


def _types(session: Session, rest: str) -> int:
    image = _image(session)
    if not image.has_dwarf:
        raise ReadError("the kernel's ELF has no debug information (DWARF)")
    wanted = compiled(rest)
    found = sorted(path for path in image.debug.index.types if wanted.search(path))
    for path in found:
        print(path)
    return _some(len(found), rest, "type")


def _some(count: int, pattern: str, what: str) -> int:
    if not count:
        print(f"no {what} has {pattern!r} in its name")
    return int(not count)


def _image(session: Session) -> Image:
    if session.image is None:
        raise ReadError("no kernel ELF is known", fix="give --kernel ELF")
    return session.image


def _bias(session: Session) -> int:
    """Where the kernel runs; 0, its link addresses, while that is not known."""
    loaded = session.known.stop.image if session.known is not None else None
    return 0 if loaded is None else loaded.bias


def _scope(session: Session, rest: str) -> int:
    """The variables that code at a location has, without their values."""
    from breenix_gdbagent.evaluation.places import find_place
    from breenix_gdbagent.symbols.variables import names_at

    image = _image(session)
    if not rest:
        raise InputError("info scope of what?", fix="info scope LOCATION")
    links = find_place(rest, image).links
    if not image.has_dwarf or not links:
        raise ReadError("that location is no code of the kernel's with debug information")
    names = sorted({name for link in links for name in names_at(image.debug, link)})
    print("\n".join(names) if names else f"no variables at {rest}")
    return int(not names)


def _command(name: str) -> Answer:
    """The command of that name, found when it is asked for."""

    def run(session: Session, rest: str) -> int:
        from breenix_gdbagent.commands.shell.texts import COMMANDS

        command = COMMANDS[name]
        return session.function(command)(session, Line(command, rest))

    return run


TOPICS: dict[str, tuple[str, Answer]] = {
    "registers": ("[NAME...]: registers of the frame's CPU", _registers),
    "breakpoints": ("all points", _command("break")),
    "frame": ("the chosen frame, its caller, its registers", _frame),
    "args": ("arguments of the frame", _command("args")),
    "locals": ("local variables of the frame", _command("locals")),
    "threads": ("the kernel's threads", _command("threads")),
    "processes": ("the kernel's processes", _command("ps")),
    "cpus": ("the CPUs", _command("cpu")),
    "line": ("[LOCATION]: the code of a source line", _line),
    "symbol": ("ADDRESS: what lies there", _symbol),
    "address": ("NAME: where it lies", _command("symbol")),
    "functions": ("[REGEX]: functions of that name", _functions),
    "variables": ("[REGEX]: statics of that name", _variables),
    "types": ("[REGEX]: types of that name", _types),
    "scope": ("LOCATION: the variables that code there has", _scope),
    "source": ("the source where the CPU stands", _command("list")),
    "mem": ("[ROOT]: what one space maps (QEMU's info mem, info tlb)", _command("map")),
    "stack": ("stack frames", _command("bt")),
}
ALSO = {
    "b": "breakpoints", "watchpoints": "breakpoints", "points": "breakpoints", "reg": "registers",
    "r": "registers", "all-registers": "registers", "tlb": "mem", "proc": "processes",
    "inferiors": "processes", "s": "stack", "f": "frame", "fu": "functions", "th": "threads",
}  # fmt: skip
