"""Thousands of generated DWARF programs, each held against somebody else's reading of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.gdb import gdb_command
from tests.unit.symbols import generated

FILES = 20
FRAMES = 125
"""Descriptions of each of two sections in one file: 5,000 in all."""
LINES = 250
"""Line programs of each version: 1,000 in all."""
LOCATIONS = 250
"""In one file: 5,000 in all."""


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine")
    return found


@pytest.mark.parametrize("seed", range(FILES))
def test_call_frames(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "kernel"
    readelf = _program("readelf")
    table = generated.frames(random.Random(seed), path, FRAMES, every=True)
    assert generated.compare_frames_with_readelf(readelf, path, table) > 5 * FRAMES
    table = generated.frames(random.Random(seed), path, FRAMES, every=False)
    assert generated.compare_frames_with_pyelftools(path, table) > 5 * FRAMES


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_line_programs(tmp_path: Path, version: int) -> None:
    readelf = _program("readelf")
    for seed in range(LINES):
        path = tmp_path / f"kernel{seed}"
        ours = generated.rows_of(generated.lines(random.Random(seed), path, version))
        assert ours == generated.lines_by_pyelftools(path), seed
        assert ours == generated.lines_by_readelf(readelf, path), seed
        path.unlink()


@pytest.mark.parametrize("seed", range(FILES))
def test_locations_by_gdb(tmp_path: Path, seed: int) -> None:
    _program("gdb")
    path = tmp_path / "kernel"
    ours = generated.statics(random.Random(seed), path, LOCATIONS, jumps=False)
    assert ours == generated.statics_by_gdb(gdb_command(), path, LOCATIONS)


@pytest.mark.parametrize("seed", range(FILES))
def test_locations_by_drgn(tmp_path: Path, seed: int) -> None:
    pytest.importorskip("drgn", reason="no drgn here: pip install -e '.[thorough]'")
    path = tmp_path / "kernel"
    ours = generated.statics(random.Random(seed), path, LOCATIONS, jumps=True)
    assert ours == generated.statics_by_drgn(path, LOCATIONS)
