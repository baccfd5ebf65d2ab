"""Every QEMU that is here, one after the other; and no limit of time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = "qemu-system-x86_64"


def _found() -> list[Path]:
    """Directories with a QEMU of their own: those that ``QEMUS`` names, then those of PATH."""
    named = f"{os.environ.get('QEMUS', '')}:{os.environ.get('PATH', '')}".split(":")
    programs = {
        (Path(folder) / PROGRAM).resolve(): Path(folder).absolute()
        for folder in reversed(named)
        if folder and os.access(Path(folder) / PROGRAM, os.X_OK)
    }
    return list(programs.values())[::-1]


def _version(folder: Path) -> str:
    told = subprocess.run(
        [folder / PROGRAM, "--version"], capture_output=True, text=True, check=False
    )
    return told.stdout.partition("version ")[2].split(" ")[0].strip() or str(folder)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "qemu" in metafunc.fixturenames:
        found = _found()
        metafunc.parametrize("qemu", found, ids=[_version(one) for one in found], indirect=True)


@pytest.fixture
def qemu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of one QEMU, which stands first in PATH while the test runs."""
    folder: Path = request.param
    monkeypatch.setenv("PATH", f"{folder}:{os.environ.get('PATH', '')}")
    yield folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker(
            "timeout"
        ):
            item.add_marker(pytest.mark.timeout(0))
