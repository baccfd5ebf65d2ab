"""Every code of the contract is there and explained; error codes and fault lines in words."""

from __future__ import annotations

import json

import pytest

from breenix_gdbagent.checks.finding import CODES
from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.commands import run
from breenix_gdbagent.report import explain, faultline, pasted
from tests.unit.report.contract_codes import CONTRACT

all_codes()

DIAG = """\
[DIAG:PAGEFAULT] ==============================
[DIAG:PAGEFAULT] Fault addr: 0x7fffff033010
[DIAG:PAGEFAULT] Error code: 0x6
[DIAG:PAGEFAULT] RIP: 0x40000067
[DIAG:PAGEFAULT] CS: 0x33
[DIAG:PAGEFAULT] RFLAGS: 0x206
[DIAG:PAGEFAULT] RSP: 0x7fffff043ff8
[DIAG:PAGEFAULT] SS: 0x2b
[DIAG:PAGEFAULT] CR3: 0x4b1a000
"""


def test_the_register_is_the_contracts_table() -> None:
    assert {name: code.severity for name, code in CODES.items()} == CONTRACT
    assert len(CONTRACT) >= 69


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_every_code_is_explained(name: str) -> None:
    code = CODES[name]
    for text in (code.title, code.arises, code.confirm, code.mend):
        assert len(text) > 10, name
    assert code.title[-1] != "." and "\n" not in code.title
    for line in explain.text_of(explain.answer_code(name) or {}, 80).splitlines():
        assert len(line) <= 80


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0x0, "a read by the kernel or the CPU itself to an address that nothing maps"),
        (0x4, "a read in ring 3 to an address that nothing maps"),
        (0x6, "a write in ring 3 to an address that nothing maps"),
        (0x7, "a write in ring 3 to a page that is mapped but not writable"),
        (0x3, "a write by the kernel or the CPU itself to a page that is mapped but not writable"),
        (0x15, "an instruction fetch in ring 3 from a page that is mapped but not executable"),
        (0x9, "through an entry with a reserved bit set"),
        (0x25, "to a page whose protection key forbids it"),
    ],
)
def test_page_fault_codes_in_words(code: int, said: str) -> None:
    assert said in faultline.page_fault_sentence(code)


@pytest.mark.parametrize("code", range(0x40))
def test_every_combination_names_codes_that_exist(code: int) -> None:
    answer = explain.answer_number(code)
    codes = answer["codes"]
    assert isinstance(codes, list) and codes
    assert all(c in CODES for c in codes)
    present = bool(code & 1)
    bits = "\n".join(str(b) for b in answer["bits"])  # type: ignore[union-attr]
    assert ("P=1" in bits) == present and ("P=0" in bits) != present
    assert ("W=1" in bits) == bool(code & 2) and ("U=1" in bits) == bool(code & 4)


@pytest.mark.parametrize("code", [0x1, 0x3])
def test_the_mistake_of_breenix_notes_is_named(code: int) -> None:
    assert any("notes" in bit for bit in faultline.page_fault_bits(code))
    assert not any("notes" in bit for bit in faultline.page_fault_bits(0x7))


@pytest.mark.parametrize(
    "text",
    [
        "PAGE FAULT at 0x7fffff033010 Error Code: 0x6",
        "PF @ 0x7fffff033010 Error: 0x6 (P=0, W=1, U=1, I=0)",
        "[ERROR] kernel::interrupts: EXCEPTION: PAGE FAULT at VirtAddr(0x7fff_ff03_3010) "
        "Error Code: 0x6",
        DIAG,
    ],
)
def test_fault_lines_of_breenix(text: str) -> None:
    (found,) = pasted.read(text).faults
    assert (found.vector, found.address, found.error_code) == (14, 0x7FFFFF033010, 6)


def test_diag_block_gives_the_whole_frame() -> None:
    answer = explain.answer_text(DIAG)
    assert answer is not None
    assert answer["rip"] == "0x40000067" and answer["cr3"] == "0x4b1a000"
    assert answer["codes"][0] == "page-fault.handled"  # type: ignore[index]
    text = explain.text_of(answer)
    assert "pt walk 0x7fffff033010 --root 0x4b1a000" in text


