"""Entry code with one thing wrong, assembled by the system's own assembler and read by `lint`.

Each text is right as it stands (`RIGHT`) or has one line more, less or elsewhere.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from breenix_gdbagent.commands import run
from breenix_gdbagent.entrycode.lint import Defect, Lint, lint
from breenix_gdbagent.symbols import Image

pytestmark = pytest.mark.skipif(None in map(shutil.which, ("as", "ld")), reason="no as, or no ld")
REGISTERS = (
    "rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
SAVE = "\n".join(f"push {name}" for name in REGISTERS)
RESTORE = "\n".join(f"pop {name}" for name in reversed(REGISTERS))
SWAP = "test byte ptr [rsp + {cs}], 3\njz {label}f\nswapgs\n{label}:"
GATE = f"""
timer_entry:
{SWAP.format(cs=8, label=1)}
{SAVE}
cld
mov rdi, rsp
call handler
{RESTORE}
{SWAP.format(cs=8, label=2)}
iretq
"""
WITH_ERROR_CODE = f"""
fault_entry:
{SAVE}
cld
mov rdi, rsp
mov rbx, rsp
and rsp, -16
call handler
mov rsp, rbx
{RESTORE}
add rsp, 8
iretq
"""
SYSCALL = f"""
syscall_entry:
swapgs
mov gs:[40], rsp
mov rsp, gs:[16]
push rcx
push r11
sub rsp, 8
{"".join(f"push {name}{chr(10)}" for name in REGISTERS if name != "rax")}
mov rdi, rsp
call handler
{"".join(f"pop {name}{chr(10)}" for name in reversed(REGISTERS) if name != "rax")}
add rsp, 8
pop r11
pop rcx
mov rsp, gs:[40]
swapgs
sysretq
"""
SWITCH = """
switch_to:
push rbx
push rbp
push r12
push r13
push r14
push r15
mov [rdi], rsp
mov rsp, [rsi]
pop r15
pop r14
pop r13
pop r12
pop rbp
pop rbx
ret
"""
HANDLERS = """
.type handler, @function
handler:
mov eax, 1
ret
.size handler, . - handler
"""


def made(room: Path, *texts: str) -> Path:
    """A kernel ELF of these entries."""
    source = room / "k.s"
    source.write_text(
        ".intel_syntax noprefix\n.text\n.globl _start\n_start: hlt\n" + "".join(texts) + HANDLERS
    )
    subprocess.run(["as", "--64", "-o", room / "k.o", source], check=True)
    subprocess.run(["ld", "-o", room / "k.elf", room / "k.o"], check=True)
    return room / "k.elf"


def read(room: Path, *texts: str) -> Lint:
    return lint(Image.open(made(room, *texts)))


def only(found: Lint) -> Defect:
    assert len(found.defects) == 1, found.defects
    return found.defects[0]


def test_what_is_right_has_no_defect(tmp_path: Path) -> None:
    found = read(tmp_path, GATE, WITH_ERROR_CODE, SYSCALL, SWITCH)
    assert found.defects == ()
    assert {(one.symbol, one.role) for one in found.read} == {
        ("timer_entry", "gate"),
        ("fault_entry", "gate"),
        ("syscall_entry", "system call"),
        ("switch_to", "switch"),
    }
    assert not any(one.unread for one in found.read)


@pytest.mark.parametrize(
    ("before", "after", "kind", "registers"),
    [
        ("iretq", "mov rcx, 3\niretq", "written", ("rcx",)),
        ("iretq", "mov al, 90\niretq", "written", ("rax",)),
        ("mov rdi, rsp", "mov r12, 5\nmov rdi, rsp", None, ()),
        ("push r15", "push rax", "swapped", ("r15",)),
        ("pop r15\npop r14", "add rsp, 16", "not-restored", ("r14", "r15")),
        ("pop r13\npop r12", "pop r12\npop r13", "swapped", ("r12", "r13")),
        ("cld", "nop", "cld", ()),
        ("cld", "cld\nsub rsp, 8", "unbalanced", ("rax",)),
        ("mov rdi, rsp\ncall handler", "push 0\nmov rdi, rsp\ncall handler\nadd rsp, 8",
         "misaligned", ()),
        ("2:", "2: swapgs", "swapgs", ()),
        ("2:", "2: sub rsp, 8\ncall handler\nadd rsp, 8", "called",
         ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")),
    ],
)  # fmt: skip
def test_a_gate_with_one_thing_wrong(
    before: str, after: str, kind: str | None, registers: tuple[str, ...], tmp_path: Path
) -> None:
    assert before in GATE
    found = read(tmp_path, GATE.replace(before, after, 1))
    if kind is None:
        assert found.defects == ()
        return
    assert kind in {d.kind for d in found.defects}
    told = {name for d in found.defects if d.kind == kind for name in d.registers}
    assert told >= set(registers)
    if kind != "unbalanced":
        assert {d.kind for d in found.defects} == {kind} and told == set(registers)


def test_the_instruction_and_its_place(tmp_path: Path) -> None:
    one = only(read(tmp_path, GATE.replace("iretq", "mov rcx, 3\niretq")))
    assert one.symbol == "timer_entry" and one.code == "mov rcx, 3" and one.rings == (0, 3)
    listing = subprocess.run(
        ["objdump", "-d", "-M", "intel", tmp_path / "k.elf"], capture_output=True, text=True
    ).stdout
    at = next(line for line in listing.splitlines() if "rcx,0x3" in line)
    assert int(at.split(":")[0], 16) == one.address


def test_a_register_that_is_not_saved(tmp_path: Path) -> None:
    """By the entry itself, and by a function that puts another thread's registers there."""
    text = GATE.replace("push r15", "sub rsp, 8").replace("pop r15", "add rsp, 8")
    one = only(read(tmp_path, text))
    assert one.kind == "not-saved" and one.registers == ("r15",) and "call" in one.code
    one = only(read(tmp_path, text.replace("mov rdi, rsp", "xor edi, edi\nxor r15d, r15d")))
    assert one.kind == "not-saved" and one.code == "xor r15d, r15d"


