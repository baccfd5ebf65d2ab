"""The user's own gdb beside us: a stub of ours in front of QEMU's, which has one client only.

Registers are QEMU's, memory is read the way we read it (page tables and RAM, never MMIO), and a run
is a run of ours: our points stop gdb too. gdb's breakpoints are in the guest when gdb has them in:
it takes them out at each stop, unless it was told to ``set breakpoint always-inserted on``. When
the shell has let the guest run since gdb looked last, gdb's next continue or step shows it that
stop and runs nothing. A recording goes backwards too (gdb manual, Reverse Execution).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from breenix_gdbagent.debugger.arbiter import Arbiter
from breenix_gdbagent.debugger.stop_event import Say, StopEvent
from breenix_gdbagent.errors import AgentError, InputError, LinkError, ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.link.breakpoints import Break, Ledger
from breenix_gdbagent.link.bridge import RspServer
from breenix_gdbagent.link.gdbstub import GdbStub
from breenix_gdbagent.stop import StopReason

PACKET = 0x4000
KINDS = {"0": "hardware", "1": "hardware", "2": "write", "3": "read", "4": "access"}
OWNER = "gdb"
_VCONT = re.compile(r"([csCS])[0-9a-f]*(?::(-?[0-9a-f.p]+))?")
_SPAN = re.compile(r"m([0-9a-f]+),([0-9a-f]+)\Z")
_POINT = re.compile(r"([zZ])([0-4]),([0-9a-f]+),([0-9a-f]+)")
_FEATURES = re.compile(r"qXfer:features:read:([\w.-]+):([0-9a-f]+),([0-9a-f]+)\Z")
_OK, _EMPTY, _FAULT = b"OK", b"", b"E14"


class Backwards(NamedTuple):
    """How a recording goes back: one instruction, or to the last point, fault or its beginning."""

    one: Callable[[], StopEvent]
    to_point: Callable[[], StopEvent]
    at_begin: Callable[[], bool]
    at_end: Callable[[], bool]


class GdbBridge:
    """Answers one gdb. `monitor(line)` runs a command of the shell's for gdb's ``monitor``; `say`
    is told who comes and goes; `backwards` is a recording's."""

    def __init__(
        self,
        arbiter: Arbiter,
        path: Path,
        monitor: Callable[[str], str],
        say: Say,
        backwards: Backwards | None = None,
    ) -> None:
        self.arbiter = arbiter
        self.name = path.name
        self.monitor = monitor
        self.say = say
        self.backwards = backwards
        self._joined = False
        self._seen = arbiter.stops
        self._thread = 0
        self._kernel: tuple[int, Kernel] | None = None
        self._reason = StopReason("attached")
        arbiter.listeners.append(self._stopped)
        self.server = RspServer(path, self)

    def close(self) -> None:
        """End the bridge; gdb's breakpoints go."""
        self.server.close()
        if self._stopped in self.arbiter.listeners:
            self.arbiter.listeners.remove(self._stopped)
        self._forget()

    # A client --------------------------------------------------------------------------------

    def joined(self) -> None:
        """gdb expects a stopped guest: one that runs is stopped."""
        self._joined = True
        self.say("gdb has connected to the bridge")
        self.arbiter.interrupt()

    def left(self, why: str) -> None:
        """Its breakpoints go; a run of its is stopped."""
        self.say(f"gdb has left the bridge{f': {why}' if why else ''}")
        self._joined = False
        if self.arbiter.owner == OWNER:
            self.arbiter.interrupt()
        self._forget()

    def _forget(self) -> None:
        """Nobody wants gdb's breakpoints any more. While the shell runs the guest its run loop has
        the ledger: then at the end of that run."""
        with suppress(InputError), self.arbiter.while_stopped(wait=True):
            self._ledger.set_wanted(self.name, ())

    def interrupt(self) -> None:
        """Ctrl-C in gdb: whoever runs the guest is stopped."""
        if not self.arbiter.interrupt():
            self.server.reply(self._stop_reply())

    def _stopped(self, who: str, event: StopEvent) -> None:
        self._reason = event.reason
        if not self._joined:
            self._ledger.set_wanted(self.name, ())

    # Packets ---------------------------------------------------------------------------------

    def answer(self, payload: bytes) -> bytes | None:
        """The reply to one packet; an empty one says that we do not know it."""
        text = payload.decode("latin-1")
        try:
            if text.startswith(("vCont;", "c", "C", "s", "S")):
                return self._resume(text)
            if text in ("bs", "bc") and self.backwards is not None:
                job = self.backwards.one if text == "bs" else self.backwards.to_point
                return self._begun(job)
            with self.arbiter.while_stopped(wait=self.arbiter.owner == ""):
                return self._asked(text, payload)
        except LinkError:
            return b"E01"
        except AgentError:
            return b"E02"

    def _asked(self, text: str, payload: bytes) -> bytes:
        for start, answer in self._TABLE:
            if text.startswith(start):
                return answer(self, text)
        if text[:1] in "PGMX" and text[1:2].isalnum():
            return self._written(payload)
        return _EMPTY

    def _supported(self, text: str) -> bytes:
        back = ";ReverseStep+;ReverseContinue+" if self.backwards is not None else ""
        return f"PacketSize={PACKET:x};qXfer:features:read+;vContSupported+{back}".encode()

    def _status(self, text: str) -> bytes:
        self._seen = self.arbiter.stops
        return self._stop_reply()

    def _select(self, text: str) -> bytes:
        if text[1:2] == "g":
            self._thread = max(_thread(text[2:]), 0)
        return _OK

    def _threads(self, text: str) -> bytes:
        count = len(self._view().stop.cpus)
        return b"m" + ",".join(f"{n + 1:x}" for n in range(count)).encode()

    def _thread_info(self, text: str) -> bytes:
        kernel = self._view()
        number = _thread(text.partition(",")[2]) - 1
        for cpu in kernel.stop.cpus:
            if cpu.index == number:
                name = kernel.thread_name(cpu)
                halted = " halted" if cpu.halted else ""
                return f"CPU {number}{halted}{f', {name}' if name else ''}".encode().hex().encode()
        return b"E03"

    def _alive(self, text: str) -> bytes:
        known = {cpu.index + 1 for cpu in self._view().stop.cpus}
        return _OK if _thread(text[1:]) in known else b"E03"

    def _registers(self, text: str) -> bytes:
        return self._stub.ask(b"Hg%02x" % (self._cpu + 1), text.encode())[1]

    def _memory(self, text: str) -> bytes:
        """What our page walk and RAM hold; as much as is mapped from the start."""
        found = _SPAN.match(text)
        if found is None:
            return _EMPTY
        va, length = int(found[1], 16), min(int(found[2], 16), PACKET // 2)
        kernel = self._view()
        cpu = next((c for c in kernel.stop.cpus if c.index == self._cpu), kernel.stop.cpu)
        root = cpu.root
        if root is None or cpu.paging is None:
            return self._stub.ask(b"Hg%02x" % (self._cpu + 1), text.encode())[1]
        read = kernel.memory_of(root).read
        data = b""
        while len(data) < length:
            at = (va + len(data)) & (2**64 - 1)
            step = min(length - len(data), 0x1000 - (at & 0xFFF))
            try:
                data += read(at, step)
            except ReadError:
                break
        return data.hex().encode() if data or not length else _FAULT

    def _point(self, text: str) -> bytes:
        """Recorded in the ledger: gdb takes its breakpoints out at each stop and puts them in
        again before the next run, and nothing of that is sent until the guest moves."""
        found = _POINT.match(text)
        if found is None:
            return _EMPTY
        kind = KINDS[found[2]]
        length = 1 if kind == "hardware" else int(found[4], 16)
        one = Break(kind, int(found[3], 16), length)
        change = self._ledger.want if found[1] == "Z" else self._ledger.release
        change(self.name, one)
        return _OK

    def _features(self, text: str) -> bytes:
        if _FEATURES.match(text) is None:
            return b"E00"
        return self._stub.ask(text.encode())[0]

    def _offsets(self, text: str) -> bytes:
        """Where the kernel runs, so that the symbols of gdb's ELF are put there."""
        bias = self.arbiter.debugger.loaded
        return f"TextSeg={bias.bias:x}".encode() if bias is not None else _EMPTY

    def _command(self, text: str) -> bytes:
        """``monitor COMMAND``: a command of the shell's."""
        try:
            line = bytes.fromhex(text.partition(",")[2]).decode("utf-8", "replace")
        except ValueError:
            return b"E01"
        self.server.console(self.monitor(line).encode() or b"\n")
        return _OK

    def _detach(self, text: str) -> bytes:
        """The guest stays in our hands, stopped as it is."""
        self._ledger.set_wanted(self.name, ())
        return _OK

    def _written(self, payload: bytes) -> bytes:
        """gdb changes a register or memory: the user's own doing, and said."""
        answer = self._stub.ask(b"Hg%02x" % (self._cpu + 1), payload)[1]
        what = "a register" if payload[:1] in b"PG" else "memory"
        self.say(f"gdb has changed {what} of the guest")
        self.arbiter.debugger.vm.was_changed()
        self._kernel = None
        return answer

    _TABLE: tuple[tuple[str, Callable[[GdbBridge, str], bytes]], ...] = (
        ("qSupported", _supported),
        ("vCont?", lambda self, text: b"vCont;c;C;s;S"),
        ("vKill", lambda self, text: _OK),
        ("?", _status),
        ("H", _select),
        ("qfThreadInfo", _threads),
        ("qsThreadInfo", lambda self, text: b"l"),
        ("qThreadExtraInfo", _thread_info),
        ("qC", lambda self, text: b"QC%x" % (self._reason.cpu + 1) if text == "qC" else _EMPTY),
        ("qAttached", lambda self, text: b"1"),
        ("T", _alive),
        ("g", _registers),
        ("p", _registers),
        ("m", _memory),
        ("z", _point),
        ("Z", _point),
        ("qXfer:features:read:", _features),
        ("qOffsets", _offsets),
        ("qRcmd,", _command),
        ("D", _detach),
    )

    @property
    def _ledger(self) -> Ledger:
        return self.arbiter.debugger.vm.ledger

    @property
    def _stub(self) -> GdbStub:
        return self.arbiter.debugger.vm.stub

    @property
    def _cpu(self) -> int:
        """The CPU that gdb has selected; 0 says any: the one that stopped."""
        return self._thread - 1 if self._thread > 0 else self._reason.cpu

    def _view(self) -> Kernel:
        """The stop, as it is now."""
        vm = self.arbiter.debugger.vm
        if self._kernel is None or self._kernel[0] != vm.epoch:
            self._kernel = vm.epoch, Kernel(self.arbiter.debugger.placed(vm.stop(self._reason)))
        return self._kernel[1]

    # Running ---------------------------------------------------------------------------------

    def _resume(self, text: str) -> bytes | None:
        if text.startswith("vCont;") and _VCONT.match(text, 6) is None:
            return b"E01"
        step = self._stepped(text)
        debugger = self.arbiter.debugger

        def job() -> StopEvent:
            if step is None:
                return debugger.go()
            debugger.begin()
            return debugger.step_on(step) or debugger.stopped(StopReason("step", step))

        return self._begun(job)

    def _begun(self, job: Callable[[], StopEvent]) -> bytes | None:
        """Have another thread do `job`, which answers; a stop that gdb has not seen is the answer
        at once."""
        if self.arbiter.owner:
            # The shell runs it: gdb waits for the same stop.
            threading.Thread(target=self._await_other, name="gdb-wait", daemon=True).start()
            return None
        if self._seen != self.arbiter.stops:
            self._seen = self.arbiter.stops
            return self._stop_reply()
        threading.Thread(target=self._run, args=(job,), name="gdb-run", daemon=True).start()
        return None

    def _stepped(self, text: str) -> int | None:
        """The CPU that is to be stepped, None for a continue."""
        if text.startswith("vCont;"):
            for action in text[6:].split(";"):
                found = _VCONT.match(action)
                if found is not None and found[1] in "sS":
                    thread = _thread(found[2] or "0")
                    return thread - 1 if thread > 0 else self._cpu
            return None
        return self._cpu if text[0] in "sS" else None

    def _run(self, job: Callable[[], StopEvent]) -> None:
        try:
            self.arbiter.run(OWNER, job)
        except AgentError as error:
            self.say(error.what)
            exited = self.arbiter.debugger.vm.exited
            self._reason = StopReason("exit" if exited else "interrupt")
        self._seen = self.arbiter.stops
        self.server.reply(self._stop_reply())

    def _await_other(self) -> None:
        with self.arbiter.ended():
            self._seen = self.arbiter.stops
            self.server.reply(self._stop_reply())

    def _stop_reply(self) -> bytes:
        """The last stop as the protocol has it (gdb manual, Stop Reply Packets)."""
        reason = self._reason
        if reason.kind == "exit" and self.arbiter.debugger.vm.exited:
            return b"W%02x" % ((reason.exit_status or 0) & 0xFF)
        signal = {"interrupt": 2, "shutdown": 3, "exit": 3}.get(reason.kind, 5)
        text = f"T{signal:02x}thread:{reason.cpu + 1:02x};"
        if self.backwards is not None and reason.kind != "breakpoint":
            if self.backwards.at_begin():
                return f"{text}replaylog:begin;".encode()
            if self.backwards.at_end():
                return f"{text}replaylog:end;".encode()
        watched = self.arbiter.debugger.vm.watched
        if watched is not None and reason.kind == "breakpoint":
            kind = {"write": "watch", "read": "rwatch", "access": "awatch"}[watched[0]]
            text += f"{kind}:{watched[1]:x};"
        return text.encode()


def _thread(text: str) -> int:
    """A thread id as gdb writes it: hexadecimal, -1 for all."""
    try:
        return int(text.rpartition(".")[2].removeprefix("p"), 16)
    except ValueError:
        return 0
