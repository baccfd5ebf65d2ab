"""A bare core at the panic handler: with the ELF beside it, it is known for what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.labrun import agent
from tests.guest.live_support import ELF, needs_qemu

pytestmark = needs_qemu

OURS = b"BREENIX-GDBAGENT\0"


def bare(scenario: str, room: Path) -> Path:
    """What QEMU would have written: the snapshot with our note under another's name."""
    file = room / "stop"
    agent("ci", "--lab", scenario, "-o", str(file), "--memory", "all")
    raw = file.read_bytes()
    assert raw.count(OURS) == 1
    file.write_bytes(raw.replace(OURS, b"SOMEBODY-ELSE-S.\0"))
    return file


@pytest.mark.parametrize("scenario", ["panic", "heap-exhausted"])
def test_the_panic_is_found_with_the_elf(scenario: str, tmp_path: Path) -> None:
    core = bare(scenario, tmp_path)
    told = agent("report", str(core), "--kernel", str(ELF), "--json")
    panic = next(f for f in told.document["findings"] if f["code"] == "panic")
    assert ".rs:" in panic["evidence"]["at"]
    assert told.code == 1
    assert told.document["stops"][0]["reason"] == "panic"


def test_without_the_elf_nothing_is_invented(tmp_path: Path) -> None:
    told = agent("report", str(bare("panic", tmp_path)), "--json")
    assert "panic" not in told.codes("error", "warning", "info")


def test_another_place_is_no_panic(tmp_path: Path) -> None:
    told = agent("report", str(bare("divide-error", tmp_path)), "--kernel", str(ELF), "--json")
    assert told.codes("error") == {"divide-error"}
