"""A guest that prints its success marker and then faults has failed, and the report says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from breenix_gdbagent import configs, lab, run_report
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
from breenix_gdbagent.live import launch
from breenix_gdbagent.report.markdown import render as render_markdown
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.report.text import render as render_text
from breenix_gdbagent.snapshot.opening import read_snapshot
from breenix_gdbagent.symbols import Image
from tests.guest.live_support import ELF, needs_qemu

pytestmark = needs_qemu

SUCCESS = "Kernel initialization complete!"


WATCHED = Orders(linger=2.0)


def document(scenario: str, file: Path, orders: Orders = WATCHED) -> tuple[Report, Report]:
    """The run of a machine whose success comes early, watched for some seconds more; live, and out
    of its snapshot."""
    plan = lab.scenario(scenario)
    config = replace(configs.load("lab"), success=SUCCESS)
    with launch(config, kernel=ELF, append=plan.append, cpu=plan.cpu) as vm:
        run = GuardedRun(Debugger(vm, Image.open(ELF)), orders)
        run.start()
        ended = run.go()
        parts = (ended.record, ended.facts, ended.history)
        run_report.save(file, ended.kernel, "tables", {"kind": "lab"}, *parts, {})
        live = run_report.finish(ended.kernel, {"kind": "lab"}, *parts, ended.examined)
    opened = read_snapshot(file)
    return live, run_report.document_of(opened.stop, opened.extra, {})


@pytest.mark.parametrize("scenario", ["page-fault-unmapped", "cr3-bootloader", "panic"])
def test_success_and_then_a_fault(scenario: str, tmp_path: Path) -> None:
    for told in document(scenario, tmp_path / "stop"):
        assert "went wrong after that" in render_text(told)
        assert SUCCESS in str(told.run.succeeded)
        assert "went wrong after that" in render_markdown(told)


def test_success_and_nothing_after_it(tmp_path: Path) -> None:
    for told in document("clean", tmp_path / "stop"):
        assert told.findings == ()
        assert "went wrong" not in render_text(told)
        assert told.run.watched > 1.5
        assert told.stops[-1].reason == "marker"
        assert told.stops[-1].seconds == told.run.seconds  # as it was at the marker, not after it


@pytest.mark.parametrize("until", ["initialization complete", "Memory management initialized"])
def test_its_own_word_of_success_lingers_however_it_is_waited_for(
    until: str, tmp_path: Path
) -> None:
    """And another text does not, unless it is asked for."""
    own = until in SUCCESS
    for told in document("page-fault-unmapped", tmp_path / "a", Orders(until=until, linger=2.0)):
        assert {f.code for f in told.findings} == ({"page-fault.unmapped"} if own else set())
    asked = Orders(until=until, linger=2.0, always_linger=True)
    for told in document("page-fault-unmapped", tmp_path / "b", asked):
        assert "page-fault.unmapped" in {f.code for f in told.findings}
