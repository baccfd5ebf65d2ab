"""`locks` on a guest that hangs over two locks of two CPUs, against what the guest said before it
took them; a guest without types is refused."""

from __future__ import annotations

import json
from pathlib import Path

from tests.guest.labrun import agent, tail, truth
from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu

TIMEOUT = "20"


def test_two_cpus_that_wait_for_each_other(tmp_path: Path) -> None:
    file = str(tmp_path / "hang.snapshot")
    taken = agent("snapshot", "--lab", "lock-deadlock", "--timeout", TIMEOUT, "--json", "-o", file)
    assert taken.code == 4
    plans = truth(tail(taken.document), "plan")
    assert {plan["on_cpu"] for plan in plans} == {2, 3}
    listed = json.loads(agent("locks", "--snapshot", file, "--json").out)
    rows = {row["address"]: row for row in listed}
    for plan in plans:
        assert rows[plan["held"]]["taken"]
        assert rows[plan["held"]]["holder"]["cpu"] == plan["on_cpu"]
        assert [one["cpu"] for one in rows[plan["wanted"]]["waiting"]] == [plan["on_cpu"]]
    assert [row["taken"] for row in rows.values()].count(True) == 2
    shown = agent("locks", "--snapshot", file).out
    assert "held by CPU 2, whose backtrace shows the guard" in shown
    assert "CPU 3 spins on it" in shown
    told = agent("report", file).out
    assert "spins on" in told and "held by CPU 3" in " ".join(told.split())


def test_no_type_no_lock() -> None:
    refused = agent("locks", "--lab", "clean", "--stripped")
    assert refused.code == 1
    assert "not checked: the kernel's ELF has no debug information" in refused.out
