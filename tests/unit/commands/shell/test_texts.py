"""The table of commands: each does something, is found, explained, and fits the screen."""

from __future__ import annotations

import inspect

import pytest

from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.commands.shell.texts import (
    ALIASES,
    COMMANDS,
    ELSEWHERE,
    GROUPS,
    explained,
    find,
    overview,
)
from breenix_gdbagent.errors import InputError


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_does_something(name: str) -> None:
    function = Session.function(COMMANDS[name])
    assert list(inspect.signature(function).parameters)[:2] == ["session", "line"]
    assert find(name) is COMMANDS[name]


def test_names_are_there_once() -> None:
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)
    assert not set(ALIASES) & set(COMMANDS)
    assert set(ALIASES.values()) <= set(COMMANDS)
    assert not set(ELSEWHERE) & {*COMMANDS, *ALIASES}
    for names in ELSEWHERE.values():
        assert set(names.split(", ")) <= set(COMMANDS)


@pytest.mark.parametrize(
    ("word", "name"), [("cont", "continue"), ("reg", "registers"), ("b", "break"), ("si", "stepi")]
)
def test_short_words(word: str, name: str) -> None:
    assert find(word).name == name


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("contnue", "continue"),
        ("brek", "break"),
        ("re", "registers"),  # ambiguous: the candidates
        ("pt roots", "roots"),
        ("pt walk 0x1000", "walk"),
        ("pt", "walk, map, who, roots"),
        ("log", "serial"),
        ("report x", "audit"),
    ],
)
def test_an_unknown_word_leads_to_the_nearest(line: str, near: str) -> None:
    word, _, rest = line.partition(" ")
    with pytest.raises(InputError) as caught:
        find(word, rest)
    assert caught.value.fix is not None and near in caught.value.fix


def test_what_is_near_nothing_leads_to_help() -> None:
    with pytest.raises(InputError) as caught:
        find("qqqqqq")
    assert caught.value.fix == "see: help"


@pytest.mark.parametrize("width", [80, 100, 200])
def test_help_fits_the_screen_and_lacks_nothing(width: int) -> None:
    lines = overview(width).splitlines()
    assert max(map(len, lines)) <= width
    assert {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "} == set(
        COMMANDS
    )
    for command in COMMANDS.values():
        told = explained(command, width)
        assert max(map(len, told.splitlines())) <= width
        words = " ".join(told.split())
        assert command.help in words and " ".join(command.more.split()) in words
