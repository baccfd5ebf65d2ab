"""What is a call, judged by an assembler's own bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from breenix_gdbagent.x86.callsites import behind_a_call, is_call

OPERANDS = (
    "0x1234", "rax", "r12", "[rax]", "[rsp]", "[rbp]", "[r13]", "[rip + 0x1000]",
    "[rax + 8]", "[rsp + 8]", "[rax + rbx * 8]", "[rbp + 0x1000]", "[rsp + r9 * 4 + 0x1000]",
    "[0x1000]", "[rax * 8 + 0x1000]",
)  # fmt: skip
OTHERS = ("jmp rax", "push [rax]", "inc qword ptr [rax]", "jmp [rsp + 8]", "jmp 0x1234")


def assembled(line: str, room: Path) -> bytes:
    (room / "a.s").write_text(f".intel_syntax noprefix\n{line}\n")
    subprocess.run(["as", "--64", "-o", room / "a.o", room / "a.s"], check=True)
    subprocess.run(
        ["objcopy", "-O", "binary", "-j", ".text", room / "a.o", room / "a.bin"], check=True
    )
    return (room / "a.bin").read_bytes()


@pytest.mark.skipif(None in map(shutil.which, ("as", "objcopy")), reason="no as, or no objcopy")
def test_every_form_of_a_call_and_nothing_else(tmp_path: Path) -> None:
    for operand in OPERANDS:
        code = assembled(f"call {operand}", tmp_path)
        assert is_call(code) and behind_a_call(b"\x90" * 8 + code), operand
        assert not is_call(code[:-1]) and not is_call(code + b"\x90"), operand
    for line in OTHERS:
        assert not behind_a_call(b"\x90" * 8 + assembled(line, tmp_path)), line


def test_too_few_bytes_are_no_call() -> None:
    assert not behind_a_call(b"") and not behind_a_call(b"\xff")
