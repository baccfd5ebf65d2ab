"""Instructions decoded: what they access, in which order, and what their operands hold."""

from __future__ import annotations

import pytest

from breenix_gdbagent.cpumodel.decoding import decode
from breenix_gdbagent.cpumodel.instruction import Instruction, register_value

RIP = 0x40_0000
KNOWN = {
    "rax": 0x1000, "rbx": 0x2000, "rcx": 0x3000, "rdx": 0x4000, "rsi": 0x5000, "rdi": 0x6000,
    "rbp": 0x7000, "rsp": 0x8000, "r8": 0x1_0000_9000, "fs_base": 0x10, "gs_base": 0x80_0000_0000,
}  # fmt: skip


def of(code: str, **changed: int) -> Instruction:
    found = decode(bytes.fromhex(code), RIP, KNOWN | changed)
    assert found is not None
    return found


def accesses(code: str, **changed: int) -> list[tuple[str, int | None, int]]:
    return [(a.kind, a.address, a.size) for a in of(code, **changed).accesses]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("50", [("write", 0x7FF8, 8)]),  # push rax
        ("ff30", [("read", 0x1000, 8), ("write", 0x7FF8, 8)]),  # push [rax]
        ("8f442408", [("read", 0x8000, 8), ("write", 0x8010, 8)]),  # pop [rsp+8]
        ("ff10", [("read", 0x1000, 8), ("write", 0x7FF8, 8)]),  # call [rax]
        ("e800000000", [("write", 0x7FF8, 8)]),  # call
        ("c3", [("read", 0x8000, 8)]),  # ret
        ("48cf", [("read", 0x8000, 40)]),  # iretq
        ("c9", [("read", 0x7000, 8)]),  # leave
        ("0f2907", [("write", 0x6000, 16)]),  # movaps [rdi], xmm0
        ("0f1107", [("write", 0x6000, 16)]),  # movups [rdi], xmm0
        ("660fd600", [("write", 0x1000, 8)]),  # movq [rax], xmm0
        ("480fc308", [("write", 0x1000, 8)]),  # movnti [rax], rcx
        ("dd18", [("write", 0x1000, 8)]),  # fstp qword [rax]
        ("0fae00", [("write", 0x1000, 512)]),  # fxsave [rax]
        ("0f9400", [("write", 0x1000, 1)]),  # sete [rax]
        ("f348ab", [("write", 0x6000, 8)]),  # rep stosq
        ("a4", [("read", 0x5000, 1), ("write", 0x6000, 1)]),  # movsb
        ("a6", [("read", 0x5000, 1), ("read", 0x6000, 1)]),  # cmpsb
        ("480118", [("update", 0x1000, 8)]),  # add [rax], rbx
        ("f0480fb10a", [("update", 0x4000, 8)]),  # lock cmpxchg [rdx], rcx
        ("488718", [("update", 0x1000, 8)]),  # xchg [rax], rbx
        ("483918", [("read", 0x1000, 8)]),  # cmp [rax], rbx
        ("488d0418", []),  # lea
        ("0f1f00", []),  # nop [rax]
        ("0f0138", []),  # invlpg [rax]
        ("65488b042508000000", [("read", 0x80_0000_0008, 8)]),  # mov rax, gs:[8]
        ("64488b042500000000", [("read", 0x10, 8)]),  # mov rax, fs:[0]
        ("488b0510000000", [("read", RIP + 7 + 0x10, 8)]),  # mov rax, [rip+0x10]
        ("67418b00", [("read", 0x9000, 4)]),  # mov eax, [r8d]
        ("d7", [("read", 0x2000, 1)]),  # xlatb: [rbx + al]
    ],
)
def test_accesses_in_the_order_of_the_cpu(
    code: str, expected: list[tuple[str, int | None, int]]
) -> None:
    assert accesses(code) == expected


def test_a_string_instruction_of_no_length_touches_nothing() -> None:
    assert accesses("f348ab", rcx=0) == []


def test_a_register_that_is_not_known_leaves_the_address_unknown() -> None:
    found = decode(bytes.fromhex("8a00"), RIP, {"rsp": 0x8000})
    assert found is not None and [a.address for a in found.accesses] == [None]


def test_stack_accesses_are_marked() -> None:
    assert [a.stack for a in of("8a4500").accesses] == [True]  # mov al, [rbp]
    assert [a.stack for a in of("8a00").accesses] == [False]


def test_alignment_and_unit() -> None:
    assert (of("0f2907").aligned, of("0f1107").aligned) == (16, 1)  # movaps, movups
    assert (of("0f5800").aligned, of("480fc708").aligned) == (16, 16)  # addps [], cmpxchg16b
    units = {code: of(code).unit for code in ("0f2907", "9b", "d9e8", "c5fc2800", "90", "0fae10")}
    assert units == {
        "0f2907": "sse", "9b": "x87", "d9e8": "x87", "c5fc2800": "avx", "90": "", "0fae10": "sse",
    }  # fmt: skip


def test_parts_of_registers() -> None:
    known = {"rax": 0x1122_3344_5566_7788, "r8": 0x99AA_BBCC_DDEE_FF00}
    parts = ("rax", "eax", "ax", "al", "ah", "r8", "r8d", "r8w", "r8b", "rbx")
    assert [register_value(name, known) for name in parts] == [
        0x1122_3344_5566_7788, 0x5566_7788, 0x7788, 0x88, 0x77,
        0x99AA_BBCC_DDEE_FF00, 0xDDEE_FF00, 0xFF00, 0x00, None,
    ]  # fmt: skip


def test_what_is_no_instruction() -> None:
    assert decode(b"\x06", RIP, KNOWN) is None
    assert decode(b"\x48", RIP, KNOWN) is None, "cut short"
