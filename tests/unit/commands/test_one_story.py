"""One stop, one story: whichever command is asked, the same is said in the same way."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent.checks.run import RunFacts
from breenix_gdbagent.commands import run
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.document import History, Marker, RunRecord
from breenix_gdbagent.run_report import save
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop, StopReason
from tests.writers.machine import CODE, DATA, Machine

SPAN = re.compile(r"0x([0-9a-f]{16})-0x([0-9a-f]{16})")
PANIC = "KERNEL PANIC: panicked at kernel/src/main.rs:1:1: no more"
LOGGED = "[ERROR] kernel::net: no reply"
RECORD = RunRecord("findings", 1, 3.25, 2, (Marker("up", 0.5),), 7, "the kernel loaded its IDT")


def says(stop: Stop, line: str) -> Stop:
    """The stop of a guest that has printed `line` too."""
    chunk = SerialChunk(0, 0.0, line.encode() + b"\n")
    return stop._replace(serial=SerialText((*stop.serial.chunks, chunk)))


def quiet(machine: Machine, reason: str = "marker") -> Stop:
    cpu = machine.cpu(rip=CODE, rsp=DATA + 0xF00, cs=0x33, ss=0x2B, eflags=0x202)
    return machine.stop(StopReason(reason), cpu)


def saved(path: Path, stop: Stop, record: RunRecord = RECORD, facts: RunFacts | None = None) -> str:
    facts = facts or RunFacts("marker")
    save(path, Kernel(stop), "tables", {"kind": "lab"}, record, facts, History(), {})
    return str(path)


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(list(arguments))
    told = capsys.readouterr()
    assert not told.err, told.err
    return code, told.out


def story(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    document = json.loads(asked(capsys, *arguments, "--json")[1])
    del document["provenance"]
    return document


@pytest.mark.parametrize("line", [PANIC, LOGGED, "all is well"])
@pytest.mark.parametrize("faults", [0, 1])
def test_an_audit_of_a_file_is_its_report(
    line: str, faults: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How the run went stands in the file: how often it was stopped, what was printed when."""
    stop = says(quiet(Machine()), line)
    file = saved(tmp_path / "s", stop, facts=RunFacts("marker", faults=faults))
    told = story(capsys, "report", file)
    assert story(capsys, "audit", "--snapshot", file) == told
    assert told["run"]["agent_stops"] == 2 and told["run"]["benign_faults"] == 7
    for command in (("report", file), ("audit", "--snapshot", file)):
        code, text = asked(capsys, *command)
        assert "stopped 2 times by us" in text and code == int(line == PANIC)
    _, shell = asked(capsys, "shell", "--snapshot", file, "-c", "audit")
    assert "stopped 2 times by us" in shell
    assert ("ERROR panic" in shell) == (line == PANIC)
    assert ("log.error" in shell) == (line == LOGGED)


@pytest.mark.parametrize(
    ("line", "code"), [(PANIC, "panic"), (LOGGED, "log.error"), ("all is well", None)]
)
def test_a_stop_that_nobody_ran_up_to_tells_what_its_log_says(
    line: str, code: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from breenix_gdbagent.api import stops

    file = tmp_path / "s"
    stops.save(Kernel(says(quiet(Machine(), "attached"), line)), file, "tables")
    told = story(capsys, "report", str(file))
    codes = {f["code"] for f in told["findings"]}
    assert codes & {"panic", "log.error"} == ({code} if code else set())
    assert told["run"]["outcome"] == ("findings" if code == "panic" else "examined")
    assert told == story(capsys, "audit", "--snapshot", str(file))


def test_a_space_is_called_as_the_list_of_roots_calls_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path / "s", quiet(Machine()))
    _, roots = asked(capsys, "pt", "roots", "--snapshot", file)
    name = next(line.split()[4] for line in roots.splitlines() if " process " in line)
    _, walked = asked(capsys, "pt", "walk", hex(CODE), "--pid", "1", "--snapshot", file)
    assert f"{name} (pid 1)" in walked.splitlines()[0]


def test_ranges_end_behind_their_last_byte_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = Machine(), Machine()
    after.unmap(DATA)
    first = saved(tmp_path / "a", quiet(before))
    second = saved(tmp_path / "b", quiet(after))
    spans = []
    for command in (("pt", "diff", first, second), ("diff", first, second)):
        _, text = asked(capsys, *command)
        spans.append({SPAN.search(one)[0] for one in text.splitlines() if SPAN.search(one)})  # type: ignore[index]
    assert spans[0] == spans[1] == {f"{DATA:#018x}-{DATA + 0x1000:#018x}"}


def test_nothing_is_judged_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that the baseline knows has passed in `ci`: the file says so ever after."""
    record = replace(RECORD, outcome="passed", exit=0)
    file = saved(tmp_path / "s", says(quiet(Machine()), PANIC), record)
    for command in (("report", file), ("audit", "--snapshot", file)):
        assert story(capsys, *command)["run"]["outcome"] == "passed"
