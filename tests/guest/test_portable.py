"""Where Linux's own ways are not there (no /proc, no process memory, no holes, no memfd, no
/dev/shm), everything works all the same, and says the same."""

from __future__ import annotations

import builtins
import io
import json
import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import capstone  # noqa: F401  # looks for its library by the platform's name
import pytest

from breenix_gdbagent.commands import run
from breenix_gdbagent.link.memory import StubMemory
from breenix_gdbagent.live import attach
from breenix_gdbagent.memory import mapped
from tests.guest.live_support import beside, needs_qemu

pytestmark = needs_qemu

LINUX_ONLY = ("/proc", "/dev/shm", "/sys")


def _refusing(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, for which those directories do not exist."""

    def refuse(path: Any, *more: Any, **named: Any) -> Any:
        if isinstance(path, (str, os.PathLike)) and str(path).startswith(LINUX_ONLY):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return call(path, *more, **named)

    return refuse


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that is no Linux, as far as the agent asks."""
    sysconfig.get_config_vars()  # Python's own, which it reads once
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(mapped, "_SAYS_HOLES", False)
    for name in ("memfd_create", "pidfd_open", "SEEK_DATA", "SEEK_HOLE"):
        monkeypatch.delattr(os, name)
    for where, name in ((os, "open"), (os, "stat"), (os, "scandir"), (os, "listdir"), (io, "open"),
                        (builtins, "open")):  # fmt: skip
        monkeypatch.setattr(where, name, _refusing(getattr(where, name)))
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda p, *more, **named: not str(p).startswith(LINUX_ONLY)
        and access(p, *more, **named),
    )  # fmt: skip
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)


def answered(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run(list(arguments))
    out, err = capsys.readouterr()
    assert code in (0, 1), err
    return code, json.loads(out)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("scenario", ["clean", "page-fault-unmapped", "stack-overflow"])
def test_a_guest_of_ours(scenario: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from breenix_gdbagent import lab

    code, document = answered(capsys, "ci", "--lab", scenario, "--json")
    plan = lab.scenario(scenario)
    assert code == plan.exit
    wanted = {f["code"] for f in document["findings"] if f["severity"] != "info"}
    assert wanted == set(plan.codes)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("breenix")], "a run directory"


def test_a_guest_that_runs_already(
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By the stub alone, by QMP (whose peer cannot be told) and by the RAM file without holes."""
    with beside(tmp_path, "hang") as qemu:
        targets = [
            ("--gdb", qemu.gdb),
            ("--gdb", qemu.gdb, "--qmp", qemu.qmp),
            ("--gdb", qemu.gdb, "--qmp", qemu.qmp, "--ram", str(qemu.ram)),
        ]
        with attach(qemu.gdb, qmp=qemu.qmp, serial=qemu.serial) as vm:
            vm.run_until(["idle"], 5)
            vm._holds = vm._holds._replace(was_running=False)  # one moment for all
        wanted = [
            answered(capsys, *command, "--json", *targets[1])
            for command in (("pt", "roots"), ("pt", "map"))
        ]
        request.getfixturevalue("elsewhere")
        for target in targets:
            said = [
                answered(capsys, *command, "--json", *target)
                for command in (("pt", "roots"), ("pt", "map"))
            ]
            assert said == wanted, target
            assert qemu.status() == "paused"
        with attach(qemu.gdb, qmp=qemu.qmp) as vm:
            assert vm.stub.link.peer == 0
            assert isinstance(vm.memory(), StubMemory)
            assert vm._behind_the_stub() is None
            assert vm.stub.ask(b"qqemu.PhyMemMode") == [b"0"]
