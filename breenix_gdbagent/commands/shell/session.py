"""One debugging session: the stop at hand, and the commands that look at it or run on."""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from breenix_gdbagent.commands import Parser, names
from breenix_gdbagent.errors import AgentError, InputError, ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.watch import Run


class Quit(Exception):
    """The user wants to leave."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its usage line, one line of help, and what it does (returns an exit code)."""

    name: str
    usage: str
    help: str
    run: Callable[[Session, list[str]], int]
    group: str


COMMANDS: dict[str, Command] = {}


def command(
    name: str, usage: str, text: str, group: str
) -> Callable[[Callable[[Session, list[str]], int]], Callable[[Session, list[str]], int]]:
    """Enter a function into the table of commands."""

    def enter(run: Callable[[Session, list[str]], int]) -> Callable[[Session, list[str]], int]:
        COMMANDS[name] = Command(name, usage, text, run, group)
        return run

    return enter


class Session:
    """The stop at hand (`kernel`), and the guest behind it (`control`), None for a snapshot."""

    def __init__(self, stop: Stop | None = None, control: Run | None = None) -> None:
        from breenix_gdbagent.commands.shell import control as run_commands
        from breenix_gdbagent.commands.shell import looking

        assert run_commands and looking  # they enter their commands on import
        self.control = control
        self.previous: dict[str, int] = {}
        self._kernel: Kernel | None = Kernel(stop) if stop is not None else None

    @property
    def kernel(self) -> Kernel:
        """The stop at hand, made on demand where the guest has just been stopped."""
        if self._kernel is None:
            self.show(self.live().vm.stop(StopReason("attached")))
        assert self._kernel is not None
        return self._kernel

    def live(self) -> Run:
        """The guest behind the session. Raises `InputError` for a snapshot."""
        if self.control is None:
            raise InputError(
                "a snapshot does not run", fix="start the shell on --lab, --breenix or --gdb"
            )
        return self.control

    def show(self, stop: Stop) -> None:
        """Make `stop` the one at hand."""
        if self._kernel is not None:
            self.previous = dict(self._kernel.stop.cpu.registers)
        placed = self.control.placed(stop) if self.control is not None else stop
        self._kernel = Kernel(placed)

    # Commands --------------------------------------------------------------------------------

    def run_script(self, lines: Sequence[str]) -> int:
        """Run commands one by one; the exit code of the last that failed, else 0."""
        code = 0
        for line in lines:
            try:
                code = self.execute(line) or code
            except Quit:
                break
        return code

    def execute(self, line: str) -> int:
        """One line. Errors are said on stderr; raises `Quit`."""
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            return self._say(InputError(f"cannot read this line: {error}"))
        if not words:
            return 0
        try:
            return find(words[0]).run(self, words[1:])
        except AgentError as error:
            return self._say(error)
        except SystemExit as done:  # argparse's --help of one command is 0, SIGTERM is not
            if done.code:
                raise
            return 0

    def _say(self, error: AgentError) -> int:
        print("\n  ".join(str(error).splitlines()), file=sys.stderr)
        return error.exit_code if not isinstance(error, ReadError) else 1

    @property
    def prompt(self) -> str:
        """State in a few words: where the guest stands."""
        if self._kernel is None:
            return "(not started) "
        kernel = self._kernel
        cpu = kernel.stop.cpu
        if "rip" not in cpu.registers:
            return "(QEMU has ended) "
        name = kernel.symbol(cpu.rip) or f"{cpu.rip:#x}"
        space = kernel.space_of(cpu.root) if cpu.paging is not None else None
        where = f" in {space.label}" if space is not None else ""
        return f"({name}{where}) "


def find(word: str) -> Command:
    """The command of that name, or the only one that begins so. Raises `InputError`."""
    word = ALIASES.get(word, word)
    if word in COMMANDS:
        return COMMANDS[word]
    begin = [name for name in COMMANDS if name.startswith(word)]
    if len(begin) == 1:
        return COMMANDS[begin[0]]
    near = begin or difflib.get_close_matches(word, COMMANDS, 3)
    raise InputError(
        f"no command {word!r}", fix=f"did you mean {', '.join(near)}?" if near else "see: help"
    )


ALIASES = {
    "c": "continue", "n": "next", "s": "step", "si": "stepi", "b": "break", "r": "registers",
    "q": "quit", "exit": "quit", "p": "print", "regs": "registers", "disas": "disassemble",
    "l": "list", "?": "help", "d": "delete",
}  # fmt: skip


def _names_command(name: str) -> Callable[[Session, list[str]], int]:
    def run(session: Session, words: list[str]) -> int:
        parser = Parser(name)
        names.add_arguments(name, parser)
        return names.answer(name, session.kernel, parser.parse_args(words))

    return run


NAMES_HELP = {
    "bt": ("[--all|--pid N|--thread N|--cpu N]", "stack frames"),
    "ps": ("", "processes"),
    "threads": ("", "threads, both copies where two exist"),
    "heap": ("", "the kernel heap"),
    "frames": ("", "the frame allocator"),
    "symbol": ("NAME|ADDRESS", "address of a name, name of an address"),
    "print": ("PATH[.field[index]...]", "a value of the kernel"),
    "type": ("PATH", "layout of a Rust type"),
    "list": ("[LOCATION]", "source lines"),
    "disassemble": ("[LOCATION]", "instructions"),
}
for _name, (_usage, _text) in NAMES_HELP.items():
    command(_name, _usage, _text, "names")(_names_command(_name))


@command("help", "[COMMAND]", "this list, or one command", "session")
def _help(session: Session, words: list[str]) -> int:
    if words:
        one = find(words[0])
        print(f"{one.name} {one.usage}\n  {one.help}")
        return 0
    for group in ("looking", "names", "running", "session"):
        print(f"{group}:")
        for one in COMMANDS.values():
            if one.group == group:
                print(f"  {f'{one.name} {one.usage}':<44} {one.help}")
    return 0


@command(
    "quit", "", "leave; a guest that we started ends, an attached one is left as it was", "session"
)
def _quit(session: Session, words: list[str]) -> int:
    raise Quit


def arguments(name: str, words: list[str], *spec: tuple[str, str]) -> argparse.Namespace:
    """Parse a command's own arguments: (name, nargs) each. Raises `InputError`."""
    parser = Parser(name)
    for argument, nargs in spec:
        parser.add_argument(argument, nargs=nargs or None)
    return parser.parse_args(words)
