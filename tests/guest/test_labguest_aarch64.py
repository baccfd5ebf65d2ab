"""The lab guest on aarch64: what it says of itself is what QEMU logs, and it can be built again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from breenix_gdbagent.lab import elf

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures"
SOME = [
    "clean", "page-fault-unmapped", "page-fault-user", "access-flag", "guard-page", "eret-illegal",
    "kernel-stack-unmapped",
]  # fmt: skip
TARGET = "aarch64-unknown-none-softfloat"

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-aarch64") is None, reason="qemu-system-aarch64 is not installed"
)


@pytest.mark.parametrize("cpus", ["1", "4"])
def test_the_plan_is_what_the_cpu_does(cpus: str) -> None:
    """`verify.py` boots the guest without the agent and compares its plan with ``-d int``."""
    command = [sys.executable, str(FIXTURES / "labguest-aarch64" / "verify.py"), "--smp", cpus]
    done = subprocess.run(
        [*command, *(SOME if cpus == "1" else ["clean", "other-cpu"])],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clean" in done.stdout


def _can_build() -> bool:
    if shutil.which("rustc") is None:
        return False
    command = ["rustc", "--print", "target-libdir", "--target", TARGET]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0 and Path(done.stdout.strip()).is_dir()


@pytest.mark.skipif(not _can_build(), reason=f"rust for {TARGET} is not installed")
def test_it_builds_again_and_is_the_same(tmp_path: Path) -> None:
    """A build out of a copy of the source has the code of the ELF that is kept."""
    for name in ("labguest", "labguest-aarch64"):
        shutil.copytree(
            FIXTURES / name,
            tmp_path / "fixtures" / name,
            ignore=shutil.ignore_patterns("target"),
        )
    out = tmp_path / "out"
    script = tmp_path / "fixtures" / "labguest-aarch64" / "build.sh"
    built = subprocess.run(
        ["sh", str(script), str(out)], capture_output=True, text=True, timeout=200, check=False
    )
    assert built.returncode == 0, built.stderr[-2000:]
    for stripped in (False, True):
        kept = elf(stripped, "aarch64")
        assert _loaded(out / kept.name) == _loaded(kept)


def _loaded(path: Path) -> list[tuple[int, bytes]]:
    """What the segments put into memory, less the build-id, which is of the whole file."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        image = ELFFile(file)
        note = image.get_section_by_name(".note.gnu.build-id").data()
        segments = [s for s in image.iter_segments() if s["p_type"] == "PT_LOAD"]
        return [(s["p_paddr"], s.data().replace(note, b"")) for s in segments]
