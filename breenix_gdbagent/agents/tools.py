"""The tools, as a table: what each takes, what it answers, and what it does to the guest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from breenix_gdbagent.agents import looking, pointing, telling
from breenix_gdbagent.agents.answers import Findings, Row, Rows, Where, Written, last_page
from breenix_gdbagent.agents.answers import page as page_of
from breenix_gdbagent.agents.schema import Argument, answer_schema, input_schema
from breenix_gdbagent.agents.session import Session
from breenix_gdbagent.agents.standing import where
from breenix_gdbagent.api.stops import MEMORY
from breenix_gdbagent.debugger.held import LONGEST
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.debugger.taking import Started
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.patterns import compiled
from breenix_gdbagent.report import logview
from breenix_gdbagent.report.seriallog import LEVELS, lines_of
from breenix_gdbagent.report.shown_walk import ShownWalk
from breenix_gdbagent.timeline.held import HeldRecording

Given = Mapping[str, Any]
RUN_SECONDS = 10.0
STEP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `reads`: it changes nothing at all; `destroys`: what it ends or overwrites is gone;
    `moves`: it lets the guest run, so that others are told it is busy; `aside`: it may be called
    while the guest runs."""

    name: str
    about: str
    arguments: tuple[Argument, ...]
    answer: type
    do: Callable[[Session, Given], object]
    reads: bool = False
    destroys: bool = False
    moves: bool = False
    aside: bool = False

    @property
    def takes(self) -> dict[str, Any]:
        """The JSON Schema of its arguments."""
        return input_schema(self.arguments)

    @property
    def answers(self) -> dict[str, Any]:
        """The JSON Schema of its answer."""
        return answer_schema(self.answer)


# Taking hold ----------------------------------------------------------------------------------


def _launch(session: Session, given: Given) -> Where:
    session.launch(Started(**{**given, "disks": tuple(given["disks"] or ())}))
    return where(session, "before its first instruction: run lets it go")


def _attach(session: Session, given: Given) -> Where:
    session.attach(
        given["gdb"],
        qmp=given["qmp"],
        ram=given["ram"],
        serial=given["serial"],
        kernel=given["kernel"],
    )
    return where(session)


def _open(session: Session, given: Given) -> Where:
    session.open(given["path"], given["kernel"])
    return where(session)


# Running --------------------------------------------------------------------------------------


def _run(session: Session, given: Given) -> Where:
    if given["until"] is not None:
        compiled(given["until"], "until")
    session.held.live().run(given["until"], given["seconds"], given["location"])
    return _stopped(session, given["seconds"])


def _stopped(session: Session, seconds: float) -> Where:
    event = session.held.event
    if event is not None and event.reason.kind == "deadline":
        return where(session, f"stopped by its own limit of {seconds:g} s; run goes on from here")
    return where(session)


def _step(session: Session, given: Given) -> Where:
    how, count = given["how"], given["count"]
    if how == "goto":
        if not given["place"]:
            raise InputError("step: goto needs a place", fix="a count, 1.5s, end, or serial text")
        session.recording.goto(given["place"])
        return where(session)
    if how == "back":
        session.recording.by(-count)
        return where(session)
    if how == "instruction" and isinstance(session.held_now, HeldRecording):
        session.recording.by(count)
        return where(session)
    guest = session.held.live()
    kernel = guest.kernel
    jobs: dict[str, Callable[[], StopEvent]] = {
        "into": lambda: guest.stepper().line(over=False),
        "over": lambda: guest.stepper().line(over=True),
        "instruction": lambda: guest.stepper().instruction(count),
        "finish": lambda: guest.stepper().finish(kernel),
    }
    rounds = 1 if how in ("instruction", "finish") else count
    for _ in range(rounds):
        guest.move(jobs[how], given["seconds"])
        if guest.event is None or guest.event.reason.kind != "step":
            break
    if guest.event is not None and guest.event.returned is not None:
        return where(session, f"it returned {guest.event.returned:#x} (RAX)")
    return where(session)


def _interrupt(session: Session, given: Given) -> Where:
    """By then nobody lets it run any more: whoever serves it has seen to that."""
    session.held.live()
    return where(session)


