"""What people paste, in the shapes of those who print it: each is read, and prose is none."""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.commands import run
from breenix_gdbagent.lab import elf
from breenix_gdbagent.report import explain, pasted
from breenix_gdbagent.report.seriallog import level_of
from breenix_gdbagent.symbols import Image

all_codes()
RULE = "[DIAG:{0}] ==============================\n"


def block(kind: str, *lines: str) -> str:
    rule = RULE.format(kind)
    return rule + "".join(f"[DIAG:{kind}] {line}\n" for line in lines) + rule


DOUBLE = block(
    "DOUBLEFAULT", "Error code: 0x0", "RIP: 0x10000018e9b", "CS: 0x8", "RFLAGS: 0x10002",
    "RSP (frame): 0xffffc90000022f40", "RSP (actual): 0xffffc98000001f80", "SS: 0x0",
    "CR2: 0xffffc90000022f38", "CR3: 0x53c6000",
)  # fmt: skip
USER = block(
    "PAGEFAULT", "Fault addr: 0x7fffff0a9f08", "Error code: 0x6", "RIP: 0x40004300", "CS: 0x33"
)
REFUSED = block("GPF", "Error code: 0x20", "RIP: 0x10000018e9b", "CS: 0x8", "CR3: 0x101000")
FRAME = """InterruptStackFrame {
    instruction_pointer: VirtAddr(
        0x10000018e9b,
    ),
    code_segment: SegmentSelector {
        index: 1,
        rpl: Ring0,
    },
    cpu_flags: RFlags(
        RESUME_FLAG | 0x2,
    ),
    stack_pointer: VirtAddr(
        0xffffc90000022f40,
    ),
    stack_segment: SegmentSelector {
        index: 2,
        rpl: Ring0,
    },
}
"""
OLD_FRAME = (
    "InterruptStackFrame { instruction_pointer: VirtAddr(0x205bd3), code_segment: 8, "
    "cpu_flags: 0x246, stack_pointer: VirtAddr(0x57ac001ffe48), stack_segment: 16 }"
)
QEMU = """check_exception old: 0xffffffff new 0xe
     0: v=0e e=0004 i=0 cpl=3 IP=0033:0000000040000000 pc=0000000040000000 SP=002b:00007fff00000000 CR2=0000000040000000
check_exception old: 0xffffffff new 0xe
     1: v=0e e=0002 i=0 cpl=0 IP=0008:ffffffff8010145e pc=ffffffff8010145e SP=0010:ffffc00000005f20 CR2=ffffc00000005f20
RAX=000000000000000a RBX=0000000000000000 RCX=0000000000000000 RDX=00000000000002f8
CR0=80010011 CR2=ffffc00000005f20 CR3=0000000000104000 CR4=00000020
check_exception old: 0xe new 0xe
     2: v=08 e=0000 i=0 cpl=0 IP=0008:ffffffff8010145e pc=ffffffff8010145e SP=0010:ffffc00000005f20 env->regs[R_EAX]=000000000000000a
CR0=80010011 CR2=ffffc00000005f18 CR3=0000000000104000 CR4=00000020
"""  # noqa: E501
REGISTERS = """RAX=0000000000000000 RBX=00000000000021e0 RCX=00000000c0000080 RDX=00000000000002f8
RSI=000000000010100d RDI=0000000000105000 RBP=0000000000000000 RSP=ffffc90000022000
RIP=00000000001000b4 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
CS =0008 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
CR0=80010011 CR2=0000000000000000 CR3=0000000000102000 CR4=00000020
"""
FIRMWARE = """!!!! X64 Exception Type - 0E(#PF - Page-Fault)  CPU Apic ID - 00000000 !!!!
ExceptionData - 0000000000000002  I:0 R:0 U:0 W:1 P:0 PK:0 SS:0 SGX:0
RIP  - 000000001E4E900A, CS  - 0000000000000038, RFLAGS - 0000000000000246
RBX  - 0000000000000000, RSP - 000000001FEFA858, RBP - 000000001E67D898
CR0  - 0000000080010033, CR2 - FFFF900000001000, CR3 - 000000001F801000
"""
LINUX = """BUG: unable to handle page fault for address: ffff900000001000
#PF: error_code(0x0002) - not-present page
RIP: 0010:do_thing+0x12/0x40
RSP: 0018:ffffc90000013e60 EFLAGS: 00010246
CR2: ffff900000001000 CR3: 0000000002a0a000 CR4: 00000000000006f0
"""


