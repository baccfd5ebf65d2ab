"""``snapshot --reproduce``: the same machine again, and whether it stops at the same fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent.snapshot.saving import save_snapshot
from breenix_gdbagent.targets.saved import saved
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("reproduce") / "fault"
    done = agent("snapshot", "--lab", "kernel-stack-unmapped", "--deterministic", "-o", str(file))
    assert done.code == 1
    return file


def _changed(file: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The snapshot with another note of what booted."""
    stop, kept = saved(file)
    extra: Any = dict(kept or {})
    change(extra)
    save_snapshot(stop, target, extra=extra)
    return target


def test_the_same_fault_again(fault: Path) -> None:
    done = agent("snapshot", "--reproduce", str(fault))
    assert (done.code, done.out.splitlines()[0]) == (0, "the same fault again")
    causes = ["kernel-stack.unmapped (double-fault)"]
    told = {"reason": "fault", "vector": 8, "error_code": "0x0", "cr2": None, "causes": causes}
    assert agent("snapshot", "--reproduce", str(fault), "--json").document == {
        "same": True,
        "before": told,
        "after": told,
        "gone": [],
        "new": [],
        "other": [],
    }


def test_another_fault_is_said(fault: Path, tmp_path: Path) -> None:
    def elsewhere(extra: dict[str, Any]) -> None:
        extra["target"] = {**extra["target"], "scenario": "page-fault-unmapped"}

    done = agent("snapshot", "--reproduce", str(_changed(fault, tmp_path / "f", elsewhere)))
    assert (done.code, done.out.splitlines()[0]) == (1, "not the same fault")
    assert "then only: kernel-stack.unmapped@clock_gettime_test" in done.out
    assert "now only: page-fault.unmapped" in done.out


def test_another_qemu_is_said_and_no_reason_to_refuse(fault: Path, tmp_path: Path) -> None:
    def older(extra: dict[str, Any]) -> None:
        extra["machine"] = {**extra["machine"], "qemu": "0.9.1"}

    done = agent("snapshot", "--reproduce", str(_changed(fault, tmp_path / "f", older)))
    assert done.code == 0 and "booted with something else: QEMU 0.9.1 then" in done.out


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kernel", "0" * 64, "is not the kernel of the snapshot"),
        ("images", ["0" * 64], "the images are not those that booted"),
        ("config", None, "a QEMU that we did not boot"),
    ],
)
def test_other_files_are_refused(
    fault: Path, tmp_path: Path, name: str, value: object, words: str
) -> None:
    def other(extra: dict[str, Any]) -> None:
        extra["machine"] = {**extra["machine"], name: value}

    done = agent("snapshot", "--reproduce", str(_changed(fault, tmp_path / "f", other)))
    assert (done.code, done.out) == (2, "")
    assert words in done.err and len(done.err.strip().splitlines()) <= 3
