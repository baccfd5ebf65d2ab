"""The commands of `breenix-gdbagent`, a module each: options in, an answer and an exit code out.

Only the module of the command that was asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

from breenix_gdbagent.commands import stdout
from breenix_gdbagent.errors import AgentError, InputError, Note, ReadError
from breenix_gdbagent.version import VERSION

LONGEST = 1e6
TERMINATED = 128 + signal.SIGTERM

COMMANDS = {
    "ci": "boot, run to a marker or the end, assert no unexpected fault and sound tables",
    "record": "what ci does, recorded so that it can be replayed",
    "when": "the first moment of a recording at which a finding holds",
    "who-wrote": "every write of a physical place over a recording",
    "last": "the writes of a variable over a recording, backwards",
    "trace": "print values at places of a recorded run",
    "profile": "where the instructions of a recorded run went",
    "hunt": "many boots: what fails how often, clustered, compared, bisected",
    "snapshot": "boot or attach, stop, examine, write one file",
    "report": "examine a snapshot again, offline",
    "shell": "interactive debugging",
    "audit": "all checks on any target",
    "diff": "two snapshots, working against broken",
    "log": "serial text of a run or snapshot",
    "explain": "a finding code, a page-fault error code, or a fault line of Breenix",
    "pt": "page tables: walk, map, who, roots, diff",
    "bt": "stack frames",
    "ps": "processes",
    "threads": "threads",
    "locks": "locks: which are taken, who spins on them, who holds them",
    "heap": "the kernel heap",
    "frames": "the frame allocator",
    "symbol": "name of an address, address of a name",
    "print": "a value of the kernel",
    "type": "layout of a Rust type",
    "list": "source lines",
    "disassemble": "instructions",
    "mcp": "a Model Context Protocol server on stdio, for coding agents",
    "dap": "a Debug Adapter on stdio, for editors",
    "lab": "the lab guest's scenarios",
    "lint": "the kernel's entry and switch code, read without booting",
    "init": "files for a kernel of your own: machine, agent, editor",
    "selftest": "the page-fault matrix on this machine's QEMU",
    "doctor": "what this machine has and lacks",
    "completion": "the completion of bash, zsh or fish",
}


def _formatter(prog: str) -> argparse.HelpFormatter:
    """argparse makes one for every option; without a width each has `shutil` look for the
    terminal's, and that imports three compressors: 3 of the 129 ms that `pt walk` takes."""
    return argparse.HelpFormatter(prog, width=_columns() - 2)


def _columns() -> int:
    """As `shutil.get_terminal_size` has it."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


class Parser(argparse.ArgumentParser):
    """argparse with the contract's error form: what, why, what to do; exit 2."""

    def __init__(self, *arguments: object, **more: object) -> None:
        more.setdefault("formatter_class", _formatter)
        super().__init__(*arguments, **more)  # type: ignore[arg-type]

    def _get_value(self, action: argparse.Action, arg_string: str) -> object:
        """An option's value. An empty one is an unset variable of a script, never what was meant
        (-c apart: a command line may be empty)."""
        if not arg_string and action.option_strings and "-c" not in action.option_strings:
            raise argparse.ArgumentError(action, "its value is empty")
        value: object = super()._get_value(action, arg_string)
        return value

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """What an abbreviation may mean. ``--write`` is never meant by one, nor is it one."""
        if option_string.split("=")[0] == "--write":
            return []
        found: list[Any] = super()._get_option_tuples(option_string)
        return [one for one in found if "--write" not in one[0].option_strings]

    def format_help(self) -> str:
        """As argparse has it, with the command's words and examples."""
        from breenix_gdbagent.commands.manual import examples, page_of

        page = page_of(self.prog)
        if page is None:
            return super().format_help()
        self.description = page.text
        return f"{super().format_help()}\n{examples(page)}"

    def error(self, message: str) -> NoReturn:
        raise InputError(message, fix=f"see: {self.prog} --help")


def no_or_seconds(text: str) -> float:
    """The value of --linger: as of --timeout, and 0 for none."""
    return 0.0 if text.strip() in ("0", "0.0") else seconds(text)


