"""One debugging session: the guest, the current stop, and what a line that was typed does."""

from __future__ import annotations

import importlib
import io
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import counted
from breenix_gdbagent.commands.shell.echo import Echo
from breenix_gdbagent.commands.shell.line import Line
from breenix_gdbagent.commands.shell.screen import Screen, clipped
from breenix_gdbagent.commands.shell.texts import ALIASES, Command, find
from breenix_gdbagent.debugger.arbiter import GDB, PYTHON, SHELL, Arbiter
from breenix_gdbagent.errors import (
    AgentError,
    InputError,
    LinkClosed,
    LinkTimeout,
    QemuError,
    ReadError,
)
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop

if TYPE_CHECKING:
    from breenix_gdbagent.checks.examine import Examination
    from breenix_gdbagent.commands.target import Target
    from breenix_gdbagent.debugger.debugger import Debugger
    from breenix_gdbagent.debugger.stepping import Stepper
    from breenix_gdbagent.debugger.stop_event import StopEvent
    from breenix_gdbagent.evaluation.evaluation import Evaluation
    from breenix_gdbagent.evaluation.known import Known
    from breenix_gdbagent.symbols import Image
    from breenix_gdbagent.symbols.backtrace import Backtrace
    from breenix_gdbagent.timeline.travel import Traveller

REPEATED = {
    "step", "next", "stepi", "nexti", "reverse-step", "reverse-next", "reverse-stepi", "last",
}  # fmt: skip
CHANGES_POINTS = {
    "break", "tbreak", "watch", "checkpoint", "invariant", "delete", "enable", "disable", "ignore",
    "condition",
}  # fmt: skip
LISTS = {"break", "checkpoint"}
"""Those that only list without a location."""
INTERRUPTED = 130
TIMED_OUT = 4
SHORTEST = 0.001  # seconds of a run when none are left
NO_GUEST = (LinkTimeout, LinkClosed, QemuError)  # nobody answers for the guest
LONGEST_TOLD = 60  # characters of a script's line that an error repeats
ROOM = 24  # columns that a prompt leaves to the line typed behind it


@dataclass(slots=True)
class Block:
    """Lines up to the ``end`` that closes them; then `done` takes them."""

    done: Callable[[list[str]], None]
    lines: list[str] = field(default_factory=list)
    depth: int = 0

    def take(self, line: str) -> bool:
        """One more line; whether it was the last."""
        word = line.split(" ", 1)[0]
        if word == "end" and not self.depth:
            self.done(self.lines)
            return True
        self.depth += (word in OPENS) - (word == "end")
        self.lines.append(line)
        return False


OPENS = ("define", "commands")


@dataclass(frozen=True, slots=True)
class Display:
    """An expression that every stop shows, in the format `form` (see ``x`` and ``print``)."""

    number: int
    form: str
    text: str


class Quit(Exception):
    """The user wants to leave."""


def _bare(session: Session, event: StopEvent) -> str:
    """What is shown of a stop where nobody has said how."""
    return f"stopped: {event.reason.kind}"


