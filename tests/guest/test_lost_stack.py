"""A CPU whose CR3 maps none of its stack: its frames are read through the space that does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from breenix_gdbagent.kernel.inside import Inside, exceptions_inside
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.targets.saved import saved as saved_stop
from tests.guest.labrun import agent
from tests.guest.live_support import ELF, needs_qemu

pytestmark = needs_qemu
CALLERS = ["kernel::scenarios::spaces::load", "kernel::scenarios::spaces::bootloader"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lost") / "stop"
    assert agent("ci", "--lab", "cr3-bootloader", "-o", str(file)).code == 1
    return file


def test_the_frames_and_who_loaded_the_space(saved: Path) -> None:
    told = agent("report", str(saved), "--kernel", str(ELF), "--json").document
    (cpu,) = told["stops"][-1]["cpus"]
    assert [frame["name"] for frame in cpu["backtrace"]["frames"][:2]] == CALLERS
    assert "was read through" in cpu["backtrace"]["end"]
    found = {f["code"]: f for f in told["findings"]}
    for code in ("cr3.bootloader", "triple-fault", "page-fault.unmapped"):
        (spot,) = found[code]["source"]
        assert spot["file"].endswith("scenarios/spaces.rs") and spot["line"] > 1
    shown = found["cr3.bootloader"]["evidence"]
    assert CALLERS[0] in shown["mov_cr3"] and CALLERS[1] in shown["called_by"]


def test_a_stack_under_the_root_that_is_named(saved: Path) -> None:
    target = ("--snapshot", str(saved), "--kernel", str(ELF))
    (own,) = json.loads(agent("bt", *target, "--root", "0x100000", "--json").out)
    master = json.loads(agent("pt", "roots", *target, "--json").out)
    (root,) = (space["root"] for space in master if space["role"] == "master")
    (through,) = json.loads(agent("bt", *target, "--root", root, "--json").out)
    assert len(own["frames"]) == 1
    assert [frame["name"] for frame in through["frames"][:2]] == CALLERS
    assert f"read under {root}" in through["end"]


def test_a_frame_of_a_handler_that_is_over_is_nothing_that_the_cpu_is_inside_of(
    tmp_path: Path,
) -> None:
    """Idle was left on the page fault's stack, below the frame of a fault of long ago."""
    file = tmp_path / "stop"
    done = agent("ci", "--lab", "handler-long-over", "-o", str(file), "--json")
    assert done.codes("error") == {"kernel-stack.foreign"}
    kernel = Kernel(saved_stop(file, ELF)[0])
    stack = kernel.stack_at(kernel.stop.cpu.rsp)
    assert stack is not None and stack.ist == 2
    assert exceptions_inside(kernel, kernel.stop.cpu) == Inside()
