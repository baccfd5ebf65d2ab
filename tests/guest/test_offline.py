"""A snapshot gives a week later, byte for byte, what was said live (contract, "The report")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent.lab import scenarios
from tests.guest.labrun import agent

TIMEOUT = "4"


def without_clock(document: dict[str, Any]) -> dict[str, Any]:
    """The document less what the contract sets aside."""
    kept = {k: v for k, v in document.items() if k != "provenance"}
    kept["run"] = {k: v for k, v in kept["run"].items() if k != "seconds"}
    kept["stops"] = [{k: v for k, v in s.items() if k != "seconds"} for s in kept["stops"]]
    return kept


@pytest.mark.parametrize("name", list(scenarios()))
def test_tables_are_enough(name: str, tmp_path: Path) -> None:
    """`--memory tables` keeps what the examination read: the same report comes out of it, made
    again as well as kept."""
    file = tmp_path / "stop"
    live = agent(
        "ci", "--lab", name, "--json", "--timeout", TIMEOUT, "-o", str(file), "--memory", "tables"
    )
    for more in (["--anew"], []):
        again = agent("report", str(file), "--json", *more)
        assert without_clock(again.document) == without_clock(live.document)
    assert file.stat().st_size < 1 << 20


SOME = ["clean", "page-fault-user", "kernel-stack-unmapped", "ist-unmapped", "hang", "panic"]


@pytest.mark.parametrize("memory", ["kernel", "all"])
@pytest.mark.parametrize("name", SOME)
def test_kernel_and_all(name: str, memory: str, tmp_path: Path) -> None:
    file = tmp_path / "stop"
    live = agent(
        "ci", "--lab", name, "--json", "--timeout", TIMEOUT, "-o", str(file), "--memory", memory
    )
    for more in (["--anew"], []):
        again = agent("report", str(file), "--json", *more)
        assert without_clock(again.document) == without_clock(live.document)


LOOKING = (
    "context", "registers all", "cpu", "percpu", "roots", "map", "stacks", "stack 8", "audit",
    "fault", "serial 20", "bt", "bt --all", "ps", "threads", "heap", "frames",
    "symbol kernel_main", "print kernel::process::PROCESS_MANAGER",
    "print kernel::task::scheduler::SCHEDULER", "disassemble", "walk 0x444444440000",
    "walk $rsp", "who 0x210000", "memory $rsp 64",
)  # fmt: skip
"""What the shell can be asked about a stop: the same code as the commands of the same names."""


def answers(*target: str) -> tuple[str, str]:
    """What the shell says to all of `LOOKING` at once."""
    asked = [word for command in LOOKING for word in ("-c", command)]
    done = agent("shell", *target, *asked)
    return done.out, done.err


def same_answers(name: str, memory: str, tmp_path: Path) -> None:
    file = tmp_path / "stop"
    live, error = answers(
        "--lab", name, "-c", 'wait "LAB COMPLETE" 1', "-c", f"save {file} {memory}"
    )
    saved, _, said = live.partition(f"{file}: ")[2].partition("\n")
    assert saved.endswith(" bytes"), error
    # What the run and the saving said, on stderr as well, belongs to the live side alone.
    offline, refused = answers("--snapshot", str(file))
    assert offline == said
    assert error.endswith(refused)


@pytest.mark.parametrize("name", list(scenarios()))
def test_every_looking_command_says_what_it_said_live(name: str, tmp_path: Path) -> None:
    same_answers(name, "kernel", tmp_path)


def test_and_so_out_of_all_of_ram(tmp_path: Path) -> None:
    same_answers("kernel-stack-unmapped", "all", tmp_path)


@pytest.fixture(scope="module")
def guard_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("snapshot") / "guard-page"
    assert agent("snapshot", "--lab", "guard-page", "-o", str(file)).code == 1
    return file


@pytest.mark.parametrize(
    "command",
    [
        ("bt", "--json"),
        ("ps",),
        ("threads",),
        ("heap",),
        ("frames",),
        ("pt", "roots", "--json"),
        ("pt", "map"),
        ("print", "kernel::process::PROCESS_MANAGER"),
        ("disassemble",),
        ("audit",),
    ],
    ids=" ".join,
)
def test_examining_commands_answer_from_a_file(guard_page: Path, command: tuple[str, ...]) -> None:
    result = agent(*command, "--snapshot", str(guard_page))
    assert result.code in (0, 1)
    assert "not checked" not in result.out.split("NOT CHECKED")[0]
    assert result.out.strip()


def test_no_host_path_or_environment_is_kept(guard_page: Path) -> None:
    data = guard_page.read_bytes()
    for secret in (str(Path.home()), str(Path.cwd())):
        assert secret.encode() not in data


def test_a_snapshot_of_a_newer_version_is_refused(guard_page: Path, tmp_path: Path) -> None:
    data = bytearray(guard_page.read_bytes())
    at = data.index(b"BREENIX-GDBAGENT\0")
    data[at - 4] = 99  # the note's type is its version
    newer = tmp_path / "newer"
    newer.write_bytes(data)
    result = agent("report", str(newer))
    assert result.code == 2
    assert "version 99" in result.err
