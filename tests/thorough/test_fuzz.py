"""Each parser is given ten thousand inputs that are looked for by coverage: no traceback, and time
and memory within bounds (`tests.fuzz`)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

RUNS = 10_000
ROOT = Path(__file__).parents[2]
INTO = ROOT / "build" / "fuzz"


@pytest.mark.parametrize("name", TARGETS)
def test_ten_thousand_inputs(name: str) -> None:
    pytest.importorskip("atheris", reason="no atheris here: pip install -e '.[thorough]'")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, "--runs", str(RUNS), "--into", str(INTO)],
        cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    told = done.stderr[-4000:]
    assert done.returncode == 0, f"keep the input in tests/fuzz/found/{name}/ and mend it:\n{told}"
    given = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert given is not None and int(given[1]) >= RUNS, told
    assert "Instrumenting breenix_gdbagent." in done.stderr, "nothing was looked for by coverage"
