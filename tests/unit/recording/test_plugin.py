"""The plugin that comes with the package is what its source gives."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from breenix_gdbagent.recording import plugin


def stripped(path: Path) -> bytes:
    subprocess.run(["strip", str(path)], check=True)
    return path.read_bytes()


def compiler_of(data: bytes) -> bytes | None:
    """What the section .comment says."""
    found = re.search(rb"GCC: [^\0]+", data)
    return None if found is None else found[0]


def names_in(data: bytes) -> set[bytes]:
    """Functions of QEMU's that it calls or looks for."""
    return set(re.findall(rb"qemu_plugin_\w+", data))


@pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("strip") is None, reason="no gcc here"
)
def test_it_is_built_from_the_source_in_the_tree(tmp_path: Path) -> None:
    """Byte for byte with the compiler that built it; with another one the same functions."""
    assert plugin.build(tmp_path / "own.so")
    ours, built = plugin.PREBUILT.read_bytes(), stripped(tmp_path / "own.so")
    assert names_in(ours) == names_in(built) and b"qemu_plugin_install" in ours
    if compiler_of(ours) == compiler_of(built):
        assert ours == built


def test_one_of_this_machines_compiler_is_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = plugin.candidates()[-1]
    assert first.parent == tmp_path / "breenix-gdbagent" and first.is_file()
    monkeypatch.setattr(plugin, "build", lambda *_: pytest.fail("it was there"))
    assert plugin.candidates()[-1] == first


def test_without_a_compiler_that_works_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plugin, "PREBUILT", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert plugin.candidates() == []
    assert not plugin.build(tmp_path / "x.so", "no-such-compiler")