def _console(session: Session, given: Given) -> Where:
    guest = session.held.live()
    if given["send"] is None and given["expect"] is None:
        raise InputError("console does nothing", fix="give send, expect, or both")
    if given["expect"] is not None:
        compiled(given["expect"], "expect")
    if given["send"] is not None:
        session.may_write("console with send")
        guest.vm.console.send(given["send"].encode() + b"\n", 0)
    if given["expect"] is not None:
        guest.run(given["expect"], given["seconds"])
    return _stopped(session, given["seconds"])


# Looking --------------------------------------------------------------------------------------


def _explain(session: Session, given: Given) -> Findings:
    if given["code"]:
        return telling.meaning(given["code"])
    return telling.findings(session, given["start"])


def _walk(session: Session, given: Given) -> ShownWalk:
    return looking.walk(session, given["va"], given["root"])


def _look(session: Session, given: Given) -> Rows:
    return looking.look(session, given["what"], given["place"], given["start"])


def _points(session: Session, given: Given) -> Rows:
    return pointing.points(session, given["action"], given["what"], given["start"])


def _log(session: Session, given: Given) -> Rows:
    pattern = compiled(given["query"], "query") if given["query"] is not None else None
    choice = logview.Choice(pattern, given["level"], None, given["context"])
    lines = logview.json_of(logview.chosen(lines_of(session.held.serial), choice))
    found = [cast(Row, {k: v for k, v in _object(one).items() if k != "context"}) for one in lines]
    start = given["start"]
    if start is None:
        return last_page(found)
    return page_of(found, start)


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _when(session: Session, given: Given) -> Rows:
    return page_of([_brief(session.recording.when(given["code"]))], 0)


def _who_wrote(session: Session, given: Given) -> Rows:
    found = session.recording.who_wrote(given["place"])
    writes = found.pop("writes")
    rows = [_brief(_object(one)) for one in writes] if isinstance(writes, list) else []
    note = ", ".join(f"{key} {value}" for key, value in found.items())
    return page_of(rows, given["start"], note)


def _brief(told: dict[str, Json]) -> Row:
    """Without the frames further out than a reader wants."""
    frames = told.get("frames")
    return {**told, "frames": frames[:6] if isinstance(frames, list) else frames}


def _snapshot(session: Session, given: Given) -> Written:
    path = Path(given["path"])
    if path.exists():
        raise InputError(f"{path} is there already", fix="name a file that is not there")
    session.held.live().save(path, given["memory"])
    return Written(str(path), path.stat().st_size, f"breenix-gdbagent report {path}")


_START = Argument("start", "`next` of the page before", "integer", 0)
_KERNEL = Argument("kernel", "ELF file")


def _seconds(default: float) -> Argument:
    return Argument("seconds", "its limit", "number", default, least=0.01, most=LONGEST)


