"""Where the captures of real kernels are, and their truth; skipped by name where they are not."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest

NAMES = (
    "breenix-first-gp",
    "breenix-head-cow-fault",
    "breenix-seed-syscall",
    "linux-4level",
    "linux-pti",
)
BREENIX = NAMES[:3]
LINUX = NAMES[3:]


def capture(name: str) -> Path:
    """The folder of one capture: in `BREENIX_CAPTURES`, else beside the checkout."""
    beside = Path(__file__).parents[3] / "shared" / "captures"
    folder = Path(os.environ.get("BREENIX_CAPTURES", beside)) / name
    if not (folder / "core.elf").is_file():
        pytest.skip(f"capture {name} is not here (BREENIX_CAPTURES)")
    return folder


@cache
def _parsed(folder: Path) -> dict[str, object]:
    truth = json.loads((folder / "truth.json").read_text())
    assert isinstance(truth, dict)
    return truth


def truth_of(name: str) -> dict[str, object]:
    """`truth.json` of a capture."""
    return _parsed(capture(name))
