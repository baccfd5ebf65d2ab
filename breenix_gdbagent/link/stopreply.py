"""A stop reply of the gdbstub as a value."""

from __future__ import annotations

import re
from typing import NamedTuple

from breenix_gdbagent.errors import LinkProtocolError

SIGINT, SIGQUIT, SIGTRAP, SIGABRT = 2, 3, 5, 6

STATES = {2: "paused", 3: "shutdown", 6: "internal-error", 14: "watchdog", 29: "io-error"}
"""QEMU's run state by the signal that it tells of it (gdbstub/system.c, gdb_vm_state_change)."""

THREAD = r"(?:p[0-9a-fA-F]+\.)?[0-9a-fA-F]+"
"""The id of one thread, with or without its process (gdb manual, "Packets"): not all of a process
(``p1``), nor all there are (``-1``)."""

_HEX = r"[0-9a-fA-F]+"
_SHAPE = rb"(?s)([STWX])([0-9a-fA-F]{2})(?:;?(.*))?"


class StopReply(NamedTuple):
    """`kind` is the packet's letter, `signal` its number, `thread` the stub's id of the vCPU.

    `watch` is the kind of watchpoint (``write``, ``read``, ``access``) and the data address.
    Signal 5 is a breakpoint, a watchpoint or a step; for QEMU's other ones see `STATES`.
    """

    kind: str
    signal: int
    thread: str | None = None
    watch: tuple[str, int] | None = None

    @property
    def shutdown(self) -> bool:
        """Paused by a shutdown, reset or triple fault."""
        return self.signal == SIGQUIT

    @property
    def over(self) -> bool:
        """Nothing goes on from here but a reset (QEMU softmmu/runstate.c, runstate_needs_reset)."""
        return self.signal in (SIGQUIT, SIGABRT)

    @property
    def exited(self) -> bool:
        return self.kind in "WX"

    @property
    def cpu(self) -> int:
        """QEMU's CPU index (thread ids count from 1); 0 when the reply names no thread."""
        return 0 if self.thread is None else max(int(self.thread.rpartition(".")[2], 16), 1) - 1

    @classmethod
    def parse(cls, payload: bytes) -> StopReply:
        """From the packet's payload. Raises `LinkProtocolError`."""
        found = re.fullmatch(_SHAPE, payload)
        if found is None:
            raise LinkProtocolError(f"{payload[:40]!r} is no stop reply")
        thread = None
        watch = None
        kinds = {"watch": "write", "rwatch": "read", "awatch": "access"}
        try:
            for pair in (found[3] or b"").decode("ascii").split(";"):
                key, _, value = pair.partition(":")
                if key == "thread":
                    if re.fullmatch(THREAD, value) is None:
                        raise ValueError
                    thread = value
                elif key in kinds:
                    if re.fullmatch(_HEX, value) is None:
                        raise ValueError
                    watch = (kinds[key], int(value, 16))
        except ValueError as error:
            raise LinkProtocolError(f"{payload[:60]!r} is no stop reply") from error
        return cls(found[1].decode(), int(found[2], 16), thread, watch)
