"""Where each step lands: ours and gdb's, on the same guest under QEMU's instruction counter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from breenix_gdbagent.debugger.stepping import Stepper
from breenix_gdbagent.kernel.view import Kernel
from tests.gdb import gdb_command
from tests.guest.debugged import BASE, SYSCALL, debugged, go, set_break, va
from tests.guest.live_support import ELF, beside, needs_qemu

pytestmark = [
    needs_qemu,
    pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb to compare with"),
]

COUNTED = ("-icount", "shift=3,sleep=off", "-rtc", "base=2025-01-01,clock=vm")
"""As `deterministic` in qemu_configs/lab.toml."""

WAYS = {
    "into calls": (SYSCALL, "step " * 25),
    "over calls": (SYSCALL, "next " * 6),
    "until": (SYSCALL, "until " * 8),
    "mixed": ("kernel_main", "step " * 3 + "next " * 3 + "until " * 3 + "step nexti nexti stepi"),
    "out of inlined calls": ("kernel::lab::create", "step " * 6 + "finish " + "step " * 3),
    "out of calls": ("kernel::process::current", "step " * 4 + "finish " + "next " * 5),
    "tables": (
        "kernel::memory::paging::map_page",
        "step next step next finish step step finish until next",
    ),
    "a switch": ("kernel::task::switch::check_need_resched_and_switch", "step " * 8),
    "code without lines": ("timer_interrupt_entry", "step " * 6),
    "instructions": ("syscall_entry", "stepi " * 20 + "step next until"),
    "many returns": (
        "kernel::memory::frame_allocator::allocate",
        "step " * 12 + "leave " + "nexti " * 5 + "next " * 3,
    ),
}
"""A function, and gdb's commands from its entry on. `leave` is a `finish` out of an inlined call
whose code lies in several parts: gdb 13 takes the way from one to the next for its end, gdb 16 does
not, so the frames that gdb shows are asked, instruction by instruction; then on to a statement."""

LEAVE = """
python
def depth():
    frame, count = gdb.newest_frame(), 0
    while frame is not None:
        frame, count = frame.older(), count + 1
    return count
class Leave(gdb.Command):
    def __init__(self):
        super().__init__("leave", gdb.COMMAND_RUNNING)
    def invoke(self, argument, from_tty):
        inside = depth()
        while depth() >= inside:
            gdb.execute("stepi", to_string=True)
        gdb.execute("next", to_string=True)
Leave()
end
"""


def theirs(start: int, words: list[str], room: Path) -> list[int]:
    """RIP after each command of gdb's, from `start` on."""
    lines = [
        "set pagination off",
        f"symbol-file -o {BASE:#x} {ELF}",
        f"target remote {room}/gdb",
        f"hbreak *{start:#x}",
        "continue",
        "delete",
    ]
    for word in words:
        lines += [word, r'printf "PC %lx\n", $pc']
    (room / "commands").write_text(LEAVE + "\n".join([*lines, "kill"]) + "\n")
    with beside(room, "clean", *COUNTED, paused=True):
        done = subprocess.run(
            gdb_command("-batch", "-x", str(room / "commands")),
            capture_output=True, text=True, timeout=120, check=False, cwd=room,
        )  # fmt: skip
    return [int(line[3:], 16) for line in done.stdout.splitlines() if line.startswith("PC ")]


def ours(start: int, words: list[str]) -> list[int]:
    """The same of our stepper."""
    with debugged(deterministic=True, catching="none") as debugger:
        point = set_break(debugger, f"{start:#x}")
        event = go(debugger)
        stepper = Stepper(debugger)
        stepper.stopped(event)
        debugger.remove(point)
        found = []
        for word in words:
            if word in ("finish", "leave"):
                event = stepper.finish(Kernel(debugger.stop(event.reason)))
            elif word in ("step", "next"):
                event = stepper.line(over=word == "next")
            elif word == "until":
                event = stepper.until()
            else:
                event = stepper.instruction(over=word == "nexti")
            assert event.reason.kind == "step"
            found.append(debugger.vm.registers["rip"])
        return found


@pytest.mark.parametrize("way", WAYS)
def test_every_step_lands_where_gdb_lands(way: str, tmp_path: Path) -> None:
    symbol, text = WAYS[way]
    words = text.split()
    expected = theirs(va(symbol), words, tmp_path)
    assert len(expected) == len(words), "gdb did not go all the way"
    assert ours(va(symbol), words) == expected
