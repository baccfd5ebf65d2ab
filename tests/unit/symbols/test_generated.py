"""Generated call frames, line programs and locations, as others read them; thousands of them are
compared by ``make thorough TOPIC=generated``."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gdb import gdb_command
from tests.unit.symbols import generated

COUNT = 24


def test_call_frames_as_readelf_has_them(tmp_path: Path, tool: Callable[[str], str]) -> None:
    readelf, path = tool("readelf"), tmp_path / "kernel"
    table = generated.frames(random.Random(11), path, COUNT, every=True)
    assert generated.compare_frames_with_readelf(readelf, path, table) > 5 * COUNT


def test_call_frames_as_pyelftools_has_them(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    table = generated.frames(random.Random(12), path, COUNT, every=False)
    assert generated.compare_frames_with_pyelftools(path, table) > 5 * COUNT


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_lines_as_readelf_and_pyelftools_have_them(
    tmp_path: Path, tool: Callable[[str], str], version: int
) -> None:
    readelf, path = tool("readelf"), tmp_path / "kernel"
    for seed in range(3):
        ours = generated.rows_of(generated.lines(random.Random(seed), path, version))
        assert len(ours) > 1
        assert ours == generated.lines_by_pyelftools(path)
        assert ours == generated.lines_by_readelf(readelf, path)


def test_locations_as_gdb_has_them(tmp_path: Path, tool: Callable[[str], str]) -> None:
    tool("gdb")
    path = tmp_path / "kernel"
    ours = generated.statics(random.Random(13), path, COUNT, jumps=False)
    assert len(set(ours)) > COUNT // 3
    assert ours == generated.statics_by_gdb(gdb_command(), path, COUNT)


def test_locations_with_jumps_as_drgn_has_them(tmp_path: Path) -> None:
    pytest.importorskip("drgn", reason="no drgn here: pip install -e '.[thorough]'")
    path = tmp_path / "kernel"
    ours = generated.statics(random.Random(14), path, COUNT, jumps=True)
    assert len(set(ours)) > COUNT // 3
    assert ours == generated.statics_by_drgn(path, COUNT)
