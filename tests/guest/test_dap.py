"""The Debug Adapter, driven by a client library of somebody else's."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent import lab
from breenix_gdbagent.commands import run
from breenix_gdbagent.link.qmp import Qmp

pytest.importorskip("dap")

from tests.gdb import gdb_version
from tests.guest.dapclient import Editor, editor, gdbs_adapter
from tests.guest.debugged import BASE
from tests.guest.live_support import ELF, beside

SOURCE = lab.sources()[0] / "labguest" / "src" / "scenarios"
FUNCTION = "kernel::scenarios::page_faults::guard_page"


def line_of(file: str, text: str) -> int:
    """The number of the only line of a scenario's source that holds `text`."""
    lines = (SOURCE / file).read_text(encoding="utf-8").splitlines()
    (found,) = [n for n, line in enumerate(lines, 1) if text in line]
    return found


def named(found: list[Any]) -> dict[str, Any]:
    return {one.name: one for one in found}


def frames(at: Editor) -> list[Any]:
    found: list[Any] = at.ask("stackTrace", threadId=1).stackFrames
    return found


def test_a_fault_stops_with_our_explanation_and_its_tables() -> None:
    """Points of every kind on the way: a function, a line with a condition, a line that logs."""
    entered = line_of("probes.rs", "pub fn recurse(")
    with editor() as at:
        assert at.ready.supportsLogPoints and at.ready.supportsReadMemoryRequest
        at.begin(lab="guard-page")
        (function,) = at.ask("setFunctionBreakpoints", breakpoints=[{"name": FUNCTION}]).breakpoints
        log = {"line": entered, "logMessage": "deep at {rsp}", "hitCondition": "60"}
        never = {"line": line_of("page_faults.rs", "fn guard_page("), "condition": "rax == 1234567"}
        (logs,) = at.ask(
            "setBreakpoints", source={"path": "/elsewhere/probes.rs"}, breakpoints=[log]
        ).breakpoints
        (conditional,) = at.ask(
            "setBreakpoints", source={"path": str(SOURCE / "page_faults.rs")}, breakpoints=[never]
        ).breakpoints
        assert function.verified and logs.verified and conditional.verified
        assert logs.line == entered
        (wrong,) = at.ask("setFunctionBreakpoints", breakpoints=[{"name": "nowhere"}]).breakpoints
        assert not wrong.verified and "no symbol" in wrong.message
        at.ask("setFunctionBreakpoints", breakpoints=[{"name": FUNCTION}])
        at.ask("configurationDone")

        assert at.wait("StoppedEvent").reason == "breakpoint"
        top = frames(at)[0]
        assert top.name == FUNCTION and Path(top.source.path).is_file()
        at.ask("next", threadId=1)
        assert at.wait("StoppedEvent").reason == "step"
        assert frames(at)[0].line > top.line

        at.ask("continue", threadId=1)
        stopped = at.wait("StoppedEvent")
        assert stopped.reason == "exception"
        assert "overflowed into its guard page" in stopped.description
        assert at.ask("exceptionInfo", threadId=1).exceptionID == "page-fault.guard-page"
        handler, faulted = frames(at)[:2]
        assert handler.source is None and handler.presentationHint == "subtle"
        assert (faulted.name, faulted.line) == ("kernel::scenarios::probes::recurse", entered)

        scopes = named(at.ask("scopes", frameId=faulted.id).scopes)
        assert {"Arguments", "Locals", "Registers", "Page tables"} == set(scopes)
        tables = at.ask("variables", variablesReference=scopes["Page tables"].variablesReference)
        cr2 = next(one for one in tables.variables if one.name.startswith("cr2"))
        assert cr2.value == "not-present at level 1"
        levels = at.ask("variables", variablesReference=cr2.variablesReference).variables
        assert [one.name.split()[0] for one in levels] == ["PML4", "PDPT", "PD", "PT"]
        walked = at.ask("evaluate", expression="walk rip", frameId=faulted.id)
        assert "physical" in walked.result
        registers = at.ask("variables", variablesReference=scopes["Registers"].variablesReference)
        rip = named(registers.variables)["rip"].value
        memory = at.ask("readMemory", memoryReference=rip, offset=0, count=4)
        assert len(base64.b64decode(memory.data)) == 4
        code = at.ask(
            "disassemble", memoryReference=rip, instructionOffset=-2, instructionCount=4
        ).instructions
        (here,) = at.ask("disassemble", memoryReference=rip, instructionCount=1).instructions
        assert len(code) == 4 and code[2] == here and code[1] != here
        value = at.ask("evaluate", expression="SCHEDULER.current_thread", frameId=faulted.id)
        assert value.result == "Some(3)"


