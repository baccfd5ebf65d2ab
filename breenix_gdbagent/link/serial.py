"""The guest's serial lines: every byte kept, in order of arrival, with its time and port.

One thread reads all ports while the guest runs, so that a guest never waits for us to take its
text. `sync` takes what has arrived up to now in the caller's thread: after a stop nothing that
the guest wrote before it is missing, because QEMU writes it out before the guest goes on.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from breenix_gdbagent.errors import InputError, LinkError, LinkTimeout
from breenix_gdbagent.patterns import compiled
from breenix_gdbagent.stop import SerialChunk, SerialText

TOGETHER = 0.005
GATHER = 0.002
SEND_SECONDS = 5.0
_RECEIVE = 1 << 16


class SerialPort:
    """Our end of one line: the descriptors to read and to write, which may be the same."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader = reader
        self.writer = writer
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)

    @classmethod
    def of_socket(cls, sock: socket.socket) -> SerialPort:
        """Takes the socket over."""
        fd = sock.detach()
        return cls(fd, fd)

    @classmethod
    def fifo(cls, path: Path) -> SerialPort:
        """The FIFOs PATH.in and PATH.out of QEMU's ``pipe`` chardev, made here."""
        into, out = (path.with_name(path.name + end) for end in (".in", ".out"))
        os.mkfifo(into, 0o600)
        os.mkfifo(out, 0o600)
        reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if sys.platform == "linux":
            # Less than that is refused to nobody, more may be: then it stays as it is.
            with suppress(OSError):
                fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)
        return cls(reader, os.open(into, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))

    def close(self) -> None:
        """Twice does no harm."""
        for fd in {self.reader, self.writer} - {-1}:
            os.close(fd)
        self.reader = self.writer = -1


class Match(NamedTuple):
    """Where a pattern matched: `start` and `end` count characters of the port's text."""

    pattern: str
    port: int
    start: int
    end: int
    text: str
    line: str
    seconds: float


class PortText:
    """The decoded text of one port: what is searched is the last, unfinished line and news.

    A character cut in two by arrival waits for its rest.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._before: list[str] = []
        self.base = 0
        self.tail = ""

    def add(self, data: bytes) -> None:
        self.tail += self._decoder.decode(data)

    def finish_lines(self) -> None:
        """Put whole lines away: they have been searched."""
        end = self.tail.rfind("\n") + 1
        if end:
            self._before.append(self.tail[:end])
            self.base += end
            self.tail = self.tail[end:]

    @property
    def last_line(self) -> str:
        """The last line that is not blank, finished or not."""
        before = self._before[-1] if self._before else ""
        return (before + self.tail).strip().rpartition("\n")[2].strip("\r")

    def whole(self) -> str:
        return "".join(self._before) + self.tail


class Watch:
    """A set of patterns looked for in the complete text of every port, each match once.

    ``^`` and ``$`` mean lines. Each line is searched whole, however it is cut by arrival; a
    pattern with a newline in it (or ``(?s)``) is searched in all the text, each time from the
    end of its last match, which costs more.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        *,
        after: Mapping[int, int] | None = None,
        wakes: bool = True,
    ) -> None:
        """`after` says, by port, how many characters to pass over; `wakes` whether a match wakes
        who waits. Raises `InputError` for a pattern that is none."""
        self._compiled = [compiled(p, flags=re.MULTILINE) for p in patterns]
        self.wakes = wakes
        self.found: list[Match] = []
        self._after = dict(after or {})
        self._from: dict[tuple[int, int], int] = {}
        self._met: set[int] = set()

    def search(self, port: int, text: PortText, seconds: float) -> list[Match]:
        """New matches in what the port has said so far, in order of their ends."""
        found = []
        first = port not in self._met
        self._met.add(port)
        for index, pattern in enumerate(self._compiled):
            spans = bool(pattern.flags & re.DOTALL) or "\n" in pattern.pattern.replace("\\n", "\n")
            base, searched = (0, text.whole()) if spans or first else (text.base, text.tail)
            start = max(self._from.get((index, port), self._after.get(port, 0)), base)
            for match in pattern.finditer(searched, start - base):
                # "$" at the end of what is there may be the middle of a line still arriving.
                if match.end() == len(searched) and _AT_END.search(pattern.pattern):
                    break
                if match.end() > match.start():
                    found.append(_match(pattern.pattern, port, match, base, seconds))
                    start = base + match.end()
            self._from[index, port] = start
        return sorted(found, key=lambda m: m.end)


_AT_END = re.compile(r"\$|\\Z")


def _match(pattern: str, port: int, found: re.Match[str], base: int, seconds: float) -> Match:
    text = found.string
    begin = text.rfind("\n", 0, found.start()) + 1
    end = text.find("\n", found.end())
    line = text[begin : end if end >= 0 else len(text)].strip("\r\n")
    return Match(pattern, port, base + found.start(), base + found.end(), found[0], line, seconds)


