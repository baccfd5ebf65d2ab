"""A gdb of ours over its machine interface: one command, one answer, told apart by tokens.

pygdbmi reads the records; its own `write` is not used, because it takes silence for the end of an
answer (pygdbmi IoManager.py). Here an answer ends with its result record, whenever that comes.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from breenix_gdbagent.errors import InputError, LinkClosed, LinkTimeout
from breenix_gdbagent.link.deadline import Deadline

START_SECONDS = 20.0
ANSWER_SECONDS = 20.0
LEAVE_SECONDS = 2.0

NO_CORE = (
    "-iex", "maintenance set internal-error corefile no",
    "-iex", "maintenance set internal-warning corefile no",
)  # fmt: skip
"""gdb 13 ends in an internal error on some Rust values, and writes a core file of itself where it
was started unless it is told not to: it lifts the limit on core files first (gdb/utils.c,
``dump_core``)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`result` is the class of the result record (``done``, ``running``), `value` its ``value``
    field, `console` what gdb printed meanwhile."""

    result: str
    value: str | None
    console: str


class GdbMi:
    """One gdb process. Raises `InputError` without gdb or pygdbmi."""

    def __init__(self, arguments: Sequence[str] = (), program: str = "gdb") -> None:
        found = shutil.which(program)
        if found is None:
            raise InputError("gdb is not installed", fix="install it: apt install gdb")
        try:
            from pygdbmi.gdbmiparser import parse_response
        except ImportError as error:
            raise InputError(
                "gdb's answers cannot be read without pygdbmi",
                fix="install it: pip install pygdbmi",
            ) from error
        self._parse: Callable[[str], dict[str, object]] = parse_response
        self._token = 0
        self._buffer = b""
        self._process = subprocess.Popen(
            [found, "-q", "-nx", "--interpreter=mi3", *NO_CORE, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self.execute("-gdb-set pagination off", START_SECONDS)
        # An internal error ends it: it must not ask us whether to.
        self.console("maintenance set internal-error quit yes")

    @property
    def ended(self) -> bool:
        """Whether gdb is gone."""
        return self._process.poll() is not None

    def execute(self, command: str, seconds: float = ANSWER_SECONDS) -> Answer:
        """One MI command. Raises `InputError` with gdb's words for what gdb refuses,
        `LinkTimeout`, `LinkClosed`."""
        self._token += 1
        token = self._token
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{token}{command}\n".encode())
            self._process.stdin.flush()
        except OSError as error:
            raise LinkClosed("gdb has ended") from error
        deadline = Deadline(seconds)
        printed: list[str] = []
        while True:
            record = self._parse(self._line(deadline, command))
            payload = record.get("payload")
            if record.get("type") == "console":
                printed.append(str(payload))
            elif record.get("type") == "result" and record.get("token") == token:
                fields = payload if isinstance(payload, dict) else {}
                if record.get("message") == "error":
                    raise InputError(f"gdb: {fields.get('msg', 'it failed')}")
                value = fields.get("value")
                shown = None if value is None else str(value)
                return Answer(str(record.get("message")), shown, "".join(printed))

    def console(self, command: str, seconds: float = ANSWER_SECONDS) -> str:
        """What gdb prints for a command of its console. Raises as `execute`."""
        quoted = command.replace("\\", "\\\\").replace('"', '\\"')
        return self.execute(f'-interpreter-exec console "{quoted}"', seconds).console

    def evaluate(self, expression: str) -> str:
        """What an expression comes to, in gdb's words. Raises as `execute`."""
        quoted = expression.replace("\\", "\\\\").replace('"', '\\"')
        return self.execute(f'-data-evaluate-expression "{quoted}"').value or ""

    def close(self) -> None:
        """End gdb."""
        process = self._process
        if process.poll() is None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.write(b"-gdb-exit\n")
                process.stdin.flush()
        try:
            process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _line(self, deadline: Deadline, command: str) -> str:
        """The next record."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([fd], [], [], deadline.left())[0]:
                raise LinkTimeout(f"gdb's {command}", deadline.seconds or 0)
            data = os.read(fd, 1 << 16)
            if not data:
                raise LinkClosed("gdb has ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")
