"""The lab guest itself: what it says of itself is what QEMU logs, and it can be built again."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from breenix_gdbagent.lab import elf

ROOT = Path(__file__).parents[2]
LABGUEST = ROOT / "fixtures" / "labguest"
SOME = [
    "clean", "page-fault-unmapped", "guard-page", "kernel-stack-unmapped", "ist-unmapped",
    "kernel-slot-diverged", "shared-user-table", "general-protection", "gdt-unmapped",
]  # fmt: skip


@pytest.mark.parametrize("name", SOME)
def test_the_plan_is_what_the_cpu_does(name: str) -> None:
    """`verify.py` boots the guest without the agent and compares its plan with ``-d int``."""
    done = subprocess.run(
        [sys.executable, str(LABGUEST / "verify.py"), name],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert name in done.stdout


@pytest.mark.skipif(shutil.which("cargo") is None, reason="cargo is not installed")
def test_it_builds_again_and_does_the_same(tmp_path: Path) -> None:
    """A build out of a copy of the source boots to the same end as the ELF that is kept."""
    copy = tmp_path / "fixtures" / "labguest"
    shutil.copytree(LABGUEST, copy, ignore=shutil.ignore_patterns("target"))
    (tmp_path / "breenix_gdbagent" / "lab").mkdir(parents=True)
    built = subprocess.run(
        ["sh", str(copy / "build.sh")], capture_output=True, text=True, timeout=110, check=False
    )
    assert built.returncode == 0, built.stderr[-2000:]
    fresh = tmp_path / "breenix_gdbagent" / "lab" / "labguest.elf"
    assert _serial(fresh) == _serial(elf(False))


def _serial(kernel: Path) -> str:
    """Serial text of a boot on QEMU's instruction counter: a hash, addresses and all."""
    from breenix_gdbagent.live import launch

    with launch("lab", kernel=kernel, append="scenario=clean era=2025", deterministic=True) as vm:
        stop = vm.run_until(["LAB COMPLETE"], 60)
    assert stop.reason.kind == "marker"
    return hashlib.sha256(stop.serial.port(0).encode()).hexdigest()