class Session:
    """The stop at hand (`kernel`), and the guest behind it (`arbiter`), None for a snapshot.

    With `background` a run goes on while the user types; else a command lasts until the guest
    is stopped.
    """

    def __init__(
        self,
        screen: Screen,
        target: Target,
        stop: Stop | None = None,
        debugger: Debugger | None = None,
    ) -> None:
        self.screen = screen
        self.target = target
        self.background = False
        self.types_read = True
        self.event: StopEvent | None = None
        self.cpu: int | None = None
        self.previous: dict[int, dict[str, int]] = {}
        self.reported: set[str] = set()
        self.examine_seconds = 0.0
        self.sources: list[Path] = []
        self.when_stopped: Callable[[], None] = lambda: None
        self.leave: list[Callable[[], None]] = []
        self.frame: tuple[int, int] | None = None  # the frame chosen, and how deep in its inlining
        self.kept: dict[str, Known] = {}
        self.root: int | None = None  # whose memory is meant, of `foreach`
        self.examined: dict[str, int] = {}  # where `x` and `xp` go on
        self.format = ("x", 4)  # of `x`, as it was the last time
        self.block: Block | None = None
        self.defined: dict[str, list[str]] = {}
        self.at_hits: dict[int, list[str]] = {}
        self.displays: list[Display] = []
        self.writes = False
        self.limit: float | None = None  # seconds of one run
        self.left: float | None = None  # seconds that all runs have
        self._following = self._moved = False
        self._traces: dict[int, Backtrace] = {}
        self._kernel: Kernel | None = Kernel(stop) if stop is not None else None
        self._examined: Examination | None = None
        self._views: dict[int, Kernel] = {}
        self._steppers: dict[int, Stepper] = {}
        self._thread: threading.Thread | None = None
        self._last = ""
        self._told_of = ""
        self._left_over = 0
        self._gone = False
        self._unseen: StopEvent | None = None
        self._waiting: list[tuple[str, Line]] = []
        self._mover = SHELL
        self._echo: Echo | None = None
        self.serial_off = False
        self.beside: object | None = None  # who asks a gdb of ours, see `beside`
        self.traveller: Traveller | None = None  # of a recording, see `timeline.travel`
        self.show: Show = _bare
        self.arbiter: Arbiter | None = None
        if debugger is not None:
            self.arbiter = Arbiter(debugger)
            self.arbiter.listeners.append(self._stopped)
            debugger.say = screen.write

    # The stop at hand ------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.arbiter is not None and bool(self.arbiter.owner)

    @property
    def lost(self) -> bool:
        """Whether the guest runs though nobody runs it: it did not answer when it was to stop."""
        return self.arbiter is not None and not self.running and self.arbiter.debugger.vm.running

    @property
    def ended(self) -> bool:
        """Whether there was a QEMU and is none any more."""
        return self.arbiter is not None and self.arbiter.debugger.vm.exited

    @property
    def known(self) -> Kernel | None:
        """The stop at hand, None before the first one."""
        return self._kernel

    @property
    def image(self) -> Image | None:
        """The kernel's ELF, None where none is known."""
        if self.arbiter is not None:
            return self.arbiter.debugger.image
        loaded = self._kernel.stop.image if self._kernel is not None else None
        return loaded.image if loaded is not None else None

    @property
    def kernel(self) -> Kernel:
        """The stop at hand, made on demand where nothing has run yet. Raises `InputError` while
        the guest runs."""
        if self.running:
            raise InputError("the guest is running", fix="Ctrl-C stops it")
        if self.lost:
            raise InputError("the guest runs on: it did not stop", fix="interrupt asks it again")
        if self._unseen is not None:
            self._shown(self._unseen)
        if self._kernel is None:
            self.take(self.debugger.stop(self.debugger.vm.found_at()))
        assert self._kernel is not None
        return self._kernel

    def examine(self) -> Examination:
        """Every check at the stop at hand: what a stop shows and what `audit` tells of it come
        from one examination. Raises `InputError` while the guest runs."""
        from breenix_gdbagent.checks.examine import examine

        kernel, seen = self.kernel, self._examined
        if seen is None or seen.kernel is not kernel:
            self._examined = seen = examine(kernel.stop, kernel)
        return seen

    @property
    def view(self) -> Kernel:
        """The stop at hand as the chosen CPU sees it."""
        kernel = self.kernel
        if self.cpu is None or self.cpu == kernel.stop.reason.cpu:
            return kernel
        if self.cpu not in self._views:
            from breenix_gdbagent.evaluation.evaluation import of_cpu

            self._views[self.cpu] = Kernel(of_cpu(kernel.stop, self.cpu))
        return self._views[self.cpu]

    @property
    def backtrace(self) -> Backtrace:
        """The frames of the chosen CPU, unwound once. Raises `ReadError`, `InputError`."""
        from breenix_gdbagent.kernel import trace

        kernel = self.view
        cpu = kernel.stop.cpu
        if cpu.index not in self._traces:
            self._traces[cpu.index] = trace.of_cpu(kernel, cpu)
        return self._traces[cpu.index]

    @property
    def evaluation(self) -> Evaluation:
        """What expressions are evaluated on: the chosen frame of the chosen CPU. Raises `ReadError`
        where that is gone, `InputError` while the guest runs."""
        from breenix_gdbagent.evaluation.evaluation import Evaluation

        kernel = self.view
        if self.frame is None:
            depth = self._not_begun(kernel)
            return Evaluation.of(kernel, depth=depth, kept=self.kept, root=self.root)
        number, depth = self.frame
        frame = self.backtrace.frames[number]
        return Evaluation.of(kernel, frame=frame, depth=depth, kept=self.kept, root=self.root)

    def _not_begun(self, kernel: Kernel) -> int:
        """How many of the calls inlined where the CPU stands have not begun: as steps see it, else
        as a stop there is seen, live or out of a snapshot."""
        from breenix_gdbagent.evaluation.source import Source

        rip, image = kernel.stop.cpu.at, kernel.stop.image
        position = self.stepper.position if self.arbiter is not None and self._steppers else None
        if position is not None and position.pc == rip:
            return position.hidden
        if rip is None or image is None or not image.image.has_dwarf or not image.holds(rip):
            return 0
        return Source(image).position(rip).hidden

    @property
    def debugger(self) -> Debugger:
        """The guest's run control. Raises `InputError` for a snapshot."""
        if self.arbiter is None:
            raise InputError(
                "a snapshot does not run", fix="start the shell on --lab, --breenix or --gdb"
            )
        return self.arbiter.debugger

    @property
    def stepper(self) -> Stepper:
        """Steps of the chosen CPU."""
        cpu = self.cpu if self.cpu is not None else self.kernel.stop.reason.cpu
        if cpu not in self._steppers:
            from breenix_gdbagent.debugger.stepping import Stepper

            self._steppers[cpu] = Stepper(self.debugger, cpu)
        return self._steppers[cpu]

    def take(self, stop: Stop) -> None:
        """Make `stop` the one at hand."""
        if self._kernel is not None:
            self.previous = {c.index: dict(c.registers) for c in self._kernel.stop.cpus}
        self._kernel = Kernel(stop)
        self._views.clear()
        self._traces.clear()
        self.cpu = self.frame = None

    def forget(self) -> None:
        """The machine was reset: there is no stop at hand, and no finding was told."""
        self._kernel = self.event = self._unseen = None
        self._views.clear()
        self._traces.clear()
        self.frame = None
        self._steppers.clear()
        self.reported.clear()

    # Running ---------------------------------------------------------------------------------

    def run(self, job: Callable[[], StopEvent], *, bounded: bool = False) -> int:
        """Let the guest run until `job` ends, and show where it stands then. In the background
        where the session is one of a terminal. `bounded`: the job ends by itself, in time."""
        arbiter = self.arbiter
        if arbiter is None:
            self.debugger  # noqa: B018  (raises: a snapshot does not run)
            return 2
        if self.running:
            raise InputError("the guest is running already", fix="Ctrl-C stops it")
        self.debugger.vm.asked_to_stop = False
        if not self.background or threading.current_thread() is self._thread:
            return self._run_here(arbiter, job, bounded)
        begun = threading.Event()

        def work() -> None:
            def begin() -> StopEvent:
                begun.set()
                return job()

            try:
                self._run_here(arbiter, begin, bounded)
            except AgentError as error:
                self.say(error)
                self._do_waiting()
            finally:
                begun.set()
                self.when_stopped()

        self._thread = threading.Thread(target=work, name="run", daemon=True)
        self._thread.start()
        begun.wait()
        return 0

    def _run_here(self, arbiter: Arbiter, job: Callable[[], StopEvent], bounded: bool) -> int:
        """Run, and then do what the points that were hit have commands for; 4 where the limit of a
        script ended it."""
        debugger = self.debugger
        known = [] if bounded else [s for s in (self.limit, self.left) if s is not None]
        debugger.limit = min(known) if known else None
        begun = time.monotonic()
        try:
            event = arbiter.run(SHELL, job)
        finally:
            debugger.limit, limited = None, debugger.limit
            if self.left is not None:
                self.left = max(self.left - (time.monotonic() - begun), SHORTEST)
        code = 0
        if event.reason.kind == "deadline" and limited is not None:
            said = f"the limit of {limited:.3g} s has passed: continue --for S, shell --timeout S"
            self.screen.write(said)
            code = TIMED_OUT
        self._follow()
        return code

    def _follow(self) -> None:
        """The commands of the points that stopped the guest. One that lets it run ends them, and
        those of the next stop follow."""
        self._moved = True
        if self._following:
            return
        self._following = True
        try:
            while self._moved and (lines := self._commands_now()):
                self._moved = False
                for line in lines:
                    self.execute(line)
                    if self._moved:
                        break
        finally:
            self._following = False

    def _commands_now(self) -> list[str]:
        """The commands of the points that the guest stands at."""
        points = self.event.points if self.event is not None else ()
        return [line for p in points for line in self.at_hits.get(p.number, ()) if line != "silent"]

    @property
    def _silent(self) -> bool:
        """Whether the points that the guest stands at want nothing shown of the stop."""
        points = self.event.points if self.event is not None else ()
        return any(self.at_hits.get(p.number, [""])[:1] == ["silent"] for p in points)

    def look_again(self) -> None:
        """The guest was written into: the stop at hand is read anew."""
        if self._kernel is not None:
            chosen = self.cpu
            self.take(self.debugger.stop(self._kernel.stop.reason))
            self.cpu = chosen

    def settle(self, seconds: float | None = None) -> bool:
        """Wait for a run in the background; False when it has not ended by then."""
        if self._thread is not None:
            self._thread.join(seconds)
            return not self._thread.is_alive()
        return True

    def _stopped(self, who: str, event: StopEvent) -> None:
        """The guest is stopped: for a command of ours, or for the user's gdb."""
        if self._echo is not None:
            self._echo.flush()
        self.event = event
        self._mover = who
        if who == PYTHON or (who == GDB and event.reason.kind == "step"):
            # Python shows what it wants to; gdb takes hundreds of steps for one of its commands:
            # looked at when it is asked for.
            self._unseen = event
            self._do_waiting()
            return
        text = self._shown(event)
        if who == SHELL:
            if not self._silent:
                self.screen.write(text)
        else:
            # A terminal that does not take it must not keep gdb waiting.
            threading.Thread(target=self.screen.write, args=(text,), daemon=True).start()
        self._do_waiting()
        self.when_stopped()

    def _shown(self, event: StopEvent) -> str:
        """Take the stop that a run came to, and what is shown of it."""
        self._unseen = None
        self.take(self.debugger.stop(event.reason))
        cpu = event.reason.cpu
        if event.reason.kind != "step" or cpu not in self._steppers:
            self.stepper.stopped(event)
        return self.show(self, event)

    def _waits(self, text: str, line: Line) -> bool:
        """Whether a command that changes points has to wait for the running guest, which is said
        then. It is done as soon as the guest stops, before anything else can be typed."""
        lists = not line.text or (line.command.name == "checkpoint" and line.text.isdigit())
        changes = line.command.name in CHANGES_POINTS and not (lists and line.command.name in LISTS)
        if not self.running or not changes:
            return False
        self._waiting.append((text, line))
        self.screen.write(f"the guest is running: `{text}` waits until it stops (Ctrl-C stops it)")
        return True

    def _do_waiting(self) -> None:
        """What was typed while the guest ran."""
        waiting, self._waiting = self._waiting, []
        for text, line in waiting:
            said = io.StringIO()
            try:
                with redirect_stdout(said):
                    self.function(line.command)(self, line)
            except AgentError as error:
                self.say(error)
            self.screen.write(f"`{text}`, which waited: {said.getvalue().strip() or 'done'}")

    @contextmanager
    def while_stopped(self) -> Iterator[None]:
        """The guest is stopped meanwhile, or this is a snapshot. Raises `InputError`."""
        if self.arbiter is None:
            yield
            return
        with self.arbiter.while_stopped(wait=True):
            yield

    # The guest's serial text -------------------------------------------------------------------

    def echo_serial(self) -> None:
        """Print what the guest writes to its serial ports from now on."""
        if self.arbiter is None:
            return
        echo = self._echo = Echo(self.screen, self.hides)
        vm = self.debugger.vm
        vm.console.listen(echo.hear)
        self.leave += [lambda: vm.console.listen(None), echo.close]

    def hides(self, line: str) -> bool:
        """Whether a serial line is not shown: with `serial off`, and the lab guest's words for its
        tests."""
        return self.serial_off or (self.target.kind == "lab" and line.startswith("@{"))

    def close(self) -> None:
        """Let go of what commands have opened."""
        while self.leave:
            self.leave.pop()()

    # Commands --------------------------------------------------------------------------------

    def run_script(self, lines: Sequence[str], source: str = "") -> int:
        """Run commands one by one; the exit code of the last that failed, else 0. An error is said
        where its answer would stand, and names its line: of the file `source`, "" for -c. It ends
        where its guest answers no more: each command behind would wait for the same deadline."""
        code, self._gone = 0, False
        for number, line in enumerate(lines, 1):
            self._left_over = len(lines) - number
            place = f"{source}:{number}: " if source else ""
            self._told_of = f"{place}{clipped(line.strip(), LONGEST_TOLD)}: "
            try:
                code = self._worse(code, self.execute(line))
            except Quit:
                break
            finally:
                self.screen.flush()
            if self._gone:
                break
        self._told_of, self._left_over = "", 0
        if self.block is not None:
            self.block = None
            return self.say(InputError("a block is not closed", fix="write: end"))
        return code

    @staticmethod
    def _worse(before: int, code: int) -> int:
        """The code of the last that failed; that a run had to be ended stays told."""
        return before if before == TIMED_OUT else code or before

    def execute(self, text: str) -> int:
        """One line. Errors are said on stderr; raises `Quit`."""
        text = text.strip()
        if self.block is not None:
            if self.block.take(text):
                self.block = None
            return 0
        if not text or text.startswith("#"):
            if text or not self.background or not self._last:
                return 0
            text = self._last
        head = text.split(" ", 1)[0]
        if head in self.defined:
            return self._defined(head, text.split()[1:])
        try:
            piped = self._piped(text)
            if piped is not None:
                text = piped
            line = self._line(text)
            return 0 if self._waits(text, line) else self.function(line.command)(self, line)
        except AgentError as error:
            return self.say(error)
        except SystemExit as done:  # argparse's --help of one command is 0, SIGTERM is not
            if done.code:
                raise
            return 0

    def _defined(self, name: str, words: list[str]) -> int:
        """The lines of a command of the user's: ``$arg0`` is its first word, ``$argc`` how many."""
        code = 0
        for line in self.defined[name]:
            for number, word in enumerate(words):
                line = line.replace(f"$arg{number}", word)
            code = self.execute(line.replace("$argc", str(len(words)))) or code
        return code

    def _piped(self, text: str) -> str | None:
        """``ps | grep init`` as ``pipe ...``; None for what is no pipe: an expression may have a
        bar of its own."""
        if " | " not in text or text.startswith(("pipe ", "|", "!")):
            return None
        command = find(split_head(text)[0])
        plain = not command.raw and command.takes not in ("value", "code")
        return f"pipe {text}" if plain else None

    def _line(self, text: str) -> Line:
        """A line as it was typed. Raises `InputError`."""
        name, form, rest = split_head(text)
        command = find(name, rest)
        self._last = text if ALIASES.get(name, name) in REPEATED else ""
        if form and not command.formats:
            raise InputError(f"{command.name} takes no /{form}", fix=f"see: help {command.name}")
        line = Line(command, rest, form)
        if not command.raw:
            line.words  # noqa: B018  (a quote that does not end is refused before anything)
        return line

    @staticmethod
    def function(command: Command) -> Callable[[Session, Line], int]:
        """What a command does."""
        module = importlib.import_module(f"breenix_gdbagent.commands.shell.{command.module}")
        found: Callable[[Session, Line], int] = getattr(module, command.function)
        return found

    def say(self, error: AgentError) -> int:
        """An error in at most three lines; the exit code it stands for."""
        told = self._told_of + "\n  ".join(str(error).splitlines())
        self._gone = isinstance(error, NO_GUEST)
        if self._gone and self._left_over:
            told += f"; not run then: {counted(self._left_over, 'command')}"
        self.screen.fail(told)
        return error.exit_code if not isinstance(error, ReadError) else 1

    @property
    def prompt(self) -> str:
        """State in a few words: where the guest stands, or that it runs."""
        if self.block is not None:
            return "(until `end`) "
        if self.running:
            return "(running) "
        if self.lost:
            return "(no answer) "
        if self.ended:
            return "(QEMU has ended) "
        if self._unseen is not None:
            return f"(moved by {self._mover}) "
        if self._kernel is None:
            return "(not started) "
        cpu = self.view.stop.cpu
        if cpu.at is None:
            return "(no CPU) "
        name = self.view.symbol(cpu.rip) or f"{cpu.rip:#x}"
        several = f"CPU {cpu.index}: " if len(self._kernel.stop.cpus) > 1 else ""
        space = f" in {self.space}" if self.space else ""
        if len(several) + len(name) + len(space) > self.screen.width - ROOM:
            name = name.rpartition("::")[2]
        when = "" if self.traveller is None else f"{self.traveller.position:,} "
        return f"({when}{several}{name}{space}) "

    @property
    def space(self) -> str:
        """Whose address space the chosen CPU is in, "" before paging: its root while the kernel's
        types, which know the names, are still being read."""
        cpu = self.view.stop.cpu
        if self.types_read or cpu.paging is None or cpu.root is None:
            return space_label(self.view)
        return f"CR3 {cpu.root:#x}"


def space_label(kernel: Kernel) -> str:
    """Whose address space CR3 selects, "" before paging: without the scan of RAM."""
    cpu = kernel.stop.cpu
    if cpu.paging is None or cpu.root is None:
        return ""
    found = next((s for s in kernel.named_spaces if s.root == cpu.root), None)
    if found is None:
        return ""
    thread = kernel.thread_of(cpu)
    visits = found.role == "process" and thread is not None and not thread.user
    return f"in the space of {found.label}" if visits else found.label


_HEAD = re.compile(r"(?P<name>[a-z]+)(/(?P<form>\w+))?(\s+|$)|(?P<sign>[?!|])")


def split_head(text: str) -> tuple[str, str, str]:
    """(command, what stands behind its ``/``, the rest) of a line."""
    found = _HEAD.match(text)
    if found is None:
        name, _, rest = text.partition(" ")
        return name, "", rest.strip()
    return found["name"] or found["sign"], found["form"] or "", text[found.end() :].strip()


Show = Callable[[Session, "StopEvent"], str]
"""What the shell shows of a stop that a run came to."""
