"""Run control on the lab guest: breakpoints of every kind, resets, what is left behind."""

from __future__ import annotations

import pytest

from tests.guest.debugged import SYSCALL, debugged, go, set_break, va
from tests.guest.live_support import DONE, needs_qemu

pytestmark = needs_qemu


@pytest.mark.parametrize("first", ["break", "reboot"])
def test_a_reset_keeps_breakpoints_and_catches_faults_again(first: str) -> None:
    """Also of a guest that has shut down; SeaBIOS resets once more by itself, which is no stop."""
    with debugged("reboot") as debugger:
        point = set_break(debugger, SYSCALL)
        for hits in (1, 2, 3):
            event = go(debugger)
            assert event.points == (point,)
            assert debugger.vm.registers["rip"] == va(SYSCALL)
            assert point.hits == hits
            if first == "reboot":
                debugger.remove(point)
                assert go(debugger).reason.kind == "shutdown"
                debugger.add(point)
            debugger.reset()
            assert debugger.vm.arming.armed_at is None
        assert go(debugger).points == (point,)
        assert debugger.vm.arming.armed_at is not None
        debugger.remove(point)
        assert go(debugger, DONE).reason.kind == "shutdown"
