"""A Debug Adapter: an editor's requests answered by our own debugger.

One thread reads requests and answers them; what lets the guest run is done by another, so that
``pause`` is heard. CPUs are the editor's threads, and all of them stop together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.debugger.held import Held
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.editors import stopped, taking
from breenix_gdbagent.editors.frames import StopShown
from breenix_gdbagent.editors.points import EditorPoints
from breenix_gdbagent.editors.wire import Message
from breenix_gdbagent.errors import AgentError, InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.timeline.held import HeldRecording

Guard = Callable[[Callable[[], Json]], "Json | AgentError"]
"""Does something and gives back what it answers, or what went wrong, whatever that is."""

ASK_AGAIN = 0.05
FILTERS: list[Json] = [
    {
        "filter": "unexpected",
        "label": "Unexpected faults",
        "description": "all but copy-on-write and stack growth",
        "default": True,
    },
    {"filter": "all", "label": "All faults", "default": False},
]
CAPABILITIES: Message = {
    "supportsConfigurationDoneRequest": True,
    "supportsConditionalBreakpoints": True,
    "supportsHitConditionalBreakpoints": True,
    "supportsLogPoints": True,
    "supportsFunctionBreakpoints": True,
    "supportsInstructionBreakpoints": True,
    "supportsExceptionInfoRequest": True,
    "supportsReadMemoryRequest": True,
    "supportsDisassembleRequest": True,
    "supportsSteppingGranularity": True,
    "supportsEvaluateForHovers": True,
    "supportsTerminateRequest": True,
    "exceptionBreakpointFilters": FILTERS,
}


class Adapter:
    """One editor's session. `send` takes a message as a whole; `guard` keeps defects of ours from
    ending it; `sources` are directories where the kernel's source lies."""

    def __init__(
        self, send: Callable[[Message], None], guard: Guard, sources: Sequence[Path] = ()
    ) -> None:
        self._send = send
        self._guard = guard
        self._sources = tuple(sources)
        self._lock = threading.Lock()
        self._number = 0
        self._held: Held | None = None
        self._points: EditorPoints | None = None
        self._shown: StopShown | None = None
        self._worker: threading.Thread | None = None
        self._quiet = self._cut = self._busy = False
        self._stop_on_entry = False
        self._after: list[Callable[[], None]] = []
        self._over = False
        self._requests = _requests(self)

    # Messages --------------------------------------------------------------------------------

    def serve(self, read: Callable[[], Message | None]) -> None:
        """Answer what `read` gives until it gives None or the editor is done. Raises
        `LinkProtocolError` for what is no message."""
        try:
            while not self._over:
                message = read()
                if message is None:
                    return
                self.handle(message)
        finally:
            self.close()

    def handle(self, message: Message) -> None:
        """Answer one request; anything else is passed over."""
        if message.get("type") != "request":
            return
        command = str(message.get("command"))
        given = message.get("arguments")
        answer = self._guard(
            lambda: self._answer(command, given if isinstance(given, dict) else {})
        )
        told: Message = {
            "type": "response",
            "request_seq": message.get("seq"),
            "command": command,
            "success": not isinstance(answer, AgentError),
        }
        if isinstance(answer, AgentError):
            said = " ".join(str(answer).splitlines())
            told["message"] = answer.what
            told["body"] = {"error": {"id": 1, "format": said, "showUser": True}}
            self._after.clear()
        else:
            told["body"] = answer or {}
        self._write(told)
        after, self._after = self._after, []
        for one in after:
            one()

    def _answer(self, command: str, given: Message) -> Json:
        do = self._requests.get(command)
        if do is None:
            raise InputError(f"{command[:60]!r} is not supported")
        return do(given)

    def _write(self, message: Message) -> None:
        with self._lock:
            self._number += 1
            self._send({"seq": self._number, **message})

    def event(self, name: str, body: Message | None = None) -> None:
        """Tell the editor of something."""
        self._write({"type": "event", "event": name, "body": body or {}})

    def say(self, text: str, category: str = "console") -> None:
        """A line of the debug console's."""
        self.event("output", {"category": category, "output": text})

    def close(self) -> None:
        """Let go of the guest; nobody lets it run any more."""
        held, self._held = self._held, None
        self._quiet = True
        self._until_still(held)
        if held is not None:
            held.close()

    # The session -----------------------------------------------------------------------------

    def initialize(self, given: Message) -> Json:
        return CAPABILITIES

    def launch(self, given: Message) -> Json:
        self._take(taking.launch(given), given)
        return None

    def attach(self, given: Message) -> Json:
        self._take(taking.attach(given), given)
        self._stop_on_entry = True
        return None

    def _take(self, held: Held, given: Message) -> None:
        if self._held is not None:
            held.close()
            raise InputError("this session has a guest already", fix="start another session")
        self._held = held
        self._sources = (*taking.sources(given), *self._sources)
        recorded = isinstance(held, HeldRecording)
        self._stop_on_entry = given.get("stopOnEntry") is True or recorded or not held.runs
        if held.runs:
            guest = held.live()
            guest.debugger.say = lambda line: self.say(f"{line}\n")
            self._points = EditorPoints(guest.debugger, lambda line: self.say(f"{line}\n"))
            if not recorded:
                guest.vm.console.listen(self._serial)
        if recorded:
            self.event("capabilities", {"capabilities": {"supportsStepBack": True}})
        self._after.append(lambda: self.event("initialized"))

    def _serial(self, port: int, data: bytes) -> None:
        self.say(data.decode("utf-8", "replace"), "stdout")

    def configuration_done(self, given: Message) -> Json:
        def begin() -> None:
            if self._stop_on_entry:
                self._tell()
            else:
                self._go(lambda: self.held.live().debugger.go())

        self._after.append(begin)
        return None

    def disconnect(self, given: Message) -> Json:
        self._over = True
        self.close()
        return None

    def terminate(self, given: Message) -> Json:
        self.close()
        self._after.append(lambda: self.event("terminated"))
        return None

    @property
    def held(self) -> Held:
        """What is held. Raises `InputError` before launch and attach."""
        if self._held is None:
            raise InputError("nothing is held", fix="launch or attach comes first")
        return self._held

    @property
    def shown(self) -> StopShown:
        """The stop at hand. Raises `InputError` while the guest runs."""
        if self._running:
            raise InputError("the guest is running", fix="pause stops it")
        if self._shown is None:
            self._shown = StopShown(self.held.kernel, self._sources)
        return self._shown

    # Running ---------------------------------------------------------------------------------

    @property
    def _running(self) -> bool:
        return self._busy

    def _go(self, job: Callable[[], StopEvent]) -> None:
        """Have another thread do `job` and tell the editor what it comes to."""
        guest = self.held.live()
        self._shown = None

        def work() -> None:
            def done() -> Json:
                guest.move(job)
                return None

            failed = self._guard(done)
            reason = None if guest.event is None else guest.event.reason.kind
            self._cut = self._quiet and reason == "interrupt"
            if isinstance(failed, AgentError):
                self.say(f"{failed}\n", "stderr")
            withheld = self._quiet and (self._cut or self._held is None)
            if withheld or isinstance(self._guard(self._told), AgentError):
                self._busy = False

        self._busy = True
        self._worker = threading.Thread(target=work, name="run", daemon=True)
        self._worker.start()

    def _told(self) -> Json:
        self._tell()
        return None

    def _tell(self) -> None:
        """Where the guest stands now, with what was found where it was an exception."""
        held = self.held
        kind = held.kernel.stop.reason.kind
        body = stopped.stopped(held)
        if body["reason"] == "exception":
            self.say(stopped.explained(held), "important")
        self._busy = False  # before the editor hears of it: its questions follow at once
        if kind == "exit":
            self.event("terminated")
        else:
            self.event("stopped", body)

    def _until_still(self, held: Held | None) -> None:
        """Wait for the end of what lets the guest run, and ask it to."""
        worker = self._worker
        while held is not None and worker is not None and worker.is_alive():
            held.interrupt()
            worker.join(ASK_AGAIN)

    @contextmanager
    def _still(self) -> Iterator[None]:
        """The guest stands still meanwhile, and runs on afterwards where it ran: points are changed
        by one thread at a time."""
        if not self._running:
            yield
            return
        self._quiet = True
        self._until_still(self._held)
        self._quiet = False
        cut, self._cut = self._cut, False
        try:
            yield
        finally:
            if cut:
                self._go(lambda: self.held.live().debugger.go())

    def continue_(self, given: Message) -> Json:
        self._refuse_running()
        guest = self.held.live()
        self._after.append(lambda: self._go(guest.debugger.go))
        return {"allThreadsContinued": True}

    def next_(self, given: Message) -> Json:
        return self._step(given, over=True)

    def step_in(self, given: Message) -> Json:
        return self._step(given, over=False)

    def _step(self, given: Message, *, over: bool) -> Json:
        self._refuse_running()
        guest, cpu = self.held.live(), self._cpu(given).index
        stepper = guest.stepper(cpu)
        if given.get("granularity") == "instruction":
            self._after.append(lambda: self._go(lambda: stepper.instruction(over=over)))
        else:
            self._after.append(lambda: self._go(lambda: stepper.line(over=over)))
        return None

    def step_out(self, given: Message) -> Json:
        self._refuse_running()
        guest = self.held.live()
        stepper, kernel = guest.stepper(self._cpu(given).index), guest.kernel
        self._after.append(lambda: self._go(lambda: stepper.finish(kernel)))
        return None

    def step_back(self, given: Message) -> Json:
        self._refuse_running()
        travel = self._recording().travel
        if given.get("granularity") == "instruction":
            self._after.append(lambda: self._go(lambda: travel.back(1)))
        else:
            self._after.append(lambda: self._go(lambda: travel.back_line(over=True)))
        return None

    def reverse_continue(self, given: Message) -> Json:
        self._refuse_running()
        travel = self._recording().travel
        self._after.append(lambda: self._go(travel.back_to_point))
        return None

    def pause(self, given: Message) -> Json:
        held, worker = self.held, self._worker
        if not self._running:
            raise InputError("the guest stands still already")
        while self._running and worker is not None and not held.interrupt():
            worker.join(ASK_AGAIN)  # it is only about to run
        return None

    def _recording(self) -> HeldRecording:
        held = self.held
        if not isinstance(held, HeldRecording):
            raise InputError(
                "only a recording can be gone back in", fix='launch with "replay": DIR'
            )
        return held

    def _refuse_running(self) -> None:
        if self._running:
            raise InputError("the guest is running already", fix="pause stops it")

    # Points ----------------------------------------------------------------------------------

    def set_breakpoints(self, given: Message) -> Json:
        source = _object(given.get("source"))
        path = str(source.get("path") or source.get("name") or "")
        wanted = [(f"{path}:{one.get('line')}", one) for one in _objects(given.get("breakpoints"))]
        return self._replace(f"source {path}", wanted)

    def set_function_breakpoints(self, given: Message) -> Json:
        wanted = [(str(one.get("name")), one) for one in _objects(given.get("breakpoints"))]
        return self._replace("functions", wanted)

    def set_instruction_breakpoints(self, given: Message) -> Json:
        wanted = []
        for one in _objects(given.get("breakpoints")):
            offset = one.get("offset")
            at = int(str(one.get("instructionReference")), 0)
            at += offset if isinstance(offset, int) else 0
            wanted.append((f"{at:#x}", one))
        return self._replace("instructions", wanted)

    def _replace(self, owner: str, wanted: list[tuple[str, Message]]) -> Json:
        if self._points is None:
            why = "it holds no guest that runs"
            return {"breakpoints": [{"verified": False, "message": why} for _ in wanted]}
        with self._still():
            return {"breakpoints": list[Json](self._points.replace(owner, wanted))}

    def set_exception_breakpoints(self, given: Message) -> Json:
        filters = given.get("filters")
        named = filters if isinstance(filters, list) else []
        if self.held.runs:
            with self._still():
                self.held.live().debugger.catching = (
                    "all" if "all" in named else "unexpected" if "unexpected" in named else "none"
                )
        return None

    # Looking ---------------------------------------------------------------------------------

    def threads(self, given: Message) -> Json:
        if self._running:
            smp = self._shown
            return {"threads": [{"id": 1, "name": "CPU 0"}] if smp is None else smp.threads()}
        return {"threads": list[Json](self.shown.threads())}

    def _cpu(self, given: Message) -> Cpu:
        number = _number(given, "threadId", 1)
        for cpu in self.shown.kernel.stop.cpus:
            if cpu.index == number - 1:
                return cpu
        raise InputError(f"there is no thread {number}", "threads are CPUs, counted from 1")

    def stack_trace(self, given: Message) -> Json:
        start, levels = _number(given, "startFrame", 0), _number(given, "levels", 0)
        return self.shown.stack(self._cpu(given), max(start, 0), max(levels, 0))

    def scopes(self, given: Message) -> Json:
        return {"scopes": list[Json](self.shown.scopes(_number(given, "frameId", 0)))}

    def variables(self, given: Message) -> Json:
        found = self.shown.variables(_number(given, "variablesReference", 0))
        start, count = _number(given, "start", 0), _number(given, "count", 0)
        return {"variables": list[Json](found[start : start + count] if count else found[start:])}

    def evaluate(self, given: Message) -> Json:
        text = str(given.get("expression") or "")
        if text.strip() == "explain":
            shown = self.shown.kernel is not None
            return {"result": stopped.explained(self.held) or "nothing was found" if shown else ""}
        frame = _number(given, "frameId", 0)
        return self.shown.evaluate(text, frame or None)

    def exception_info(self, given: Message) -> Json:
        return stopped.exception(self.held) if self.shown else None

    def read_memory(self, given: Message) -> Json:
        reference = str(given.get("memoryReference"))
        return self.shown.memory(reference, _number(given, "offset", 0), _number(given, "count", 0))

    def disassemble(self, given: Message) -> Json:
        found = self.shown.code(
            str(given.get("memoryReference")),
            _number(given, "offset", 0),
            _number(given, "instructionOffset", 0),
            _number(given, "instructionCount", 1),
        )
        return {"instructions": list[Json](found)}