class SerialLines:
    """All ports of one guest. `clock()` gives the seconds that a chunk is stamped with."""

    def __init__(self, ports: Sequence[SerialPort], clock: Callable[[], float]) -> None:
        self._ports = dict(enumerate(ports))
        self._numbers = {port.reader: n for n, port in self._ports.items()}
        self._clock = clock
        self._lock = threading.Lock()
        self._chunks: list[SerialChunk] = []
        self._open: tuple[int, float, bytearray] | None = None
        self._texts = {n: PortText() for n in self._ports}
        self._watches: list[Watch] = []
        self._last = 0
        self.wake_on_text = False
        self.listener: Callable[[int, bytes], None] | None = None
        self.wake, self._waker = socket.socketpair()
        self.wake.setblocking(False)
        self._waker.setblocking(False)
        self._quit, self._quitter = socket.socketpair()
        self._thread = threading.Thread(target=self._read_all, name="serial", daemon=True)
        self._thread.start()

    @property
    def ports(self) -> int:
        """How many there are."""
        return len(self._ports)

    @property
    def text(self) -> SerialText:
        """Everything so far."""
        with self._lock:
            self._shut()
            return SerialText(tuple(self._chunks))

    @property
    def last_line(self) -> str:
        """The last line that is not blank, of whichever port spoke last."""
        with self._lock:
            return self._texts[self._last].last_line if self._texts else ""

    @property
    def unfinished(self) -> dict[int, int]:
        """By port: after how many characters its unfinished line begins."""
        with self._lock:
            for text in self._texts.values():
                text.finish_lines()
            return {port: text.base for port, text in self._texts.items()}

    def add(self, watch: Watch) -> None:
        """Look for its patterns from now on, in what is there already too."""
        with self._lock:
            self._watches.append(watch)
            for port, text in self._texts.items():
                self._found(watch, watch.search(port, text, self._clock()))

    def remove(self, watch: Watch) -> None:
        """Look for them no more."""
        with self._lock:
            self._watches.remove(watch)

    def take(self, watch: Watch) -> list[Match]:
        """Its matches since the last call, in order of arrival; makes `wake` quiet again."""
        with self._lock:
            with suppress(BlockingIOError):
                while self.wake.recv(4096):
                    pass
            found, watch.found = watch.found, []
            return found

    def send(self, data: bytes, port: int = 0) -> None:
        """Type into the guest's port. Raises `LinkTimeout` when the guest does not take it,
        `LinkError` where there is no such port or it is closed."""
        if not 0 <= port < len(self._ports):
            raise LinkError(f"the guest has no serial port {port}", f"it has {len(self._ports)}")
        fd = self._ports[port].writer
        view = memoryview(data)
        while view:
            if fd < 0:
                raise LinkError(f"serial port {port} is closed")
            if not select.select([], [fd], [], SEND_SECONDS)[1]:
                raise LinkTimeout(f"text for serial port {port}", SEND_SECONDS)
            try:
                view = view[os.write(fd, view) :]
            except OSError as error:
                raise LinkError(f"serial port {port} is closed", error.strerror or "") from error

    def sync(self) -> None:
        """Take everything that has arrived up to now."""
        with self._lock:
            while ready := _ready([*self._numbers], 0):
                self._take(ready)

    def drain(self, seconds: float) -> bool:
        """After QEMU's end: wait until every port is read to its end. False: not in time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop reading. The text stays."""
        self._quitter.close()
        self._thread.join()
        for sock in (self.wake, self._waker, self._quit):
            sock.close()
        for port in self._ports.values():
            port.close()

    def _read_all(self) -> None:
        quit_fd = self._quit.fileno()
        while self._numbers:
            ready = _ready([*self._numbers, quit_fd], None)
            with self._lock:
                self._take(ready)
            # A guest that prints wakes us for each byte else, and pays for it.
            if _ready([quit_fd], GATHER):
                return

    def _take(self, ready: list[int]) -> None:
        """Read what these descriptors hold; another thread may have been faster."""
        heard = set()
        for fd in ready:
            port = self._numbers.get(fd)
            if port is None:
                continue
            try:
                data = os.read(fd, _RECEIVE)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                del self._numbers[fd]
                continue
            self._keep(port, data)
            if self.listener is not None:
                self.listener(port, data)
            self._texts[port].add(data)
            heard.add(port)
            self._last = port
        if heard:
            self._search(heard)

    def _keep(self, port: int, data: bytes) -> None:
        """A UART writes byte by byte: what comes within `TOGETHER` seconds is one chunk."""
        now = self._clock()
        if self._open is None or self._open[0] != port or now - self._open[1] > TOGETHER:
            self._shut()
            self._open = (port, now, bytearray())
        self._open[2].extend(data)

    def _shut(self) -> None:
        if self._open is not None:
            port, seconds, data = self._open
            self._chunks.append(SerialChunk(port, seconds, bytes(data)))
            self._open = None

    def _search(self, ports: Iterable[int]) -> None:
        for port in ports:
            for watch in self._watches:
                self._found(watch, watch.search(port, self._texts[port], self._clock()))
            self._texts[port].finish_lines()
        if self.wake_on_text:
            self._wake()

    def _found(self, watch: Watch, matches: list[Match]) -> None:
        watch.found += matches
        if matches and watch.wakes:
            self._wake()

    def _wake(self) -> None:
        # A full pipe is readable already.
        with suppress(BlockingIOError):
            self._waker.send(b"!")


def _ready(fds: Sequence[int], seconds: float | None) -> list[int]:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(None if seconds is None else seconds * 1000)]


def follow(path: Path) -> SerialPort:
    """A line that carries what is in a file and what is appended to it (``-serial file:``).

    The file is looked at 20 times a second: no portable call waits for it to grow. Raises
    `InputError` when it cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or "") from error
    ours, theirs = socket.socketpair()

    def copy() -> None:
        with file, theirs, suppress(OSError):
            poll = select.poll()
            poll.register(theirs, select.POLLIN)
            while True:
                while data := file.read(_RECEIVE):
                    theirs.sendall(data)
                if poll.poll(50):
                    return

    threading.Thread(target=copy, name="serial-file", daemon=True).start()
    return SerialPort.of_socket(ours)