@pytest.mark.parametrize(
    ("text", "vector", "error", "address", "rip", "codes"),
    [
        (DOUBLE, 8, 0, 0xFFFFC90000022F38, 0x10000018E9B,
         ["page-fault.guard-page", "double-fault"]),
        (USER, 14, 6, 0x7FFFFF0A9F08, 0x40004300, ["page-fault.handled", "page-fault.unmapped"]),
        (REFUSED, 13, 0x20, None, 0x10000018E9B, ["general-protection"]),
        (USER + DOUBLE, 8, 0, 0xFFFFC90000022F38, 0x10000018E9B, ["page-fault.guard-page"]),
        ("EXCEPTION: DOUBLE FAULT\n" + FRAME, 8, None, None, 0x10000018E9B,
         ["page-fault.guard-page", "double-fault"]),
        ("EXCEPTION: PAGE FAULT\nAccessed Address: VirtAddr(0xdeadbeef)\nError Code: "
         "PageFaultErrorCode(CAUSED_BY_WRITE)\n" + OLD_FRAME, 14, 2, 0xDEADBEEF, 0x205BD3,
         ["page-fault.unmapped", "page-fault.handled"]),
        ("GENERAL PROTECTION FAULT error code 0x20", 13, 0x20, None, None, ["general-protection"]),
        ("STACK SEGMENT FAULT Error Code: 24", 12, 24, None, None, ["exception.unhandled"]),
        ("INVALID TSS error code 0x28", 10, 0x28, None, None, ["exception.unhandled"]),
        ("SEGMENT NOT PRESENT Error Code: 0x10b", 11, 0x10B, None, None, ["exception.unhandled"]),
        (QEMU, 8, 0, 0xFFFFC00000005F18, 0xFFFFFFFF8010145E,
         ["page-fault.guard-page", "kernel-stack.unmapped", "double-fault"]),
        (FIRMWARE, 14, 2, 0xFFFF900000001000, 0x1E4E900A, ["loader-fault", "page-fault.unmapped"]),
        (LINUX, 14, 2, 0xFFFF900000001000, None, ["page-fault.unmapped"]),
        ("trap 13, error 0\n  rip 0xffffffff80101427 rsp 0xffffffff8010afd8", 13, 0, None,
         0xFFFFFFFF80101427, ["general-protection"]),
        ("PAGE FAULT at 0x100000f5320 Error Code: 0x0", 14, 0, 0x100000F5320, None,
         ["page-fault.unmapped", "page-fault.handled"]),
    ],
)  # fmt: skip
def test_every_shape(
    text: str, vector: int, error: int | None, address: int | None, rip: int | None,
    codes: list[str],
) -> None:  # fmt: skip
    found = pasted.read(text).faults[-1]
    assert (found.vector, found.error_code, found.address) == (vector, error, address)
    assert found.rip == rip
    answer = explain.answer_text(text)
    assert answer is not None
    said = answer["codes"]
    assert isinstance(said, list) and said[: len(codes)] == codes
    assert explain.text_of(answer)


@pytest.mark.parametrize(
    "text", [USER, "PAGE FAULT at 0x100000f5320 Error Code: 0x4", "PF @ 0x50000000 Error: 0x6"]
)
def test_a_guard_page_and_a_null_pointer_are_offered_only_where_they_can_be(text: str) -> None:
    answer = explain.answer_text(text) or {}
    assert not {"page-fault.guard-page", "page-fault.null"} & set(answer["codes"])  # type: ignore[arg-type]


def test_the_block_of_a_double_fault_is_read_whole() -> None:
    said = explain.text_of(explain.answer_text(DOUBLE) or {}, 200)
    assert "RSP 0xffffc90000022f40: 2025: the guard page of kernel stack slot 2" in said
    assert "its handler has RSP 0xffffc98000001f80: the IST stack of #DF" in said
    assert "CR2 is of the last access that failed on the way" in said
    assert "RIP, RSP and CR2 are those" not in said


def test_qemus_chain() -> None:
    answer = explain.answer_text(QEMU) or {}
    assert answer["chain"] == [
        "#PF e=0x2 CR2=0xffffc00000005f20",
        "#PF at 0xffffc00000005f18 while it was delivered",
        "#DF e=0x0",
    ]
    assert "1 exception of before not shown" in answer["notes"]  # type: ignore[operator]
    for end in ("Triple fault\n", "check_exception old: 0x8 new 0xe\n"):
        dead = explain.answer_text(QEMU + end) or {}
        assert str(dead["chain"][-1]).startswith("triple fault")  # type: ignore[index]
        assert dead["codes"][0] == "triple-fault"  # type: ignore[index]