@pytest.mark.parametrize(
    ("address", "code", "first"),
    [
        (0x8, 0x0, "page-fault.null"),
        (0xFFFFC90000000FF8, 0x2, "page-fault.guard-page"),
        (0xFFFFC97FFFFFFFF0, 0x2, "page-fault.guard-page"),
        (0xFFFFC90000010FF8, 0x2, "kernel-stack.unmapped"),
        (0xFFFFC98000003FF8, 0x2, "ist.unmapped"),
        (0x50000000, 0x4, "page-fault.unmapped"),
        (0x50000000, 0x7, "page-fault.write-protected"),
    ],
)
def test_the_address_sharpens_the_codes(address: int, code: int, first: str) -> None:
    answer = explain.answer_text(f"PAGE FAULT at {address:#x} Error Code: {code:#x}")
    assert answer is not None
    assert answer["codes"][0] == first  # type: ignore[index]


def test_ring_3_with_u_clear_is_the_cpus_own_access() -> None:
    answer = explain.answer_text(DIAG.replace("code: 0x6", "code: 0x2"))
    assert answer is not None
    assert any("the CPU itself accessed memory" in str(n) for n in answer["notes"])  # type: ignore[union-attr]


def test_double_fault_and_gp_lines() -> None:
    double = explain.answer_text("==================== DOUBLE FAULT ====================")
    assert double is not None and double["codes"] == ["double-fault"]
    gp = explain.answer_text("[DIAG:GPF] Error code: 0x72")
    assert gp is not None and gp["codes"] == ["general-protection"]
    assert gp["means"] == "IDT entry 14"


def test_command_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "kernel-slot.aliased"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("kernel-slot.aliased  (error): ")
    assert CODES["kernel-slot.aliased"].mend[:30] in " ".join(out.split())


def test_command_unknown_code_suggests_and_is_a_no(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "kernel-slot.aliassed"]) == 1
    captured = capsys.readouterr()
    assert "did you mean kernel-slot.aliased" in captured.out and captured.err == ""


def test_command_list_names_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(any(line.startswith(name + " ") for line in out.splitlines()) for name in CONTRACT)


def test_command_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "0x6", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kind"] == "error_code" and answer["error_code"] == "0x6"
    assert run(["explain", "--json", "PF", "@", "0x8", "Error:", "0x2"]) == 0
    assert json.loads(capsys.readouterr().out)["address_is"].startswith("a null pointer")


@pytest.mark.parametrize("arguments", [[], ["--list", "panic"], ["0x1ffffffff"]])
def test_command_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and 1 <= len(captured.err.splitlines()) <= 3


def test_a_family_lists_its_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "#PF"]) == 0
    out = capsys.readouterr().out
    assert "page-fault.smap" in out and "kernel-stack" not in out.split("\n")[0]


@pytest.mark.parametrize(
    ("printed", "code"),
    [
        ("PageFaultErrorCode(CAUSED_BY_WRITE | USER_MODE)", 6),
        ("PageFaultErrorCode(USER_MODE)", 4),
        ("PageFaultErrorCode(PROTECTION_VIOLATION | INSTRUCTION_FETCH)", 0x11),
        ("PageFaultErrorCode(0x0)", 0),
        ("PageFaultErrorCode(\n    CAUSED_BY_WRITE | USER_MODE,\n)", 6),
        ("PageFaultErrorCode(USER_MODE | NEWER)", None),
    ],
)
def test_an_error_code_printed_by_the_names_of_its_bits(printed: str, code: int | None) -> None:
    (found,) = pasted.read(
        f"EXCEPTION: PAGE FAULT\nAccessed Address: VirtAddr(0x50000000)\nError Code: {printed}"
    ).faults
    assert (found.vector, found.address, found.error_code) == (14, 0x50000000, code)
