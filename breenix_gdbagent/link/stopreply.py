"""A stop reply of the gdbstub as a value."""

from __future__ import annotations

import re
from typing import NamedTuple

from breenix_gdbagent.errors import LinkProtocolError

SIGINT, SIGQUIT, SIGTRAP, SIGABRT = 2, 3, 5, 6

_SHAPE = rb"(?s)([STWX])([0-9a-fA-F]{2})(?:;?(.*))?"


class StopReply(NamedTuple):
    """`kind` is the packet's letter, `signal` its number, `thread` the stub's id of the vCPU.

    `watch` is the kind of watchpoint (``write``, ``read``, ``access``) and the data address.
    QEMU's signals (gdbstub/system.c, gdb_vm_state_change): 2 paused from outside, 3 shut down,
    5 breakpoint or step, 6 internal error.
    """

    kind: str
    signal: int
    thread: str | None = None
    watch: tuple[str, int] | None = None

    @property
    def shutdown(self) -> bool:
        """Paused by a shutdown, reset or triple fault: nothing goes on from here."""
        return self.signal == SIGQUIT

    @property
    def exited(self) -> bool:
        return self.kind in "WX"

    @property
    def cpu(self) -> int:
        """QEMU's CPU index (thread ids count from 1); 0 when the reply names no thread."""
        return 0 if self.thread is None else int(self.thread.rpartition(".")[2], 16) - 1

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
                    int(value.removeprefix("p").rpartition(".")[2], 16)
                    thread = value
                elif key in kinds:
                    watch = (kinds[key], int(value, 16))
        except ValueError as error:
            raise LinkProtocolError(f"{payload[:60]!r} is no stop reply") from error
        return cls(found[1].decode(), int(found[2], 16), thread, watch)
