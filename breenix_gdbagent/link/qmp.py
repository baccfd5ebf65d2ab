"""QEMU's monitor: `qemu.qmp` on one event loop in one thread, and synchronous calls to it.

Heavy (asyncio): imported only by what has a QMP socket in hand.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, TypeVar, cast

from qemu.qmp import ConnectError as QmpConnectError
from qemu.qmp import EventListener, Message, QMPClient, QMPError
from qemu.qmp.message import DeserializationError
from qemu.qmp.qmp_client import ExecInterruptedError, ExecuteError

from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import ConnectError, LinkClosed, LinkError, LinkTimeout
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.link.hmptext import parse_ram_map
from breenix_gdbagent.link.peer import with_cause
from breenix_gdbagent.memory.elf import read_headers
from breenix_gdbagent.memory.interface import RamMap
from breenix_gdbagent.x86.core_notes import cpus_of_notes

ANSWER_SECONDS = 5.0
RESTS = 500
READING_SECONDS = 0.01
_T = TypeVar("_T")


_STOP, _RESUME = b'"event": "STOP"}\r\n', b'"event": "RESUME"}\r\n'


def _message(line: bytes) -> Message:
    """Raises `DeserializationError` also for what qemu.qmp does not expect: text that is no UTF-8,
    lists in lists by the hundred."""
    try:
        return Message(line, eager=True)
    except (ValueError, RecursionError) as error:
        raise DeserializationError(f"no JSON that can be read ({error})", line) from error


class _Client(QMPClient):
    """It takes STOP and RESUME off the line before they are parsed: each breakpoint that is passed
    brings four of them. And any event that QEMU sends before its answer to ``qmp_capabilities``,
    which qemu.qmp takes for that answer: of a guest that resets again and again there are many."""

    resumed = False
    negotiated = False

    async def _negotiate(self) -> None:
        await super()._negotiate()
        self.negotiated = True

    async def _do_recv(self) -> Message:
        while True:
            line = await self._readline()
            if line.endswith(_RESUME):
                self.resumed = True
            elif not line.endswith(_STOP):
                message = _message(line)
                if self.negotiated or "event" not in message:
                    return message


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """An event of QEMU's (SHUTDOWN, RESET, RESUME, ...) with its data."""

    name: str
    data: Mapping[str, object]


