"""Snapshots recorded when their version was the newest: they open, and say what they said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from breenix_gdbagent.commands import run
from breenix_gdbagent.snapshot.opening import read_snapshot
from breenix_gdbagent.snapshot.saving import save_snapshot
from breenix_gdbagent.x86.exceptions import read_frame
from breenix_gdbagent.x86.paging import Tables, VirtualMemory, walk
from tests.schema import validate

RECORDED = Path(__file__).parents[2] / "fixtures" / "snapshots"


def test_version_1_still_gives_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Of today's schema, with the finding that was its point."""
    assert run(["report", str(RECORDED / "version-1-tables.core"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    validate(document)
    assert "page-fault.unmapped" in {f["code"] for f in document["findings"]}


def test_version_1(tmp_path: Path) -> None:
    opened = read_snapshot(RECORDED / "version-1-tables.core")
    stop = opened.stop
    assert opened.version == 1 and opened.image is not None
    assert opened.image.bias == 0x80_0000_0000 and len(opened.image.sha256 or "") == 64
    assert opened.extra is not None and opened.extra["memory"] == "tables"
    assert (stop.reason.kind, stop.reason.vector) == ("fault", 14)
    cpu = stop.cpu
    assert cpu.root is not None and cpu.registers["efer"] & 1 << 11
    assert stop.memory.ram is not None and stop.memory.ram.size > 100 << 20
    # The guest's own word, in its serial text, is the judge of the rest.
    plan = next(line for line in stop.serial.lines() if '"k":"plan"' in line)
    assert f'"cr2":"{cpu.registers["cr2"]:#x}"' in plan
    tables = Tables(stop.memory)
    found = walk(tables, cpu.root, cpu.registers["cr2"])
    assert (found.reason, found.stopped_at) == ("not-present", 2)
    frame = read_frame(VirtualMemory(tables, cpu.root).read, cpu.rsp, 14)
    assert f'"rip":"{frame.rip:#x}"' in plan and f'"error_code":"{frame.error_code:#x}"' in plan
    save_snapshot(stop, tmp_path / "again", extra=opened.extra)
    again = read_snapshot(tmp_path / "again")
    assert (again.stop.cpus, again.stop.serial, again.extra) == (
        stop.cpus,
        stop.serial,
        opened.extra,
    )
