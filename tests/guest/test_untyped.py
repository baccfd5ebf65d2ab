"""What is told without the kernel's types, and an enum's variants as they are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guest.labrun import agent
from tests.guest.live_support import ELF, needs_qemu

pytestmark = needs_qemu


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("untyped") / "stop"
    assert agent("ci", "--lab", "page-fault-unmapped", "--stripped", "-o", str(file)).code == 1
    return file


def test_processes_and_the_running_thread_without_types(saved: Path) -> None:
    stripped = ("--snapshot", str(saved))
    rows = json.loads(agent("ps", *stripped, "--json").out)
    typed = ("--snapshot", str(saved), "--kernel", str(ELF.with_name("labguest.elf")))
    known = {row["root"] for row in json.loads(agent("ps", *typed, "--json").out)}
    assert known and {row["root"] for row in rows} == known
    (running,) = json.loads(agent("threads", *stripped, "--json").out)
    assert (running["cpu"], running["name"]) == (0, "clock_gettime_test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("thread.state == Running", "true"),
        ("thread.state != ThreadState::Running", "false"),
        ("Terminated == thread.state", "false"),
        ("thread.state == Runing", "no variant Runing"),
    ],
)
def test_a_variant_by_its_name(saved: Path, text: str, said: str) -> None:
    typed = ("--snapshot", str(saved), "--kernel", str(ELF.with_name("labguest.elf")))
    done = agent("shell", *typed, "-c", f"print {text}")
    assert said in done.out + done.err
