"""The same guest under QEMU's instruction counter: the same stops each time."""

from __future__ import annotations

from breenix_gdbagent.debugger.stepping import Stepper
from tests.guest.debugged import SYSCALL, debugged, go, set_break, set_checkpoint
from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu

TIMES = 10


def stops() -> list[object]:
    """Registers at each stop of a session with a condition, a checkpoint, a watched static and
    steps, and what the checkpoint kept."""
    with debugged(deterministic=True) as debugger:
        point = set_break(debugger, f"{SYSCALL} process 2 if thread.id == 3")
        kept = set_checkpoint(debugger, "--quiet syscall_entry rsp, pid, SCHEDULER.current_thread")
        stepper = Stepper(debugger)
        seen: list[object] = []
        for _ in range(2):
            event = go(debugger)
            stepper.stopped(event)
            assert event.points == (point,)
            seen.append(dict(debugger.vm.registers))
            for over in (True, False, True):
                stepper.line(over=over)
                seen.append(dict(debugger.vm.registers))
        seen += [kept.hits, *(record.text for record in kept.records)]
        return seen


def test_the_same_stops_each_time() -> None:
    same_stops(TIMES)


def same_stops(times: int) -> None:
    first = stops()
    assert len(first) > 10
    assert not any("<" in str(text) for text in first if isinstance(text, str))
    for _ in range(times - 1):
        assert stops() == first
