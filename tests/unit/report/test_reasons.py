"""Why something was not checked: values in checks/, words in report/."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TypeGuard

import pytest

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.checks import reasons as why
from breenix_gdbagent.checks.reasons import Reason, State
from breenix_gdbagent.report.wording.reasons import STATES, reason_words

CHECKS = Path(why.__file__).parent
TYPES = {name for name, kind in vars(why).items() if isinstance(kind, type)} | {"NotChecked"}

# The words of schema 1, as reports have had them since the first.
SAID: tuple[tuple[Reason, str], ...] = (
    (State.NO_PERCPU, "no Breenix per-CPU block"),
    (State.END_OF_RAM_NOT_KNOWN, "where RAM ends is not known (give --ram-size)"),
    (why.NotRead("no kernel ELF"), "no kernel ELF"),
    (why.FaultNotRead(1, "no TSS"), "the fault of CPU 1: no TSS"),
    (why.HandlerNotRead("aarch64"), "whether a handler is at work is not read on aarch64 yet"),
    (why.TablesOf("aarch64"), "this check does not read the page tables of aarch64 yet"),
    (why.ShutdownNotRead("no CR3"), "triple fault or reboot: no CR3"),
    (why.IdtNotRead("gone"), "the IDT: gone"),
    (why.TablesNotRead(None, "gone"), "tables of the master: gone"),
    (why.TablesNotRead("init (pid 1)", "gone"), "tables of init (pid 1): gone"),
    (why.SharingNotRead("gone"), "what processes share on purpose is not known: gone"),
    (
        why.TableNotReached("GDT", 2, 0x1000),
        "the tables on the way to GDT of CPU 2 at 0x1000 are not in the memory we have",
    ),
    (
        why.TableOfFirmware("IDT", 0x1000),
        "the IDT at 0x1000 is not mapped: the firmware's, it seems, and not replaced yet",
    ),
    (
        why.StackInTransit("slot 3"),
        "slot 3 is mapped in part and nobody's: being made or given back, it seems",
    ),
    (why.BottomsMissing(1), "the bottom of 1 stack is not in the memory we have"),
    (
        why.TablesMissing(2, PhysAddr(0x3000)),
        "not in the memory we have: 2 tables, the first at 0x3000",
    ),
    (
        why.TablesInTheMaking(1, PhysAddr(0x3000)),
        "a page table has nothing of a process yet (0x3000): in the making, it seems, and not held "
        "to anything",
    ),
    (
        why.TablesInTheMaking(2, PhysAddr(0x3000)),
        "2 page tables have nothing of a process yet (0x3000): in the making, it seems, and not "
        "held to anything",
    ),
    (
        why.RootsLeftOut(4),
        "frames are used again here, and whether 4 of the roots found in RAM are alive is not "
        "known: their user halves were not looked at",
    ),
    (why.FrameNotRead(1), "the frame that CPU 1 was interrupted with cannot be read"),
    (
        why.ProcessesUnscheduled(2),
        "2 processes have a thread that the scheduler does not have: not held to anything",
    ),
    (
        why.HalfSaved("init"),
        "the process manager's lock is taken: init's may be half saved",
    ),
)


@pytest.mark.parametrize(("reason", "words"), SAID, ids=lambda value: type(value).__name__)
def test_the_words_of_a_reason(reason: Reason, words: str) -> None:
    assert reason_words(reason) == words


def test_every_reason_has_words() -> None:
    assert set(STATES) == set(State) and all(STATES.values())
    assert {type(reason) for reason, _ in SAID} == set(Reason.__args__)


def _sentences(tree: ast.Module) -> set[int]:
    """Lines that make a reason of text: with a space in it, or put together."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and _named(n) in TYPES]
    return {node.lineno for call in calls for node in ast.walk(call) if _is_text(node)}


def _named(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _is_text(node: ast.AST) -> TypeGuard[ast.expr]:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and " " in node.value
    return isinstance(node, ast.JoinedStr)


def test_no_check_makes_a_sentence_of_why_it_could_not_look() -> None:
    files = sorted(CHECKS.rglob("*.py"))
    made = {path.name: _sentences(ast.parse(path.read_text())) for path in files}
    assert len(files) > 20 and {name: lines for name, lines in made.items() if lines} == {}
    assert _sentences(ast.parse('NotChecked(f"the IDT: {lacking.what}")')) == {1}