TOOLS: tuple[Tool, ...] = (
    Tool(
        "launch",
        "Start a kernel in QEMU, paused before its first instruction: lab, breenix, image with "
        "kernel, or config with kernel. What was held is let go.",
        (
            Argument("lab", "scenario: clean, guard-page"),
            Argument("breenix", "checkout"),
            Argument("image", "disk image"),
            _KERNEL,
            Argument("config", "machine, name or TOML file"),
            Argument("disks", "", "array"),
            Argument("smp", "CPUs", "integer", least=1, most=64),
            Argument("deterministic", "", "boolean", False),
        ),
        Where,
        _launch,
        destroys=True,
    ),
    Tool(
        "attach",
        "Take hold of a QEMU that runs; it is stopped, and goes on when let go.",
        (
            Argument("gdb", "unix:PATH or HOST:PORT", required=True),
            Argument("qmp", "its QMP socket"),
            Argument("ram", "its RAM file"),
            Argument("serial", "its serial line"),
            _KERNEL,
        ),
        Where,
        _attach,
        destroys=True,
    ),
    Tool(
        "open",
        "Open a snapshot (file) or a recording (directory).",
        (Argument("path", required=True), _KERNEL),
        Where,
        _open,
        destroys=True,
    ),
    Tool(
        "run",
        "Let it run to the first unexpected fault, a point, until (regex of serial text; else the "
        "kernel's own success text), location, or its limit. Always ends stopped. Cancel it, or "
        "call interrupt, to break in.",
        (
            Argument("until"),
            _seconds(RUN_SECONDS),
            Argument("location", "0x..., symbol or file.rs:12"),
        ),
        Where,
        _run,
        moves=True,
    ),
    Tool("interrupt", "Stop a guest that runs.", (), Where, _interrupt, aside=True),
    Tool(
        "step",
        "A source line into or over calls, instruction, finish (the function). A recording goes "
        "back, and to a moment (goto), too.",
        (
            Argument(
                "how", "", "string", "over",
                choices=("into", "over", "instruction", "finish", "back", "goto"),
            ),
            Argument("count", "", "integer", 1, least=1, most=1_000_000),
            Argument("place", "goto: instruction count, 1.5s, end, or serial text"),
            _seconds(STEP_SECONDS),
        ),
        Where,
        _step,
        moves=True,
    ),
    Tool(
        "explain",
        "Why it stopped and what is wrong: all checks on this stop, worst first. With code: what a "
        "finding code, page-fault error code (0x6) or fault line of the kernel means.",
        (Argument("code"), _START),
        Findings,
        _explain,
        reads=True,
    ),
    Tool(
        "walk",
        "Where an address leads, level by level.",
        (
            Argument("va", "0x..., register, symbol or expression", required=True),
            Argument("root", "CR3 (0x...), pid or process name; else this CPU's"),
        ),
        ShownWalk,
        _walk,
        reads=True,
    ),
    Tool(
        "look",
        "See the stop. place: backtrace: CPU, `pid N`, `thread N`, all; registers: CPU, all; "
        "memory: `VA LENGTH`; value: expression (SCHEDULER.current_thread); symbol, source, "
        "disassembly: location; map: root; who: physical address.",
        (
            Argument("what", required=True, choices=tuple(looking.LOOKS)),
            Argument("place", "", "string", ""),
            _START,
        ),
        Rows,
        _look,
        reads=True,
    ),
    Tool(
        "points",
        "List or change points. what: break/tbreak `LOCATION [process P] [cpu N] [count N] [if "
        "COND]` (or `exception 14`); watch `PATH` or `VA LEN`; entry `VA [process P]` (its page "
        "table entries); checkpoint `LOCATION EXPR, ... [if COND]`; invariant `CHECK at LOCATION`; "
        "else number or all.",
        (
            Argument("action", "", "string", "list", choices=("list", *pointing.ACTIONS)),
            Argument("what", "", "string", ""),
            _START,
        ),
        Rows,
        _points,
    ),
    Tool(
        "console",
        "Type a line into the guest's serial port (needs --write), run until text matches expect.",
        (Argument("send"), Argument("expect", "regex"), _seconds(RUN_SECONDS)),
        Where,
        _console,
        destroys=True,
        moves=True,
    ),
    Tool(
        "log",
        "Serial lines, the last ones unless start is given.",
        (
            Argument("query", "regex"),
            Argument("level", "and worse", choices=LEVELS),
            Argument("context", "lines around each", "integer", 0, most=100),
            Argument("start", "row to begin with", "integer"),
        ),
        Rows,
        _log,
        reads=True,
        aside=True,
    ),
    Tool(
        "snapshot",
        "Write this stop to a file.",
        (
            Argument("path", required=True),
            Argument("memory", "", "string", "kernel", choices=MEMORY),
        ),
        Written,
        _snapshot,
    ),
    Tool(
        "when",
        "In a recording: the instruction after which a finding first held.",
        (Argument("code", "CODE or CODE@SUBJECT", required=True),),
        Rows,
        _when,
        moves=True,
    ),
    Tool(
        "who_wrote",
        "In a recording: every write of a physical place, oldest first.",
        (Argument("place", "PA, VA or `entry VA`", required=True), _START),
        Rows,
        _who_wrote,
        moves=True,
    ),
)  # fmt: skip

BY_NAME = {tool.name: tool for tool in TOOLS}
