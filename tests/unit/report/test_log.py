"""Serial text as lines in order of arrival, and what ``log`` chooses of them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breenix_gdbagent import run_report
from breenix_gdbagent.checks.run import RunFacts
from breenix_gdbagent.commands import run
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import History, RunRecord
from breenix_gdbagent.report.seriallog import Growing, level_of, lines_of
from breenix_gdbagent.stop import SerialChunk, SerialText
from tests.unit.captures import capture
from tests.unit.report import stops


@given(st.text(alphabet="aé\n\r\u2028\x0b ☃"), st.lists(st.integers(0, 60), max_size=6))
def test_lines_are_the_ports_lines_however_they_arrive(text: str, cuts: list[int]) -> None:
    data = text.encode()
    edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    chunks = [SerialChunk(0, n / 10, data[a:b]) for n, (a, b) in enumerate(pairwise(edges))]
    serial = SerialText(tuple(chunks))
    lines = lines_of(serial)
    assert [line.text for line in lines] == text.splitlines()
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.text(alphabet="aé\n\r\u2028☃", max_size=6))),
    st.integers(0, 8),
)
def test_growing_lines_are_those_of_the_whole(said: list[tuple[int, str]], cut: int) -> None:
    pieces = [(port, bytes([b])) for port, text in said for b in text.encode()]
    chunks = tuple(SerialChunk(port, n / 10, data) for n, (port, data) in enumerate(pieces))
    growing = Growing()
    found = growing.take(SerialText(chunks[:cut]))
    found += growing.take(SerialText(chunks), unfinished=True)
    whole = lines_of(SerialText(chunks))
    assert sorted(found, key=lambda one: (one.port, one.number)) == sorted(
        whole, key=lambda one: (one.port, one.number)
    )


def test_ports_are_interleaved_by_the_arrival_of_a_lines_first_byte() -> None:
    serial = SerialText(
        (
            SerialChunk(0, 0.1, b"one\ntw"),
            SerialChunk(1, 0.2, b"[ INFO] other\n"),
            SerialChunk(0, 0.3, b"o\nthree\n"),
        )
    )
    found = [(line.port, line.number, line.seconds, line.text) for line in lines_of(serial)]
    assert found == [
        (0, 1, 0.1, "one"), (0, 2, 0.1, "two"), (1, 1, 0.2, "[ INFO] other"),
        (0, 3, 0.3, "three"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("[ INFO] kernel::memory: up", "info"),
        ("[ERROR] kernel: bad", "error"),
        ("[    1.5] [ WARN] x: y", "warn"),
        ("INFO : Using framebuffer", "info"),
        ("KERNEL PANIC: at", "error"),
        ("[DIAG:PAGEFAULT] RIP: 0x1", "info"),
        ("[DIAG:GPF] RIP: 0x1", "info"),
        ("[DIAG:PAGETABLE]   PD[0]: P=1 U=0 NX=0", "debug"),
        ("[DIAG:TIMER] handler", "debug"),
        ("EXCEPTION: PAGE FAULT - Now using IST stack for reliable diagnostics", "error"),
        ("Hello from userspace!", None),
        ("the INFORMATION desk", None),
    ],
)
def test_levels(text: str, level: str | None) -> None:
    assert level_of(text) == level


def test_the_errors_of_a_real_boot_are_those_that_it_calls_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The judge is the kernel's own word on each line: this boot logs two errors, and prints a few
    hundred lines in detail of page tables that are as they should be."""
    path = capture("breenix-seed-syscall") / "serial.txt"
    text = path.read_text(encoding="utf-8", errors="replace")
    named = [line for line in text.splitlines() if line.startswith("[ERROR]")]
    code, lines = out_of(capsys, str(path), "--level", "error")
    shown = [line.split("-  ", 1)[1] for line in lines if "..." not in line]
    assert (code, shown) == (0, named)
    assert len(named) == 2


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stop of the real kernel, both ports, saved as `ci -o` would."""
    path = tmp_path_factory.mktemp("log") / "run.core"
    kernel = Kernel(stops.stop("breenix-head-cow-fault"))
    run_report.save(
        path, kernel, "tables", {"kind": "snapshot"}, RunRecord(), RunFacts(), History(), {}
    )
    return path


def out_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    code = run(["log", *arguments])
    return code, capsys.readouterr().out.splitlines()


def test_whole_log_of_a_snapshot(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = out_of(capsys, str(snapshot))
    serial = stops.stop("breenix-head-cow-fault").serial
    assert code == 0
    assert len(lines) == len(serial.lines()) + 1  # and the stop
    assert "--- stop 0: fault, vector 14" in lines
    times = [float(line.split()[0]) for line in lines if not line.startswith("---")]
    assert times == sorted(times)


def test_query_level_port_and_context(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serial = stops.stop("breenix-head-cow-fault").serial
    forks = [line for line in serial.lines() if "Fork complete" in line]
    code, lines = out_of(capsys, str(snapshot), r"Fork comp\w+")
    assert code == 0 and len([x for x in lines if "Fork complete" in x]) == len(forks) == 3
    code, lines = out_of(capsys, str(snapshot), "Fork complete", "--port", "1")
    assert (code, lines) == (1, ["no such line"])
    code, with_context = out_of(capsys, str(snapshot), "Fork complete", "-C", "2", "--port", "2")
    assert code == 0 and len([x for x in with_context if "..." not in x]) == 15
    code, lines = out_of(capsys, str(snapshot), "--level", "error", "--json")


def test_level_takes_what_weighs_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "serial.txt"
    path.write_text("[DEBUG] a\n[ INFO] b\n[ WARN] c\n[ERROR] d\nplain\n")
    code, lines = out_of(capsys, str(path), "--level", "warn")
    assert code == 0 and [line.split()[-1] for line in lines] == ["c", "d"]
    assert all(line.split()[0] == "-" for line in lines)  # a plain file has no times


def test_around_a_finding(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = out_of(capsys, str(snapshot), "--around", "page-fault.handled", "-C", "3")
    assert code == 0
    assert any(line.startswith("--- stop 0: fault") for line in lines)
    assert len(lines) <= 9


def test_json_and_tail(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["log", str(snapshot), "--json", "--tail", "5"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 5
    assert set(rows[0]) == {"port", "line", "seconds", "level", "text", "context"}


def test_terminal_codes_of_the_guest_do_not_get_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "serial.txt"
    path.write_bytes(b"\x1b[2J\x1b[31mred\x1b[0m\x07\xff\n")
    _, lines = out_of(capsys, str(path))
    assert lines == ["        -  red\\x07\ufffd"]


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["/nonexistent"], ["FILE", "("], ["FILE", "a", "b"], ["FILE", "--port", "0"],
        ["FILE", "--around", "panic"], ["--follow"],
    ],
)  # fmt: skip
def test_usage(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "serial.txt"
    path.write_text("a\n")
    assert run(["log", *(str(path) if a == "FILE" else a for a in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and 1 <= len(captured.err.splitlines()) <= 3