class Spelled(argparse.Action):
    """A flag; `Parser` takes no abbreviation of it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, True)


def seconds(text: str) -> float:
    """The value of --timeout. What waits on a socket takes no more than some 24 days."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not 0 < value <= LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text} is not above 0 and at most {LONGEST:.0f} seconds (11 days)"
        )
    return value


def run(argv: list[str]) -> int:
    """Dispatch `argv`; every error becomes at most three lines on stderr and an exit code."""
    try:
        _hear_signals()
        stdout.guard()
        code = _dispatch(argv)
        sys.stdout.flush()
        return code
    except AgentError as error:
        _say(error)
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != TERMINATED:
            return int(ended.code or 0)  # argparse's own --help
        _give_up_stdout()
        _say(_by_signal(ended))
    except OSError as error:
        _say(refused(error))
        _give_up_stdout()
    except Exception as error:
        # In a class body Python 3.11 wraps what a signal raised (type.__new__ and __set_name__).
        if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):
            _give_up_stdout()
            _say(_by_signal(error.__cause__))
        else:
            _say(defect(error))
    return 3


def _by_signal(ended: BaseException) -> AgentError:
    """What a signal ended, and where the guest stood then, which is why it was sent."""
    how = "interrupted" if isinstance(ended, KeyboardInterrupt) else "terminated"
    notes = [note for note in getattr(ended, "__notes__", ()) if isinstance(note, Note)]
    return AgentError(f"{how}; nothing is left running", *notes[:2])


def _hear_signals() -> None:
    """Ctrl-C and SIGTERM as exceptions, from the thread that can have handlers."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _give_up_stdout() -> None:
    """What is still held back is no whole answer, or cannot be written."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # no stdout of the process's own


def refused(error: OSError) -> AgentError:
    """What the system refused and nobody nearer to it has put in words."""
    if error.filename is None:
        return AgentError(f"the answer cannot be written: {error.strerror or error}")
    return AgentError(f"{error.filename}: {error.strerror}")


def defect(error: Exception) -> AgentError:
    """What should not happen; the whole traceback for whoever asks for it."""
    import traceback

    if os.environ.get("BREENIX_GDBAGENT_TRACEBACK"):
        traceback.print_exception(error)
    at = traceback.extract_tb(error.__traceback__)[-1]
    return AgentError(
        f"a defect of the agent: {type(error).__name__}: {error}",
        f"at {os.path.basename(at.filename)}:{at.lineno} in {at.name}",  # noqa: PTH119
        "please report it, with what BREENIX_GDBAGENT_TRACEBACK=1 prints",
    )


def _terminated(number: int, frame: object) -> NoReturn:
    """SIGTERM ends a run as Ctrl-C does: everything that was opened is closed on the way out."""
    raise SystemExit(TERMINATED)


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["help"] and argv[1:]:
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"breenix-gdbagent {VERSION}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        raise InputError(
            f"no command {name!r}",
            fix=f"did you mean {near[0]}?" if near else "see: breenix-gdbagent --help",
        )
    module = importlib.import_module(f"breenix_gdbagent.commands.{MODULES.get(name, name)}")
    code: int = module.run(name, argv[1:])
    return code


MODULES = {"who-wrote": "who_wrote"} | {
    name: "names"
    for name in (
        "bt", "ps", "threads", "locks", "heap", "frames", "symbol", "print", "type", "list",
        "disassemble",
    )
}  # fmt: skip


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "breenix-gdbagent COMMAND [OPTIONS]: why the Breenix kernel faulted, from outside",
            "",
            *lines,
            "",
            "Targets: --lab [SCENARIO] | --breenix DIR | --image IMG --kernel ELF | --gdb ADDR",
            "         | --config NAME --kernel ELF | --snapshot FILE.",
            "`breenix-gdbagent help COMMAND` says more, with examples.",
        ]
    )


def _say(error: AgentError) -> None:
    parts = [p for p in (error.what, error.why, error.fix) if p]
    first, rest = " ".join(parts[0].split()), parts[1:]
    try:
        with suppress(OSError, ValueError):
            sys.stdout.flush()  # what was answered before it comes before it
        print(f"breenix-gdbagent: {first}", file=sys.stderr)
        for line in rest:
            print(f"  {' '.join(line.split())}", file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        return  # a full disk behind stderr: the exit code has to say it alone


__all__ = ["COMMANDS", "Parser", "ReadError", "Spelled", "run", "seconds"]