def test_a_fault_while_another_is_delivered_that_makes_no_double_fault() -> None:
    line = "v={0} e={1} i=0 cpl=0 IP=0008:0000000000100000 pc=0000000000100000 SP=0010:{2}\n"
    ud = line.format("06", "0000", "0000000000107000")
    assert len(pasted.read(ud + line.format("0d", "0032", "0000000000107000")).faults) == 2
    assert len(pasted.read(ud + line.format("0d", "0032", "0000000000106000")).faults) == 1
    assert len(pasted.read(ud + line.format("0d", "0010", "0000000000107000")).faults) == 1


def test_registers_alone_are_no_exception() -> None:
    answer = explain.answer_text(REGISTERS) or {}
    assert (answer["kind"], answer["rip"], answer["ring"]) == ("registers", "0x1000b4", 0)
    assert "no exception" in explain.text_of(answer)
    assert explain.answer_text(FRAME) is not None and not pasted.read(FRAME).faults


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("Page 0x7fffff011000 already mapped to different frame 0x5aa000 (wanted 0x5ab000)",
         "map.already-mapped", "0x7fffff011000 was to be mapped to frame 0x5ab000, and has"),
        ("User stack page 0x7fffff011000 already mapped to different frame: expected 0x5ab000, "
         "found 0x5aa000", "map.already-mapped", "to frame 0x5ab000, and has 0x5aa000"),
        ("map_to failed: Page already mapped to frame 0x5aa000", "map.already-mapped", "0x5aa000"),
        ("called `unwrap()` on an `Err` value: PageAlreadyMapped(PhysFrame[4KiB](0x5aa000))",
         "map.already-mapped", "0x5aa000"),
        ("No free kernel stack slots", None, "every slot for a kernel stack is taken"),
        ("panicked at kernel/src/memory/heap.rs:125:5:\nallocation error: Layout { size: 4096, "
         "align: 8 (1 << 3) }", "heap.exhausted", "no 4096 bytes in one piece"),
        ("memory allocation of 131072 bytes failed", "heap.exhausted", "no 131072 bytes"),
        ("[ERROR] Killing process cow_test (PID 7) due to page fault (CR3=0x53c6000)",
         "page-fault.handled", "process cow_test (pid 7)"),
        ("KERNEL PANIC: panicked at kernel/src/main.rs:900:5:\nno more", "panic",
         "at kernel/src/main.rs:900:5: no more"),
    ],
)  # fmt: skip
def test_messages_without_an_exception(text: str, code: str | None, said: str) -> None:
    answer = explain.answer_text(text) or {}
    assert answer["kind"] == "messages"
    told = [m for m in answer["messages"] if m["code"] == code]  # type: ignore[index, union-attr, call-overload]
    assert said in str(told[0]["means"])  # type: ignore[index, call-overload]
    assert explain.text_of(answer)


GARBAGE = ["hello\nworld", "page fault handling is described in the manual", "\0\0", "x" * 5000]


@pytest.mark.parametrize("text", GARBAGE)
def test_what_cannot_be_read_is_said_in_one_line(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain.answer_text(text) is None
    assert run(["explain", text]) == 1
    first = capsys.readouterr().out.splitlines()
    assert len(first) <= 2 and len(first[0]) < 200


def test_an_elf_gives_names(capsys: pytest.CaptureFixture[str]) -> None:
    kernel = elf(True)
    link = Image.open(kernel).address_of("kernel::interrupts::page_fault_handler")
    text = f"PAGE FAULT at 0x8 Error Code: 0x0 RIP: {(2 << 39) + link:#x}"
    assert run(["explain", text, "--kernel", str(kernel)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "<kernel::interrupts::page_fault_handler>" in said
    assert f"as if {kernel.name} was loaded at 0x10000000000" in said
    told = "INFO : virtual_address_offset: 0x10000000000\n" + text
    assert run(["explain", told, "--kernel", str(kernel)]) == 0
    assert "as if" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (FIRMWARE.splitlines()[0], "error"),
        (QEMU.splitlines()[1], "warn"),
        (QEMU.splitlines()[7], "error"),
        ("Triple fault", "error"),
        (DOUBLE.splitlines()[1], "error"),
        (USER.splitlines()[1], "info"),
        ("GENERAL PROTECTION FAULT error code 0x20", "error"),
        ("trap 13, error 0", "error"),
        ("all is well", None),
    ],
)
def test_the_log_knows_such_lines(line: str, level: str | None) -> None:
    assert level_of(line) == level
