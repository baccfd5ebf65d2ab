"""``ci`` on the lab guest of aarch64: the codes and the exit that its own table promises."""

from __future__ import annotations

import shutil

import pytest

from breenix_gdbagent.lab import scenario, scenarios
from tests.guest.labrun import agent

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-aarch64") is None, reason="qemu-system-aarch64 is not installed"
)

RUN = (
    "clean", "page-fault-unmapped", "page-fault-user", "copy-on-write", "guard-page", "smap",
    "eret-zeroed", "eret-illegal", "sp-misaligned", "vectors-unmapped", "panic", "reboot",
    "unexpected-exit",
)  # fmt: skip


@pytest.mark.parametrize("name", RUN)
def test_the_codes_that_the_table_promises(name: str) -> None:
    plan = scenario(name, "aarch64")
    done = agent("ci", "--lab", name, "--arch", "aarch64", "--timeout", "200", "--json")
    assert done.codes("error", "warning") == set(plan.codes), done.err
    assert done.code == plan.exit
    if plan.exit == 0 and plan.strict:
        assert done.codes("info")
    absent = {"idt-gates", "tss", "descriptor-tables"}
    assert not absent & {check["name"] for check in done.document["checks"]}


def test_there_are_enough() -> None:
    assert len(scenarios("aarch64")) >= 40


def test_the_fault_of_another_cpu() -> None:
    done = agent(
        "ci", "--lab", "other-cpu", "--arch", "aarch64", "--smp", "4", "--timeout", "200", "--json"
    )
    assert done.codes("error") == {"page-fault.unmapped"}
    (finding,) = done.document["findings"]
    assert finding["evidence"]["cpu"] == 1 and finding["evidence"]["predicted"] == "0x96000006"
    assert len(done.document["stops"][-1]["cpus"]) == 4