def test_log_points_are_told_and_a_guest_that_runs_is_paused() -> None:
    """Points are changed while it runs, too."""
    with editor() as at:
        at.begin(lab="many")
        at.ask("configurationDone")
        refused = at.ask("stackTrace", threadId=1)
        assert not refused.success and "running" in refused.message
        (point,) = at.ask(
            "setFunctionBreakpoints",
            breakpoints=[{"name": "syscall_entry", "logMessage": "call {rax} of {pid}"}],
        ).breakpoints
        assert point.verified
        while "call " not in at.wait("OutputEvent").output:
            pass
        at.ask("pause", threadId=1)
        assert at.wait("StoppedEvent").reason == "pause"
        assert named(at.ask("threads").threads)
        refused = at.ask("stepBack", threadId=1)
        assert not refused.success and "recording" in refused.message
        assert not at.ask("evaluate", expression="nonsense+").success
        assert not at.ask("no-such-request").success


def test_a_snapshot_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "stop.core"
    from breenix_gdbagent import launch

    with launch(lab="guard-page") as vm:
        vm.run(seconds=30)
        vm.save(file)
    with editor() as at:
        at.begin(snapshot=str(file))
        at.ask("configurationDone")
        assert at.wait("StoppedEvent").reason == "exception"
        assert frames(at)[1].name == "kernel::scenarios::probes::recurse"
        refused = at.ask("continue", threadId=1)
        assert not refused.success and "does not run" in refused.message


def test_a_recording_goes_both_ways(tmp_path: Path) -> None:
    """Points stop it forwards and backwards, and a line is gone back as it was gone on."""
    assert run(["record", "--lab", "guard-page", "-o", str(tmp_path / "made"), "--json"]) == 1
    with editor() as at:
        at.begin(replay=str(tmp_path / "made"))
        (point,) = at.ask("setFunctionBreakpoints", breakpoints=[{"name": FUNCTION}]).breakpoints
        assert point.verified
        at.ask("configurationDone")
        assert at.wait("StoppedEvent").reason == "exception"
        assert frames(at)[1].name == "kernel::scenarios::probes::recurse"

        at.ask("reverseContinue", threadId=1)
        stopped = at.wait("StoppedEvent")
        assert (stopped.reason, stopped.hitBreakpointIds) == ("breakpoint", [str(point.id)])
        entered = frames(at)[0]
        assert entered.name == FUNCTION
        at.ask("next", threadId=1)
        assert at.wait("StoppedEvent").reason == "step"
        next_line = frames(at)[0]
        assert next_line.name == FUNCTION and next_line.line > entered.line
        at.ask("stepBack", threadId=1)
        at.wait("StoppedEvent")
        assert frames(at)[0].line == entered.line
        at.ask("stepBack", threadId=1, granularity="instruction")
        at.wait("StoppedEvent")
        assert frames(at)[0].name != FUNCTION

        at.ask("continue", threadId=1)
        assert at.wait("StoppedEvent").reason == "breakpoint"
        assert frames(at)[0].line == entered.line
        at.ask("continue", threadId=1)
        assert at.wait("StoppedEvent").reason == "exception"


def test_a_qemu_that_runs_is_attached_to_and_runs_on(tmp_path: Path) -> None:
    with beside(tmp_path, "hang") as qemu:
        with editor() as at:
            at.ask("attach", gdb=qemu.gdb, qmp=qemu.qmp, kernel=str(ELF))
            at.wait("InitializedEvent")
            at.ask("configurationDone")
            assert at.wait("StoppedEvent").reason == "entry"
            assert named(at.ask("threads").threads)
            at.ask("continue", threadId=1)
            refused = at.ask("stackTrace", threadId=1)
            assert not refused.success and "running" in refused.message
            at.ask("pause", threadId=1)
            assert at.wait("StoppedEvent").reason == "pause"
            assert frames(at)
        monitor = Qmp(str(qemu.room / "qmp"))
        try:
            assert monitor.status() == "running"
        finally:
            monitor.close()


@pytest.mark.skipif(gdb_version() < 16, reason="no gdb 16, which is a debug adapter itself")
def test_what_gdbs_own_adapter_says_of_the_same_stop(tmp_path: Path) -> None:
    with beside(tmp_path, "hang", paused=True) as qemu:
        with editor() as at:
            at.ask("attach", gdb=qemu.gdb, qmp=qemu.qmp, kernel=str(ELF))
            at.wait("InitializedEvent")
            hang = [{"name": "kernel::scenarios::basic::hang"}]
            assert at.ask("setFunctionBreakpoints", breakpoints=hang).breakpoints[0].verified
            at.ask("configurationDone")
            at.wait("StoppedEvent")
            at.ask("continue", threadId=1)
            assert at.wait("StoppedEvent").reason == "breakpoint"
            ours = [(one.name, one.line) for one in frames(at) if one.source is not None]
        symbols = f"add-symbol-file {ELF} -o {BASE:#x}"
        with gdbs_adapter("-iex", symbols) as ask:
            ask("initialize", adapterID="gdb")
            ask("attach", target=f"{qemu.room}/gdb")
            ask("configurationDone")
            (thread, *_) = ask("threads")["threads"]
            found = ask("stackTrace", threadId=thread["id"])["stackFrames"]
            theirs = [(one["name"], one["line"]) for one in found if "source" in one]
    assert ours and ours == theirs[: len(ours)]
