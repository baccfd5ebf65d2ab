"""What the README shows is what the agent prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_readme_is_current() -> None:
    """`make readme` writes it anew; the runs are on QEMU's instruction counter."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "readme.py"), str(ROOT / "README.md"), "--check"],
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, "run `make readme`"


def test_it_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text
    assert (ROOT / "docs" / "report.png").is_file()
