"""QEMU is killed or stops answering under the shell: it is said, the prompt says so, and the shell
goes on."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.guest.live_support import needs_qemu
from tests.guest.shellterm import Terminal
from tests.guest.test_shell_terminal import held

pytestmark = needs_qemu


@pytest.mark.parametrize("running", [True, False], ids=["running", "standing"])
def test_qemu_is_killed(tmp_path: Path, running: bool) -> None:
    with Terminal(tmp_path, "--lab", "marker-missing") as shell:
        shell.run("wait initialization complete", r"^── serial text")
        if running:
            shell.enter("continue")
            shell.until(r"^\(running\)$")
        os.kill(held(shell.child.pid)[0], signal.SIGKILL)
        if not running:
            shell.enter("continue")
        shell.until(r"^QEMU ended by itself with status -9$")
        shell.until(r"^\(QEMU has ended\)$")
        for line in ("continue", "stepi", "walk rip", "break syscall_entry", "reset", "registers"):
            shell.enter(line)  # `continue` shows (running) for a moment
            assert "Traceback" not in shell.until(r"^\(QEMU has ended\)$"), line
        shell.run("serial 3", r"^COM1:")
        shell.enter("quit")
        assert shell.ended() == 0


def test_qemu_does_not_answer(tmp_path: Path) -> None:
    """Stopped by a signal: an interrupt is not answered, and is again when QEMU goes on."""
    with Terminal(tmp_path, "--lab", "marker-missing") as shell:
        shell.run("wait initialization complete", r"^── serial text")
        shell.enter("continue")
        shell.until(r"^\(running\)$")
        qemu = held(shell.child.pid)[0]
        os.kill(qemu, signal.SIGSTOP)
        try:
            shell.keys("\x03")
            shown = shell.until(r"^no answer to an interrupt")
            assert re.search(rf"kill -CONT {qemu}", shown)
            shell.until(r"^\(no answer\)$")
            shell.run("registers", r"interrupt asks it again$")
        finally:
            os.kill(qemu, signal.SIGCONT)
        shell.run("interrupt", r"^── interrupt ")
        shell.run("registers", r"[ *]rip 0x\w+ ")
        shell.enter("continue")
        shell.until(r"^\(running\)$")
        shell.keys("\x03")
        shell.until(r"^── interrupt ")


def test_the_guest_ends_and_is_reset_under_us(tmp_path: Path) -> None:
    with Terminal(tmp_path, "--lab", "unexpected-exit") as shell:
        shell.run("continue", r"^── exit: QEMU has ended with status \d+")
        assert shell.line == "(QEMU has ended)"
        shell.run("ps")
        shell.enter("quit")
        assert shell.ended() in (0, 1, 3)
    with Terminal(tmp_path, "--lab", "reboot") as shell:
        shell.run("continue", r"^── shutdown: ")
        shell.run("continue", r"^the guest has shut down.* and cannot go on$")
        shell.run("registers", r"cr3 0x\w+")
