"""Resets of the machine: ours, and the one that its firmware makes because of it.

QEMU resets for us only when its reboot action is ``reset``; ours pauses instead (``-action
reboot=shutdown``), so it is changed for the moment and put back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from breenix_gdbagent.errors import LinkError
from breenix_gdbagent.live.guest import Holds
from breenix_gdbagent.x86.cpu import CR0_PG

_PAUSES = (b"-no-reboot", b"--no-reboot")


class Resets:
    """The resets of one guest. `is_armed` says whether its faults are caught by now."""

    def __init__(self, is_armed: Callable[[], bool], holds: Holds) -> None:
        self._is_armed = is_armed
        self._holds = holds
        self._firmware = False

    def machine(self) -> None:
        """As after power-on, standing still. Raises `LinkError`: no QMP, or a QEMU of somebody
        else's whose reboot action is not known, so that it could not be put back."""
        qmp = self._holds.qmp
        if qmp is None:
            raise LinkError("QEMU's monitor is not connected, so it cannot be reset", fix="--qmp")
        qmp.reset(self._action())
        self._holds.stub.was_reset()
        self._firmware = True

    def by_firmware(self) -> bool:
        """Whether a shutdown is SeaBIOS's own reset, which has then been made for it.

        It finds its variables changed by the run before, restores them and resets once more
        (SeaBIOS src/resume.c, handle_resume; src/fw/shadow.c, qemu_reboot).
        """
        if not self._firmware or self._is_armed():
            return False
        self._firmware = False
        if any(thread.registers.get("cr0", 0) & CR0_PG for thread in self._holds.stub.threads()):
            return False
        self.machine()
        self._firmware = False
        return True

    def _action(self) -> str:
        """What this QEMU does with a reboot: ``reset`` or ``shutdown``."""
        if self._holds.process is not None:
            return "shutdown"
        try:
            words = Path(f"/proc/{self._holds.pid}/cmdline").read_bytes().split(b"\0")
        except OSError as error:
            raise LinkError(
                "this QEMU is not reset: how it was told to reboot is not known",
                fix="reset it at its own monitor, then attach again",
            ) from error
        paused = any(w in _PAUSES or b"reboot=shutdown" in w for w in words)
        return "shutdown" if paused else "reset"
