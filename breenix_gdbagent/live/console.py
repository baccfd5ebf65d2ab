"""The guest's serial lines, as far as any are connected: what it wrote, and what is typed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import LinkError
from breenix_gdbagent.stop import SerialText

if TYPE_CHECKING:
    from breenix_gdbagent.configs import Config
    from breenix_gdbagent.link.serial import Match, SerialLines, Watch


class Console:
    """`lines` are the connected ports, None without any; the machine's own markers are looked for
    in what they bring."""

    def __init__(self, lines: SerialLines | None, config: Config | None) -> None:
        self.lines = lines
        self._found: list[Match] = []
        self._marks: Watch | None = None
        self._consumed: dict[int, int] = {}
        if lines is not None:
            from breenix_gdbagent.link.serial import Watch

            marks = (*config.progress, config.success) if config is not None else ()
            self._marks = Watch([m for m in marks if m], wakes=False)
            lines.add(self._marks)

    @property
    def text(self) -> SerialText:
        """All that the guest wrote so far."""
        return self.lines.text if self.lines is not None else SerialText()

    @property
    def markers(self) -> tuple[Match, ...]:
        """Where the machine's own markers have appeared so far, in order."""
        if self.lines is not None and self._marks is not None:
            self._found += self.lines.take(self._marks)
        return tuple(self._found)

    @property
    def last_line(self) -> str:
        """The last line that is not blank."""
        return self.lines.last_line if self.lines is not None else ""

    @property
    def ports(self) -> int:
        """How many ports are connected to us."""
        return self.lines.ports if self.lines is not None else 0

    def send(self, data: bytes, port: int = 0) -> None:
        """Type into a port. Raises `LinkError` when none is connected."""
        if self.lines is None:
            raise LinkError("no serial line of the guest is connected", fix="give --serial ADDR")
        self.lines.send(data, port)

    def listen(self, listener: Callable[[int, bytes], None] | None) -> None:
        """Have text told as it arrives: (port, bytes), from the thread that reads it, which must
        not be kept waiting. None ends it."""
        if self.lines is not None:
            self.lines.listener = listener

    def sync(self) -> None:
        """Wait until what the stopped guest has written is here."""
        if self.lines is not None:
            self.lines.sync()

    def pass_over(self) -> None:
        """Whole lines that came so far are no match for the patterns of the next run."""
        if self.lines is not None:
            self.lines.sync()
            for port, characters in self.lines.unfinished.items():
                self._consumed[port] = max(self._consumed.get(port, 0), characters)

    @contextmanager
    def watching(self, patterns: Sequence[str]) -> Iterator[Watch]:
        """Look for `patterns` meanwhile, behind what ended the last wait. Raises `InputError` for
        one that is no regular expression."""
        from breenix_gdbagent.link.serial import Watch

        watch = Watch(patterns, after=self._consumed)
        if self.lines is not None:
            self.lines.add(watch)
        try:
            yield watch
        finally:
            if self.lines is not None:
                self.lines.remove(watch)

    def matched(self, watch: Watch) -> Match | None:
        """The first match that has come, which is then behind us."""
        found = self.lines.take(watch) if self.lines is not None else []
        if not found:
            return None
        self._consumed[found[0].port] = found[0].end
        return found[0]
