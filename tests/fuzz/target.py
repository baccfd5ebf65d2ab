"""One parser under fuzzing: what it is given, what it may answer, and how much it may cost."""

from __future__ import annotations

import os
import signal
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from breenix_gdbagent.errors import AgentError

HERE = Path(__file__).parent
CPU_SECONDS = 10.0
"""Of processor time, which no load of the machine stretches: an input takes milliseconds."""
MOST_LINES = 3
"""An error says what happened, why, and what to do."""


class Endless(BaseException):
    """An input kept the parser busy for `CPU_SECONDS`."""


class Wordy(AssertionError):
    """An error that is not told in three lines, or tells nothing."""


@dataclass(frozen=True)
class Target:
    """A parser: `parse` is given `data` and may raise `refusals` and nothing else.

    `seeds` are honest inputs to start from; `longest` is in bytes.
    """

    name: str
    parse: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    longest: int = 4096
    refusals: tuple[type[Exception], ...] = (AgentError,)

    def __str__(self) -> str:
        return self.name

    def give(self, data: bytes) -> bool:
        """Whether the parser takes `data`. Whatever else than a refusal it raises is a defect, and
        so is a refusal that nobody would understand."""
        try:
            self.parse(data)
        except self.refusals as refusal:
            if isinstance(refusal, AgentError):
                told = str(refusal)
                if not told.strip() or len(told.splitlines()) > MOST_LINES:
                    raise Wordy(repr(told)) from refusal
            return False
        return True

    def kept(self) -> Iterator[tuple[str, bytes]]:
        """(name, input) of each that is kept in the tree: what once broke a parser, a file each,
        and what together reaches most branches, a line of base64 each."""
        for path in sorted((HERE / "found" / self.name).glob("*")):
            yield f"found/{self.name}/{path.name}", path.read_bytes()
        corpus = self.corpus
        for number, line in enumerate(corpus.read_text().split() if corpus.exists() else (), 1):
            yield f"corpus/{self.name}:{number}", b64decode(line, validate=True)

    @property
    def corpus(self) -> Path:
        return HERE / "corpus" / f"{self.name}.b64"


@contextmanager
def bounded() -> Iterator[None]:
    """Raises `Endless` inside when what runs there has used `CPU_SECONDS`."""

    def over(number: int, frame: FrameType | None) -> None:
        raise Endless(f"not done after {CPU_SECONDS:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def as_file(data: bytes) -> Iterator[Path]:
    """A path under which `data` can be opened as a file of a disk, without one."""
    fd = os.memfd_create("fuzzed")
    try:
        os.write(fd, data)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