class Qmp:
    """A monitor connection. Every call has a deadline; `wake` is readable when events wait.
    `guest_resets` counts the resets that the guest made and QEMU did not stop it for."""

    def __init__(
        self, where: socket.socket | str, *, seconds: float = ANSWER_SECONDS, pid: int = 0
    ) -> None:
        """`where` is a connected socket, or the path of a unix socket; `pid` is QEMU's, 0 where it
        is not known: whether it is stopped is then told of a silence. Raises `ConnectError`,
        also when another client has that monitor (it then sends no greeting)."""
        self.seconds = seconds
        self._pid = pid
        self.wake, self._waker = socket.socketpair()
        self.wake.setblocking(False)
        self._waker.setblocking(False)
        self._events: list[QmpEvent] = []
        self._shutdown = ""
        self.guest_resets = 0
        self._lock = threading.Lock()
        self._calls = 0
        self._rests = 0
        self._resting = False
        self._awake = threading.Event()
        self._awake.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        self._client = _Client("breenix-gdbagent")
        self.passes_files = isinstance(where, str) or where.family == socket.AF_UNIX
        try:
            self._call(self._connect(where), "the QMP greeting", seconds)
        except LinkTimeout as error:
            self._stop()
            silent = ConnectError(
                "the QMP socket is silent: it serves one client at a time",
                f"no greeting within {seconds:g} s",
                "give the agent one of its own (a second -qmp), or continue QEMU if it is stopped",
            )
            raise with_cause(silent, pid) from error
        except LinkClosed:
            self._stop()
            raise
        except QmpConnectError as error:
            self._stop()
            # Its further lines are the bytes that came, however many.
            why = str(error.exc).partition("\n")[0]
            raise ConnectError("no QMP there", why, "is that QEMU's -qmp socket?") from error

    @property
    def version(self) -> str | None:
        """QEMU's, as its greeting gave it (``7.2.22``): known also when QEMU has ended."""
        greeting = self._client.greeting
        number = greeting.QMP.version.get("qemu") if greeting is not None else None
        if not isinstance(number, dict):
            return None
        return ".".join(str(number.get(part)) for part in ("major", "minor", "micro"))

    async def _connect(self, where: socket.socket | str) -> None:
        self._listener = EventListener()
        self._client.register_listener(self._listener)
        try:
            await self._client.connect(where)
        except AssertionError as error:
            # qemu.qmp takes it for impossible that QEMU ends right behind its greeting.
            raise EOFError("QEMU ended during the QMP greeting") from error
        self._pump = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        async for message in self._listener:
            data = message.get("data")
            event = QmpEvent(str(message["event"]), data if isinstance(data, dict) else {})
            with self._lock:
                self._events.append(event)
                if event.name == "SHUTDOWN":
                    self._shutdown = str(event.data.get("reason", ""))
                elif event.name == "RESET":
                    self._shutdown = ""
                    self.guest_resets += bool(event.data.get("guest"))
            with suppress(BlockingIOError, OSError):
                self._waker.send(b"!")

    def events(self) -> list[QmpEvent]:
        """Events since the last call, except STOP; of RESUME one at most, for which `wake` does
        not wake. Makes `wake` quiet again. Raises `LinkError`."""
        if self._resting:
            self.status()  # what came before its answer is read then
        with suppress(BlockingIOError):
            while self.wake.recv(4096):
                pass
        with self._lock:
            taken, self._events = self._events, []
        if self._client.resumed:
            self._client.resumed = False
            taken.append(QmpEvent("RESUME", {}))
        return taken

    def rest(self) -> None:
        """Leave the socket unread until the next call: of each stop and each start of the guest
        QEMU tells an event, and to read those takes as long as a stop does. QEMU keeps them
        meanwhile; so that they do not pile up, every `RESTS` times they are read."""
        with self._lock:
            self._rests += 1
            if self._calls or (self._resting and self._rests % RESTS):
                return
            self._resting = True
            self._awake.set()
        self._loop.call_soon_threadsafe(self._loop.call_later, READING_SECONDS, self._sleep)

    def _sleep(self) -> None:
        """On the loop, which stands still in here."""
        with self._lock:
            if not self._resting:
                return
            self._awake.clear()
        self._awake.wait()

    @contextmanager
    def _called(self) -> Iterator[None]:
        with self._lock:
            self._calls += 1
            self._resting = False
            self._awake.set()
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        seconds: float | None = None,
    ) -> object:
        """What QEMU returns for `command`. Raises `LinkError`, `LinkTimeout`, `LinkClosed`."""
        return self._call(
            self._client.execute(command, arguments),
            f"QMP {command}",
            self.seconds if seconds is None else seconds,
        )

    def hmp(self, line: str, seconds: float | None = None) -> str:
        """What the human monitor prints for `line`. Its text is no stable interface."""
        answer = self.execute("human-monitor-command", {"command-line": line}, seconds)
        return str(answer).replace("\r\n", "\n")

    def status(self) -> str:
        """QEMU's run state: ``running``, ``paused``, ``shutdown``, ``prelaunch``, ..."""
        answer = self.execute("query-status")
        return str(answer.get("status", "")) if isinstance(answer, dict) else ""

    def shutdown_reason(self) -> str:
        """Why the machine was shut down, by QEMU's last SHUTDOWN event (QAPI, ShutdownCause):
        ``guest-shutdown``, ``guest-reset`` (a triple fault too), ``guest-panic``, ``host-...``;
        empty when none has come since the last reset. Raises `LinkError`."""
        self.status()  # what came before its answer is read then
        return self._shutdown

    def reset(self, action: str, seconds: float = ANSWER_SECONDS) -> None:
        """Reset the machine, also one whose own resets are to pause it (``-action``); it stands
        still afterwards if it did before. `action` is its reboot action, ``reset`` or ``shutdown``,
        to be put back. Returns when it is done. Raises `LinkError`."""
        self.events()
        self._shutdown = ""
        self.execute("set-action", {"reboot": "reset"})
        try:
            self.execute("system_reset")
            deadline = Deadline(seconds)
            while not any(event.name == "RESET" for event in self.events()):
                if not select.select([self.wake], [], [], deadline.left())[0]:
                    raise LinkTimeout("QMP system_reset", seconds)
        finally:
            self.execute("set-action", {"reboot": action})

    def ram_map(self) -> RamMap:
        """Where RAM is, from ``info mtree -f``."""
        return parse_ram_map(self.hmp("info mtree -f"))

    def cpus(self, begin: int) -> tuple[Cpu, ...]:
        """All CPUs with their descriptor registers, of a guest that is stopped.

        The registers come with an ELF core of one byte of memory, at the RAM address `begin`
        (QEMU dump/dump.c, target/i386/arch_dump.c): a millisecond, and no gdb connection. Only
        where `passes_files`: QEMU writes to a descriptor that we send along.
        """
        with _scratch() as file:
            return self._call(
                self._dump(file.fileno(), begin), "QMP dump-guest-memory", self.seconds
            )

    async def _dump(self, fd: int, begin: int) -> tuple[Cpu, ...]:
        self._client.send_fd_scm(fd)
        await self._client.execute("getfd", {"fdname": "registers"})
        await self._client.execute(
            "dump-guest-memory",
            {"paging": False, "protocol": "fd:registers", "begin": begin, "length": 1},
        )
        size = os.fstat(fd).st_size
        data = memoryview(os.pread(fd, size, 0))
        notes = read_headers(data, "QEMU's register dump").notes
        # In 16- and 32-bit mode the notes of Linux's shape beside QEMU's own are of another kind.
        return cpus_of_notes(note for note in notes if note.owner == "QEMU")

    def close(self) -> None:
        """End the connection and the thread. Twice does no harm."""
        if self._thread.is_alive():
            with suppress(LinkError, QMPError, OSError, EOFError):
                self._call(self._client.disconnect(), "a disconnect", 1.0)
            self._stop()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self) -> None:
        # What is cancelled here may be in the middle of ending by itself (qemu.qmp gathers its
        # tasks then), and asyncio would print that nobody asked for the outcome.
        self._loop.set_exception_handler(lambda loop, context: None)
        with self._called():
            with suppress(FutureTimeout):
                asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(1.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        self.wake.close()
        self._waker.close()

    def _call(self, work: Coroutine[object, object, _T], what: str, seconds: float) -> _T:
        """Run `work` on the loop and wait for it here, no longer than `seconds`."""
        future: Future[_T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            with self._called():
                return future.result(seconds)
        except FutureTimeout as error:
            future.cancel()
            raise with_cause(LinkTimeout(what, seconds), self._pid) from error
        except ExecuteError as error:
            raise LinkError(f"QEMU refused {what}", str(error)) from error
        except QmpConnectError:
            raise
        except (QMPError, ExecInterruptedError, EOFError, OSError) as error:
            raise LinkClosed(f"the QMP connection ended during {what}", str(error)) from error


def _scratch() -> BinaryIO:
    """A file without a name, in memory where the system has that: no disk can be in the way.
    Raises `LinkError`."""
    try:
        if sys.platform == "linux":
            return os.fdopen(os.memfd_create("registers"), "w+b")
        return cast(BinaryIO, tempfile.TemporaryFile())
    except OSError as error:
        raise LinkError(
            "no room for the register dump",
            error.strerror or str(error),
            "set TMPDIR to a directory that can be written",
        ) from error
