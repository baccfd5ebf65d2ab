"""What one client holds: at most one guest, or one stop out of a file, and how it came to it."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.debugger.held import Held
from breenix_gdbagent.debugger.taking import Started, attached, launched
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.timeline.held import HeldRecording, opened


class Session:
    """One client's session. `write`: whether the guest may be written to; `sources` are
    directories where the kernel's source lies."""

    def __init__(self, *, write: bool = False, sources: tuple[Path, ...] = ()) -> None:
        self.write = write
        self.sources = sources
        self.held_now: Held | None = None
        self.told_lines = 0

    @property
    def held(self) -> Held:
        """What is held. Raises `InputError` where nothing is."""
        if self.held_now is None:
            raise InputError(
                "nothing is held yet",
                fix="launch a guest (launch with lab, breenix, or image and kernel), attach to "
                "one, or open a snapshot",
            )
        return self.held_now

    @property
    def recording(self) -> HeldRecording:
        """The recording that is held. Raises `InputError` for anything else."""
        held = self.held
        if not isinstance(held, HeldRecording):
            raise InputError(
                "this is no recording",
                "only what was recorded can be asked when, or moved in",
                "make one on the command line: breenix-gdbagent record -o DIR; then open it",
            )
        return held

    def may_write(self, what: str) -> None:
        """Raises `InputError` unless the server was started to write."""
        if not self.write:
            raise InputError(
                f"{what} would write into the guest, and this server only looks",
                "it was started without --write",
                "whoever runs it starts it as: breenix-gdbagent mcp --write",
            )

    def close(self) -> None:
        """Let go of what is held."""
        held, self.held_now = self.held_now, None
        self.told_lines = 0
        if held is not None:
            held.close()

    def interrupt(self) -> bool:
        """From any thread: ask a guest that runs to stop."""
        return self.held_now is not None and self.held_now.interrupt()

    # Taking hold -----------------------------------------------------------------------------

    def launch(self, started: Started) -> None:
        """Start a guest, which stands before its first instruction; the one of before ends.
        Raises `InputError`, `QemuError`."""
        started.check()
        self.close()
        self.held_now = launched(started)

    def attach(
        self,
        gdb: str,
        *,
        qmp: str | None,
        ram: str | None,
        serial: str | None,
        kernel: str | None,
    ) -> None:
        """Take hold of a QEMU that runs, which stops it; let go, it goes on as it was found.
        Raises `InputError`, `LinkError`."""
        self.close()
        self.held_now = attached(gdb, qmp=qmp, ram=ram, serial=serial, kernel=kernel)

    def open(self, path: str, kernel: str | None) -> None:
        """A stop out of a file, or a recording. Raises `InputError`."""
        found = opened(path, kernel)
        self.close()
        self.held_now = found