def test_a_path_of_its_own_does_not_restore(tmp_path: Path) -> None:
    """Only the way back to ring 0 forgets what it saved."""
    text = GATE.replace(
        "call handler\n",
        "call handler\ntest byte ptr [rsp + 128], 3\njnz 5f\nadd rsp, 120\niretq\n5:\n",
    )
    one = only(read(tmp_path, text))
    assert one.kind == "not-restored" and one.rings == (0,)
    assert set(one.registers) >= {"rax", "rcx", "r11", "rdi"}


def test_a_system_call_may_change_its_answer_and_nothing_else(tmp_path: Path) -> None:
    text = GATE.replace("call handler\n", "call handler\nmov [rsp + 112], rax\n")
    assert read(tmp_path, text).defects == ()
    lost = SYSCALL.replace("pop rdi\n", "add rsp, 8\n")
    assert lost != SYSCALL
    one = only(read(tmp_path, lost))
    assert one.kind == "not-restored" and one.registers == ("rdi",)


def test_a_switch_that_mixes_up_two_registers(tmp_path: Path) -> None:
    found = read(tmp_path, GATE, SWITCH.replace("pop r13\npop r12", "pop r12\npop r13"))
    assert {n for d in found.defects for n in d.registers} == {"r12", "r13"}
    assert {d.symbol for d in found.defects} == {"switch_to"}


def test_entries_that_share_their_end(tmp_path: Path) -> None:
    """The common end is no entry; what is wrong in it is told once, with those it is wrong for."""
    stub = "{name}:\npush 0\npush {n}\njmp common\n"
    common = f"common:\n{SAVE}\ncld\nmov rdi, rsp\ncall handler\n{RESTORE}"
    text = stub.format(name="gate_a", n=1) + stub.format(name="gate_b", n=2) + common
    assert read(tmp_path, text + "\nadd rsp, 16\niretq\n").defects == ()
    one = only(read(tmp_path, text + "\nadd rsp, 16\nxor edx, edx\niretq\n"))
    assert one.symbol == "common" and set(one.entries) == {"gate_a", "gate_b"}
    assert one.registers == ("rdx",)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(made(tmp_path, GATE.replace("iretq", "mov rcx, 3\niretq")))
    assert run(["lint", "--kernel", path, "--json"]) == 1
    (one,) = json.loads(capsys.readouterr().out)
    assert {"symbol", "offset", "file", "line", "what", "registers"} <= one.keys()
    assert one["symbol"] == "timer_entry" and one["registers"] == ["rcx"] and one["file"] is None
    assert run(["lint", "--kernel", path]) == 1
    assert "timer_entry+0x" in capsys.readouterr().out
    assert run(["lint", "--kernel", str(made(tmp_path, GATE))]) == 0
    subprocess.run(["strip", tmp_path / "k.elf"], check=True)
    assert run(["lint", "--kernel", str(tmp_path / "k.elf"), "--json"]) == 2
    said = capsys.readouterr()
    assert "no symbol table" in said.err
