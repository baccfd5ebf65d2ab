"""Frames as the faces tell them: short names, short files, lines that fit."""

from __future__ import annotations

from typing import Any

import pytest

from breenix_gdbagent.report import drawn
from breenix_gdbagent.report.backtraces import brief, short, tells
from breenix_gdbagent.report.page import Page


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kernel::serial::_log_print", "kernel::serial::_log_print"),
        ("<core::str::iter::Bytes as core::iter::Iterator>::next", "<Bytes as Iterator>::next"),
        ("<a::Copied<b::Iter<u8>> as c::Iterator>::next", "<Copied<Iter<u8>> as Iterator>::next"),
        ("<(a::b::C, u8) as x::Y>::z", "<(C, u8) as Y>::z"),
        ("<fn() -> u8 as a::B>::c", "<fn() -> u8 as B>::c"),
        ("<", "<"),
        ("", ""),
    ],
)
def test_a_method_of_a_trait_without_its_modules(name: str, said: str) -> None:
    assert brief(name) == said


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("/home/me/breenix/kernel/src/interrupts.rs", "kernel/src/interrupts.rs"),
        ("/rustc/5980/library/core/src/fmt/mod.rs", "core/src/fmt/mod.rs"),
        ("labguest/src/main.rs", "labguest/src/main.rs"),
        ("src/main.rs", "src/main.rs"),
        ("/a/b/entry.asm", "b/entry.asm"),
        ("entry.asm", "entry.asm"),
        ("/entry.asm", "entry.asm"),
        (None, None),
        ("", None),
    ],
)
def test_a_file_without_the_machine_that_built_it(file: str | None, said: str | None) -> None:
    assert short(file) == said


def _frame(name: str, file: str | None = None, **more: Any) -> dict[str, Any]:
    lines = [{"function": name, "file": file, "line": 7, "inlined": False}] if file else []
    return {
        "pc": "0x8000010000", "name": name, "offset": "0x0", "how": "cfi", "ring": 0,
        "vector": None, "times": 1, "lines": lines, **more,
    }  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_lines_fit(width: int) -> None:
    frames = [
        _frame("x" * 300, "kernel/src/interrupts/context_switch.rs"),
        _frame("kernel::a", "kernel/src/a.rs", times=65),
        _frame("<a::B as c::D>::e", None, vector=14),
    ]
    page = Page(width)
    drawn.backtrace(page, {"frames": frames, "left_out": 3, "end": "the stack ends"}, "    ")
    longest = len("        kernel/src/interrupts/context_switch.rs:7")
    assert max(map(len, page.lines)) <= max(width, longest)
    text = "\n".join(page.lines)
    assert "kernel::a  x 65" in text and "---- #PF interrupted ----" in text
    assert "<B as D>::e" in text and "... 3 more" in text


def test_a_handler_above_ring_3_tells_no_more_than_rip() -> None:
    user = _frame("", ring=3)
    assert not tells({"frames": [_frame("handler"), user]})
    assert tells({"frames": [_frame("handler"), _frame("caller"), user]})
