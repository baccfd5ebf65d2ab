"""``doctor``: what it says of a kernel's ELF."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from breenix_gdbagent.commands import run
from breenix_gdbagent.guest import elf


def items(capsys: pytest.CaptureFixture[str], path: Path) -> dict[str, dict[str, object]]:
    run(["doctor", "--json", "--kernel", str(path)])
    return {item["name"]: item for item in json.loads(capsys.readouterr().out)}


def test_an_elf_with_types(capsys: pytest.CaptureFixture[str]) -> None:
    found = items(capsys, elf(stripped=False))
    assert found["kernel machine"]["ok"] and found["kernel symbols"]["ok"]
    assert found["kernel types"]["ok"] and "DWARF" in str(found["kernel types"]["found"])


def test_an_elf_without(capsys: pytest.CaptureFixture[str]) -> None:
    found = items(capsys, elf(stripped=True))
    assert found["kernel symbols"]["ok"]
    assert not found["kernel types"]["ok"]


def test_what_is_no_elf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kernel"
    file.write_bytes(b"no elf at all")
    assert run(["doctor", "--kernel", str(file)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) <= 3
