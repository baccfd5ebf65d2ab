"""Checkpoints, invariants and scripts of `ci`, on the lab guest."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pytest

from breenix_gdbagent import lab
from tests.guest.debugged import hits_told
from tests.guest.labrun import agent
from tests.guest.live_support import ELF, beside

PLACE = "syscall_entry"
THREAD = "kernel::task::scheduler::SCHEDULER.current_thread"


def test_a_checkpoint_prints_and_goes_on() -> None:
    result = agent("ci", "--lab", "clean", "--json", "--checkpoint", f"{PLACE} rip, {THREAD}")
    assert result.code == 0
    told = [line for line in result.err.splitlines() if re.match(rf" .*{PLACE}: ", line)]
    assert sum(map(hits_told, told)) > 3
    assert f"checkpoint at {PLACE}: {sum(map(hits_told, told))} hits" in result.err
    assert [line for line in told if f"{PLACE}: rip = " in line] == told[:1], "it does not change"
    lines = [line for line in told if THREAD in line]
    assert all("<" not in line.split(THREAD)[1] for line in lines)  # the value could be read
    threads = {line.rpartition(" = ")[2] for line in lines}
    assert len(threads) > 1  # the scheduler really switched in between


def test_a_condition_holds_it_back() -> None:
    held = agent("ci", "--lab", "clean", "--checkpoint", f"{PLACE} {THREAD} if {THREAD} == 2")
    lines = [line for line in held.err.splitlines() if f"{PLACE}: {THREAD} = " in line]
    assert lines
    assert {line.rpartition(" = ")[2] for line in lines} == {"Some(2)"}


def test_an_invariant_stops_at_its_first_violation() -> None:
    broken = agent(
        "ci", "--lab", "kernel-slot-diverged", "--invariant", f"kernel-slots at {PLACE}", "--json"
    )
    assert broken.code == 1
    assert broken.document["stops"][-1]["reason"] == "breakpoint"
    assert "kernel-slot.diverged" in broken.codes("error")
    sound = agent("ci", "--lab", "clean", "--invariant", f"stacks-mapped at {PLACE}", "--json")
    assert sound.code == 0
    assert sound.document["stops"][-1]["reason"] == "marker"


def test_a_script_waits_for_its_lines(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("# to the end\nexpect Process management initialized\nexpect LAB COMPLETE\n")
    assert agent("ci", "--lab", "clean", "--script", str(script)).code == 0
    script.write_text("expect this is never printed\n")
    late = agent("ci", "--lab", "clean", "--script", str(script), "--timeout", "3", "--json")
    assert late.code == 4
    assert late.codes("error") == {"marker-missing"}


def test_places_and_values_are_those_of_the_shell() -> None:
    source = lab.sources()[0] / "labguest" / "src" / "interrupts" / "handlers.rs"
    lines_of_it = source.read_text(encoding="utf-8").splitlines()
    line = f"handlers.rs:{lines_of_it.index('    syscall::dispatch(frame);') + 2}"
    result = agent(
        "ci", "--lab", "copy-on-write", "--checkpoint", "exception 14 cr2, pid",
        "--checkpoint", f"interrupts/{line} thread.id if thread.id == 3",
        "--invariant", "audit at exception 14",
    )  # fmt: skip
    assert result.code == 0
    assert "exception 14 (#PF): cr2 = 0x40008000, pid = 2" in result.err
    lines = [told for told in result.err.splitlines() if f"{line}: " in told]
    first, *others = (told.partition(f"{line}: ")[2] for told in lines)
    assert first == "thread.id = 3"
    assert all(other.endswith("more hits, the same") for other in others)
    assert "invariant audit at exception 14 (#PF): 1 hit" in result.err


def test_a_script_logs_in(tmp_path: Path) -> None:
    """What is sent arrives, and what is answered is waited for: the test is the serial line's
    other end, and only goes on when it has read the right words."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener, beside(tmp_path, "marker-missing") as there:
        listener.bind(str(tmp_path / "line"))
        listener.listen(1)

        def login() -> None:
            line, _ = listener.accept()
            with line, line.makefile("rb") as words:
                line.sendall(b"\r\nlogin: ")
                heard.append(words.readline())
                line.sendall(b"Welcome\r\n# ")
                heard.append(words.readline())
                line.sendall(b"uid=0 passed 42 of 42\r\n# ")
                line.recv(1)

        peer = threading.Thread(target=login, daemon=True)
        peer.start()
        script = tmp_path / "script"
        script.write_text(
            "expect login:\nsend root\nexpect ^#\nsend run tests\nexpect (\\d+) of \\1"
        )
        result = agent(
            "ci", "--gdb", there.gdb, "--qmp", there.qmp, "--ram", str(there.ram),
            "--kernel", str(ELF), "--serial", f"unix:{tmp_path}/line", "--script", str(script),
            "--timeout", "20", "--json",
        )  # fmt: skip
        peer.join(20)
    assert heard == [b"root\n", b"run tests\n"]
    assert result.code == 0, result.err
    assert result.document["stops"][-1]["reason"] == "marker"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--checkpoint", "nobody_knows_this"),
        ("--checkpoint", f"{PLACE} if rip =="),
        ("--invariant", "nothing at all"),
        ("--invariant", "kernel-stacks"),
        ("--script", "/nonexistent"),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_runs(option: str, text: str) -> None:
    result = agent("ci", "--lab", "clean", option, text)
    assert result.out == ""
    assert len(result.err.strip().splitlines()) <= 3
    assert result.code == 2
