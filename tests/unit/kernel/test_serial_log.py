"""What the kernel's log says of its processes, in the words of both eras."""

from __future__ import annotations

from breenix_gdbagent.kernel.serial_log import read_log
from breenix_gdbagent.stop import SerialChunk, SerialText

SEED = """\
manager.create_process: Generated PID 1
[DEBUG] kernel::memory::process_memory: Allocated L4 frame: 0x283000
[ INFO] kernel::process::manager: Created process smoke_hello_time (PID 1)
[DEBUG] kernel::memory::process_memory: Allocated L4 frame: 0x2b2000
[ INFO] kernel::process::manager: Created process clock_gettime_test (PID 2)
[ INFO] kernel::task::process_task: Process 1 (thread 2) exited with code 0
Killing process clock_gettime_test (PID 2) due to page fault (CR3=0x2b2000)
KERNEL PANIC: panicked at kernel/src/interrupts.rs:944:5:
"""


def text(*ports: str) -> SerialText:
    return SerialText(tuple(SerialChunk(n, 0.0, t.encode()) for n, t in enumerate(ports)))


def test_processes_by_root() -> None:
    facts = read_log(text(SEED))
    first, second = facts.by_root(0x283000), facts.by_root(0x2B2000)
    assert first is not None and (first.pid, first.name) == (1, "smoke_hello_time")
    assert second is not None and (second.pid, second.name) == (2, "clock_gettime_test")
    assert facts.by_root(0x144000) is None


def test_the_ended_and_the_panic() -> None:
    facts = read_log(text(SEED))
    assert facts.ended == {1, 2}
    assert facts.panics == ("panicked at kernel/src/interrupts.rs:944:5:",)


def test_the_log_may_be_on_the_second_port() -> None:
    assert read_log(text("user text\n", SEED)).by_root(0x283000) is not None


def test_a_forked_child_has_a_name_and_no_root() -> None:
    facts = read_log(text("Forking process 2 'smoke' -> child PID 15\n"))
    assert [(p.pid, p.name, p.root) for p in facts.processes] == [(15, "smoke", None)]


def test_a_root_given_out_again_is_the_last_ones() -> None:
    again = SEED + (
        "[DEBUG] kernel::memory::process_memory: Allocated L4 frame: 0x283000\n"
        "[ INFO] kernel::process::manager: Created process later (PID 9)\n"
    )
    found = read_log(text(again)).by_root(0x283000)
    assert found is not None and found.pid == 9


def test_cut_and_foreign_bytes() -> None:
    assert (
        read_log(SerialText((SerialChunk(0, 0.0, b"\xff\x00Created process \xfe"),))).processes
        == ()
    )
