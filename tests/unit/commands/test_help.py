"""Help for those who look: `--help`, `help COMMAND`, completion of three shells, the man page."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from breenix_gdbagent.commands import COMMANDS, run
from breenix_gdbagent.commands.alltogether import every_parser, parser_of
from breenix_gdbagent.commands.manual import PAGES, PROGRAM

ROOT = Path(__file__).parents[3]
PARSERS = every_parser()
EXAMPLES = [(name, line) for name, page in PAGES.items() for _, line in page.examples]


def options_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            yield action


def test_every_command_has_a_page_and_every_page_a_command() -> None:
    assert set(PAGES) == set(PARSERS)
    assert set(COMMANDS) == {name for name in PARSERS if " " not in name}


@pytest.mark.parametrize("name", PARSERS)
def test_each_option_says_a_word(name: str) -> None:
    assert [a.option_strings or a.dest for a in options_of(PARSERS[name]) if not a.help] == []


@pytest.mark.parametrize("name", PARSERS)
def test_help_has_words_and_two_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "".join(PAGES[name].text.split()) in "".join(shown.split())
    assert len(PAGES[name].examples) >= 2
    for what, line in PAGES[name].examples:
        assert f"  {PROGRAM} {line}\n      {what}\n" in shown
    assert run(["help", *name.split()]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_the_examples_are_command_lines_of_that_command(name: str, line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])
    parts = name.split()
    assert words[: len(parts)] == parts
    own = name.split()[0] in ("init", "hunt")
    parser = every_parser()[name] if own else parser_of(parts[0])
    parser.parse_args(words[len(parts) if own else 1 :])


def test_help_of_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", "cli"]) == 2
    assert "did you mean ci?" in capsys.readouterr().err


def script_of(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["completion", shell]) == 0
    path = tmp_path / f"{PROGRAM}.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def of_bash(script: Path, line: str) -> set[str]:
    words = line.split(" ")
    listed = " ".join(shlex.quote(word) for word in words)
    program = f"""
source {script}
COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}
COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}
complete -p {PROGRAM} > /dev/null || exit 9
$(complete -p {PROGRAM} | grep -o -- '-F [^ ]*' | cut -d' ' -f2)
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return {one.strip() for one in done.stdout.split("\n") if one.strip()}


def of_fish(script: Path, line: str) -> set[str]:
    program = f"source {script}; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", program], capture_output=True, text=True, check=True
    )
    return {one.split("\t")[0] for one in done.stdout.splitlines()}


ASKED = (
    (f"{PROGRAM} who", "who-wrote"),
    (f"{PROGRAM} pt wa", "walk"),
    (f"{PROGRAM} ci --lin", "--linger"),
    (f"{PROGRAM} ci --lab guard-pa", "guard-page"),
    (f"{PROGRAM} explain double-f", "double-fault"),
)


@pytest.mark.parametrize(("line", "word"), ASKED)
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completion(
    shell: str, line: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    answers = (of_bash if shell == "bash" else of_fish)(script_of(shell, tmp_path, capsys), line)
    assert word in answers
    assert all(one.startswith(line.split(" ")[-1]) for one in answers)


def test_completion_of_zsh_is_read_by_zsh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    script = script_of("zsh", tmp_path, capsys)
    program = f'autoload -U compinit; compinit -u -D; eval "$(<{script})"; print $_comps[{PROGRAM}]'
    done = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout.strip() == "_shtab_breenix_gdbagent"
    assert "guard-page" in script.read_text() and "double-fault" in script.read_text()


def test_the_man_page_is_todays(tmp_path: Path) -> None:
    made = tmp_path / "page.1"
    subprocess.run([sys.executable, ROOT / "tools" / "manpage.py", made], check=True)
    assert made.read_text() == (ROOT / "docs" / f"{PROGRAM}.1").read_text(), "make docs"


def test_the_man_page_is_sound_to_those_who_read_it() -> None:
    page = ROOT / "docs" / f"{PROGRAM}.1"
    read = False
    if shutil.which("mandoc"):
        read = True
        done = subprocess.run(
            ["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True
        )
        assert [x for x in done.stdout.splitlines() if "missing date" not in x] == []
    if shutil.which("groff"):
        read = True
        done = subprocess.run(
            ["groff", "-man", "-ww", "-T", "utf8", page], capture_output=True, text=True
        )
        assert done.stderr == ""
        for name in PARSERS:
            assert f"{name}" in done.stdout
    if not read:
        pytest.skip("neither mandoc nor groff is installed")
