"""What a boot's settings do to a guest that runs: pauses, and device interrupts from outside."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

from breenix_gdbagent.errors import AgentError
from breenix_gdbagent.fleet.settings import Settings
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.live import LiveVm

KEY: object = [{"type": "qcode", "data": "a"}]


class DisturbedVm(LiveVm):
    """A guest of ours that can be disturbed from another thread while it runs."""

    def pause(self, seconds: float, ended: threading.Event) -> None:
        """QEMU stands still: no instruction is executed, and the guest's clock goes on, so that a
        tick comes that many instructions earlier."""
        process = self._holds.process
        if process is None or process.exited.is_set():
            return
        os.kill(process.pid, signal.SIGSTOP)
        try:
            ended.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)

    def interrupt_from(self, kind: str) -> None:
        """A device interrupt: ``key``, ``serial`` (a byte), ``nmi`` (once the guest has an IDT of
        its own: before that no kernel could answer it). Raises `LinkError`."""
        if kind == "serial":
            self.console.send(b"\r")
        elif self._holds.qmp is not None and kind == "nmi" and self.arming.armed_at is not None:
            self._holds.qmp.execute("inject-nmi")
        elif self._holds.qmp is not None and kind == "key":
            self._holds.qmp.execute("send-key", {"keys": KEY})


@contextmanager
def disturbed(vm: LiveVm, settings: Settings) -> Iterator[None]:
    """While the block lasts the guest is disturbed as its settings say, at moments counted from
    the block's begin."""
    plan = _plan(settings)
    if not plan or not isinstance(vm, DisturbedVm):
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_carry_out, args=(vm, plan, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _plan(settings: Settings) -> list[tuple[float, str, float]]:
    """(seconds, what, how long), in order."""
    plan = [
        (cast(float, at), "pause", cast(float, length))
        for at, length in cast("list[list[Json]]", settings.get("delay", []))
    ]
    irq = cast("dict[str, Json]", settings.get("irq", {"kind": "none", "at": []}))
    plan += [(cast(float, at), str(irq["kind"]), 0.0) for at in cast("list[Json]", irq["at"])]
    return sorted(plan)


def _carry_out(
    vm: DisturbedVm, plan: list[tuple[float, str, float]], ended: threading.Event
) -> None:
    began = time.monotonic()
    for at, what, length in plan:
        if ended.wait(max(0.0, began + at - time.monotonic())):
            return
        # A guest that has ended meanwhile is not disturbed: the run says how it ended.
        with suppress(AgentError, ProcessLookupError):
            if what == "pause":
                vm.pause(length, ended)
            else:
                vm.interrupt_from(what)