def _requests(adapter: Adapter) -> dict[str, Callable[[Message], Json]]:
    """What an editor may ask, by the protocol's names."""
    return {
        "initialize": adapter.initialize,
        "launch": adapter.launch,
        "attach": adapter.attach,
        "configurationDone": adapter.configuration_done,
        "disconnect": adapter.disconnect,
        "terminate": adapter.terminate,
        "continue": adapter.continue_,
        "next": adapter.next_,
        "stepIn": adapter.step_in,
        "stepOut": adapter.step_out,
        "stepBack": adapter.step_back,
        "reverseContinue": adapter.reverse_continue,
        "pause": adapter.pause,
        "setBreakpoints": adapter.set_breakpoints,
        "setFunctionBreakpoints": adapter.set_function_breakpoints,
        "setInstructionBreakpoints": adapter.set_instruction_breakpoints,
        "setExceptionBreakpoints": adapter.set_exception_breakpoints,
        "threads": adapter.threads,
        "stackTrace": adapter.stack_trace,
        "scopes": adapter.scopes,
        "variables": adapter.variables,
        "evaluate": adapter.evaluate,
        "exceptionInfo": adapter.exception_info,
        "readMemory": adapter.read_memory,
        "disassemble": adapter.disassemble,
    }


def _number(given: Message, name: str, default: int) -> int:
    """A whole number of a request. Raises `InputError`."""
    value = given.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} should be a whole number, and is {str(value)[:40]}")
    return value


def _object(value: Json) -> Message:
    return value if isinstance(value, dict) else {}


def _objects(value: Json) -> list[Message]:
    return (
        [cast(Message, one) for one in value if isinstance(one, dict)]
        if isinstance(value, list)
        else []
    )
