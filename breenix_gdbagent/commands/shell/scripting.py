"""What makes scripts of commands: ``define``, ``commands``, ``source``, ``display``, ``foreach``,
pipes and the system's shell."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from breenix_gdbagent.commands.shell.line import Line, arguments
from breenix_gdbagent.commands.shell.session import Block, Display, Session
from breenix_gdbagent.commands.shell.texts import COMMANDS
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.locations import parse_number


def do_define(session: Session, line: Line) -> int:
    name = arguments(line, ("name", "")).name
    if not name.isidentifier():
        raise InputError(f"{name!r} is no name of a command", fix="letters, digits and _")
    if name in COMMANDS:
        raise InputError(f"{name} is a command of the shell's", fix="choose another name")
    session.block = Block(lambda lines: session.defined.__setitem__(name, lines))
    return 0


def do_commands(session: Session, line: Line) -> int:
    options = arguments(line, ("number", "?"))
    points = [p for p in session.debugger.table if p.number > 0]
    if options.number is None:
        if not points:
            raise InputError("there is no point", fix="set one: break LOCATION")
        number = points[-1].number
    else:
        number = session.debugger.table.get(parse_number(options.number) or 0).number
    session.block = Block(lambda lines: session.at_hits.__setitem__(number, lines))
    return 0


def do_source(session: Session, line: Line) -> int:
    """A directory says where the kernel's source lies; a file is run, command by command."""
    path = Path(arguments(line, ("path", "")).path).expanduser()
    if path.is_dir():
        session.sources.insert(0, path)
        return 0
    return run_file(session, path)


def run_file(session: Session, path: Path) -> int:
    """The commands of a file. Raises `InputError` where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text file") from error
    return session.run_script(lines, str(path))


def do_display(session: Session, line: Line) -> int:
    """Shown at once, and at every stop from now on."""
    if not line.text:
        for one in session.displays:
            print(f"{one.number}: {_called(one)}")
        if not session.displays:
            print("nothing is displayed at stops")
        return 0
    number = max((one.number for one in session.displays), default=0) + 1
    one = Display(number, line.form, line.text)
    with session.while_stopped():
        print(_shown(session, one))
    session.displays.append(one)
    return 0


def do_undisplay(session: Session, line: Line) -> int:
    wanted = {parse_number(word) for word in line.words}
    unknown = wanted - {one.number for one in session.displays}
    if unknown:
        raise InputError(f"{line.text}: no such display", fix="list them: display")
    session.displays = [one for one in session.displays if wanted and one.number not in wanted]
    return 0


def displayed(session: Session) -> Iterator[str]:
    """What `display` shows of the stop at hand."""
    for one in session.displays:
        try:
            yield _shown(session, one)
        except (InputError, ReadError) as error:
            yield f"{one.number}: {_called(one)} = <{error.what}>"


def _called(one: Display) -> str:
    return f"{f'/{one.form} ' if one.form else ''}{one.text}"


def _shown(session: Session, one: Display) -> str:
    from breenix_gdbagent.commands.printing import printed

    if (one.form and one.form[-1] in "is") or any(c.isdigit() or c in "bhwg" for c in one.form):
        kept, command = io.StringIO(), COMMANDS["x"]
        with redirect_stdout(kept):
            session.function(command)(session, Line(command, one.text, one.form))
        return f"{one.number}: x/{one.form} {one.text}\n{kept.getvalue().rstrip()}"
    lines = printed(session.evaluation, one.text, session.screen.width, one.form).lines
    return f"{one.number}: {_called(one)} = " + "\n".join(lines)


def do_foreach(session: Session, line: Line) -> int:
    """A command for every process, thread or CPU; ``{}`` in it is the number."""
    which, _, command = line.text.partition(" ")
    if not command.strip() or which not in ("process", "thread", "cpu"):
        raise InputError("foreach what?", fix="foreach process|thread|cpu COMMAND")
    code = 0
    with session.while_stopped():
        for number, name, root in _each(session, which):
            print(f"{which} {number}{f' {name}' if name else ''}:")
            text = command.replace("{}", str(number)).strip()
            if which == "thread" and text.split()[0] in ("bt", "backtrace") and text == command:
                text += f" --thread {number}"
            before = session.root, session.cpu
            session.root, session.cpu = root, number if which == "cpu" else session.cpu
            try:
                code = session.execute(text) or code
            finally:
                session.root, session.cpu = before
    return code


def _each(session: Session, which: str) -> Iterator[tuple[int, str, int | None]]:
    """(number, name, root of its address space or None)."""
    kernel = session.kernel
    if which == "cpu":
        yield from ((cpu.index, "", None) for cpu in kernel.stop.cpus)
    elif which == "thread":
        yield from ((t.id, t.name, None) for t in kernel.structures.scheduler.threads)
    else:
        for space in kernel.named_spaces:
            if space.pid is not None:
                yield space.pid, space.name or "", int(space.root)


def do_pipe(session: Session, line: Line) -> int:
    """``pipe COMMAND | SHELL COMMAND``."""
    command, bar, shell = line.text.partition(" | ")
    if not bar:
        raise InputError("no | behind the command", fix="pipe COMMAND | SHELL COMMAND")
    kept = io.StringIO()
    with redirect_stdout(kept):
        code = session.execute(command.strip())
    told = subprocess.run(
        shell, shell=True, input=kept.getvalue(), capture_output=True, text=True, check=False
    )
    print(f"{told.stdout}{told.stderr}".rstrip("\n"))
    return code or told.returncode


def do_shell(session: Session, line: Line) -> int:
    """A command of the system's: what it prints, and its exit code."""
    if not line.text:
        raise InputError("which command?", fix="!COMMAND")
    told = subprocess.run(line.text, shell=True, capture_output=True, text=True, check=False)
    said = f"{told.stdout}{told.stderr}".rstrip("\n")
    if said:
        print(said)
    return told.returncode
