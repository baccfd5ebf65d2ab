"""The README's picture of a report: ``python -m tools.picture OUT`` (needs chromium)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.guest.browser import Browser

WIDTH, HEIGHT = 1100, 1000


def main(out: Path) -> None:
    """The first screen of a double fault's report, as a browser shows it."""
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        subprocess.run(
            [sys.executable, "-m", "breenix_gdbagent", "ci", "--lab", "kernel-stack-unmapped",
             "--deterministic", "--html", page],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        browser = Browser()
        try:
            browser.open(page, WIDTH, HEIGHT)
            browser.picture(out, whole=False)
        finally:
            browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
