"""What `init agent` and `init editor` write: it is there, whole, and names only what there is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from breenix_gdbagent.agents.skills import BEGIN, END, skill_text, with_section
from breenix_gdbagent.commands import COMMANDS, run

VERBS = (
    "break", "continue", "step", "next", "stepi", "finish", "info registers", "bt", "print", "x/",
    "info symbol", "disassemble", "list", "watch", "delete", "serial", "serial-new", "quit",
)  # fmt: skip
"""What Breenix's gdb_chat.py is given: gdb's commands, and its own."""


def _commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", skill_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("words", _commands(), ids=lambda w: " ".join(w[:4]))
def test_every_command_of_the_skill_is_one(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    own = words[words.index("breenix-gdbagent") + 1 :]
    assert own[0] in COMMANDS
    head = own[:2] if own[0] == "pt" else own[:1]
    assert run([*head, "--help"]) == 0
    known = capsys.readouterr().out
    options = [word for word in own if re.fullmatch(r"--?[a-z][a-z-]*", word)]
    assert all(re.search(rf"(?<![\w-]){re.escape(o)}(?![\w-])", known) for o in options), options


def test_every_verb_of_gdb_chat_is_replaced() -> None:
    left = [line.split("|")[1] for line in skill_text().splitlines() if line.startswith("| ")]
    table = "\n".join(left)
    assert [verb for verb in VERBS if verb not in table] == []


def test_the_section_is_added_once_and_replaced() -> None:
    first = with_section("# Ours\n\ntext\n", "skills/SKILL.md")
    assert first.startswith("# Ours\n\ntext\n\n") and "`skills/SKILL.md`" in first
    again = with_section(f"{first}\n## Behind\n", "other/SKILL.md")
    assert again.count(BEGIN) == again.count(END) == 1
    assert "`other/SKILL.md`" in again and again.endswith("\n## Behind\n")
    assert with_section("", "x") == with_section(with_section("", "x"), "x")


def test_a_repository_gets_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "AGENTS.md").write_text("# Kernel\n", encoding="utf-8")
    assert run(["init", "agent", str(tmp_path)]) == 0
    skill = tmp_path / ".claude/skills/breenix-gdbagent/SKILL.md"
    assert skill.read_text(encoding="utf-8") == skill_text()
    assert (tmp_path / "AGENTS.md").read_text(encoding="utf-8").startswith("# Kernel\n")
    assert run(["init", "agent", str(tmp_path)]) == 2
    assert run(["init", "agent", str(tmp_path), "--force"]) == 0
    assert run(["init", "agent", str(tmp_path / "none")]) == 2

    assert run(["init", "editor", str(tmp_path)]) == 0
    launch = json.loads((tmp_path / ".vscode/launch.json").read_text(encoding="utf-8"))
    package = tmp_path / ".vscode/extensions/breenix-gdbagent/package.json"
    (debugger,) = json.loads(package.read_text(encoding="utf-8"))["contributes"]["debuggers"]
    assert debugger["args"] == ["dap"]
    for one in launch["configurations"]:
        assert one["type"] == debugger["type"]
        known = debugger["configurationAttributes"][one["request"]]["properties"]
        assert one.keys() - {"type", "name", "request"} <= known.keys()
    assert run(["init", "editor", str(tmp_path)]) == 2
    capsys.readouterr()
