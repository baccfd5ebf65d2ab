"""The documents for developers: the map of the rooms is the true one, the examples work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent import configs
from breenix_gdbagent.checks import examine as checks
from breenix_gdbagent.checks.finding import CODES
from breenix_gdbagent.commands.shell.line import Line
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.sentences import summary
from breenix_gdbagent.report.wording.base import TELLERS
from tests.unit.test_rooms import ORDER
from tests.writers.machine import PERCPU, TEXT, Machine

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "breenix_gdbagent"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_the_map_of_the_rooms_is_the_order_that_is_held() -> None:
    rows = re.findall(r"^\| (`.+?`) \| (.+) \|$", ARCHITECTURE, re.MULTILINE)
    assert [tuple(re.findall(r"`(\w+)`", names)) for names, _ in rows] == ORDER
    assert all(said.endswith(".") and said.count(". ") == 0 for _, said in rows)


@pytest.mark.parametrize("text", [ARCHITECTURE, CONTRIBUTING], ids=["architecture", "contributing"])
def test_files_that_are_named_are_there(text: str) -> None:
    named = set(re.findall(r"`((?:[\w-]+/)*[\w-]+(?:\.\w+|/))`", text))
    paths = {name for name in named if name.endswith("/") or name.endswith((".py", ".md", ".toml"))}
    lost = {p for p in paths if not (PACKAGE / p).exists() and not (ROOT / p).exists()}
    assert paths and lost == set()


def examples(kind: str) -> list[str]:
    """The blocks of CONTRIBUTING.md that are marked so."""
    return re.findall(rf"^```\w+ {kind}\n(.+?)^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL)


def ran(kind: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the blocks of that kind define, run one after the other."""
    names = {"__name__": __name__} if names is None else names
    for text in examples(kind):
        exec(compile(text, f"CONTRIBUTING.md, {kind}", "exec"), names)
    return names


@pytest.fixture
def check() -> Iterator[dict[str, Any]]:
    codes, tellers = dict(CODES), dict(TELLERS)
    try:
        yield ran("check")
    finally:
        for register, before in ((CODES, codes), (TELLERS, tellers)):
            register.clear()
            register.update(before)  # type: ignore[attr-defined]


def test_a_check(check: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS", (("alignment", check["check"]),))
    kernel = Kernel(Machine().fault(3, TEXT, ring=0))
    examined = checks.examine(kernel.stop, kernel)
    (finding,) = examined.findings
    assert (finding.code.name, examined.checks[0].status) == ("cpu.alignment-off", "passed")
    assert summary(finding) == "CPU 0: alignment checks are off"
    ran("words", check)
    assert summary(finding).startswith("CPU 0 makes no alignment checks: CR0 is 0x")


def test_a_scenario() -> None:
    (entry,) = examples("scenario")
    table = (ROOT / "fixtures/labguest/src/scenarios/page_faults.rs").read_text("utf-8")
    assert " ".join(entry.split()) in " ".join(table.split())


def test_a_command_of_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    made = ran("shell")
    command = made["COMMAND"]
    assert made[command.function](None, Line(command, "you")) == 0
    assert capsys.readouterr().out == "hello you\n"


def test_a_command_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    run = ran("command")["run"]
    assert (run("count", ["a", "b"]), run("count", [])) == (0, 1)
    assert run("count", ["--json", "a"]) == 0
    assert capsys.readouterr().out.replace(" ", "").replace("\n", "") == '20{"words":1}'


def test_a_machine(tmp_path: Path) -> None:
    (text,) = examples("machine")
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    machine = configs.load(str(file))
    assert (machine.name, machine.needs) == ("mine", ("kernel",))


def test_an_adapter() -> None:
    made = ran("adapter")["MyKernel"]()
    machine = Machine()
    machine.write(PERCPU, bytes(0x60))
    kernel = Kernel(machine.fault(3, TEXT, ring=0))
    assert not made.applies(kernel, None) and made.grows_stacks(None)
    assert made.advice_for("heap.exhausted").see == ("mm/heap.c",)
