"""Resets of the machine: ours, the one that its firmware makes because of it, and the guest's own.

QEMU resets for us only when its reboot action is ``reset``; ours pauses instead (``-action
reboot=shutdown``), so it is changed for the moment and put back. A QEMU of somebody else's resets
the guest for every triple fault, and all that led there is gone: once it has, the next one is made
to pause it, and the action is put back when we leave.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from breenix_gdbagent.errors import LinkError
from breenix_gdbagent.live.guest import Holds
from breenix_gdbagent.x86.control import CR0_PG

_PAUSES = (b"-no-reboot", b"--no-reboot")


class Resets:
    """The resets of one guest. `is_armed` says whether its faults are caught by now."""

    def __init__(self, is_armed: Callable[[], bool], holds: Holds) -> None:
        self._is_armed = is_armed
        self._holds = holds
        self._firmware = False
        self._held = False
        self._asked = False
        self._line: list[bytes] | None = None

    @property
    def untold(self) -> bool:
        """Whether QEMU lets the guest reset itself, so that only its events tell."""
        return self._holds.process is None and self._holds.qmp is not None and not self._pauses()

    @property
    def count(self) -> int:
        """How often the guest has reset itself, and QEMU has let it."""
        return 0 if self._holds.qmp is None else self._holds.qmp.guest_resets

    def hear(self) -> None:
        """After the guest's first reset, have the next one pause it. Raises `LinkError`."""
        qmp = self._holds.qmp
        assert qmp is not None
        qmp.events()
        if qmp.guest_resets and not self._held and self._words() is not None:
            qmp.execute("set-action", {"reboot": "shutdown", "shutdown": "pause"})
            self._held = self._firmware = True

    def put_back(self) -> bool:
        """QEMU's own action again; whether a guest is paused that it would have reset, which is
        done then. Raises `LinkError`."""
        qmp = self._holds.qmp
        if qmp is None or not self._held:
            return False
        self._held = False
        words = self._words() or []
        pauses = b"-no-shutdown" in words or any(b"shutdown=pause" in w for w in words)
        qmp.execute(
            "set-action", {"reboot": "reset", "shutdown": "pause" if pauses else "poweroff"}
        )
        if qmp.status() != "shutdown":
            return False
        qmp.execute("system_reset")
        return True

    def machine(self) -> None:
        """As after power-on, stopped. Raises `LinkError`: no QMP, or a QEMU of somebody
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
        if not self._firmware or (self._is_armed() and not self._held):
            return False
        self._firmware = False
        if any(thread.registers.get("cr0", 0) & CR0_PG for thread in self._holds.stub.threads()):
            return False
        self.machine()
        self._firmware = False
        return True

    def _action(self) -> str:
        """What this QEMU does with a reboot: ``reset`` or ``shutdown``."""
        if self._holds.process is not None or self._held:
            return "shutdown"
        if self._words() is None:
            raise LinkError(
                "this QEMU is not reset: how it was told to reboot is not known",
                fix="reset it at its own monitor, then attach again",
            )
        return "shutdown" if self._pauses() else "reset"

    def _pauses(self) -> bool:
        """Whether its command line says that a reboot ends or pauses it."""
        return any(w in _PAUSES or b"reboot=shutdown" in w for w in self._words() or ())

    def _words(self) -> list[bytes] | None:
        """The command line of a QEMU that runs on this host, None where it cannot be read."""
        if not self._asked:
            self._asked = True
            with suppress(OSError):
                self._line = Path(f"/proc/{self._holds.pid}/cmdline").read_bytes().split(b"\0")
        return self._line
