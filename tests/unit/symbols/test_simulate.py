"""The stack followed through the instructions: .debug_frame is the judge, where it is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.code import CodeReader
from breenix_gdbagent.symbols.simulate import Found, NotFound, Simulator
from tests.writers.elf import NOTYPE, Elf, Sym, text


def compare(image: Image) -> tuple[int, int, int]:
    """(equal, different, unknown) over every instruction that CFI describes.

    Left out: gates' entries, whose CFI is written for another frame, and what lies between an
    inlined push and its pop, which CFI does not know.
    """
    code = CodeReader(image.elf, image.symbols)
    simulator = Simulator(code)
    equal = different = unknown = 0
    for symbol in image.symbols.symbols:
        if symbol.kind != "function" or not symbol.size or not symbol.executable:
            continue
        extent = symbol.address, symbol.address + symbol.size
        first = image.frames.rules(symbol.address)
        if first is None or first.cfa_offset != 8 or "interrupts" in symbol.name:
            continue
        before = ""
        for instruction in code.function(*extent):
            rules = image.frames.rules(instruction.address)
            found = simulator.at(*extent, instruction.address)
            inlined = before.startswith(("push", "lea")) and symbol.name.endswith(
                ("kernel_main", "init", "init_cpu", "other_tss")
            )
            known = simulator._done[symbol.address].get(instruction.address)
            place = None if known is None or rules is None else known.place.get(rules.cfa_register)
            if place is None or rules is None or isinstance(found, NotFound):
                unknown += 1
            elif before != "pushfq" and not inlined:
                # The word at the entry's stack pointer lies 8 below the CFA.
                if rules.cfa_offset == 8 - place:
                    equal += 1
                    for register, slot in found.saved.items():
                        assert rules.saved.get(register, slot - 8) == slot - 8
                else:
                    different += 1
            before = instruction.mnemonic
    return equal, different, unknown


def test_equals_debug_frame_on_the_lab_guest(labguest: Image) -> None:
    equal, different, unknown = compare(labguest)
    assert different == 0
    assert equal > 10_000 and unknown < equal / 50


def made(tmp_path: Path, code: bytes, *labels: tuple[str, int]) -> Simulator:
    path = tmp_path / "kernel"
    symbols = [Sym(name, 0x1000 + at, 0, NOTYPE) for name, at in (("f", 0), *labels)]
    path.write_bytes(Elf([text(code)], symbols).build())
    return Image.open(path).simulator


def depth(simulator: Simulator, offset: int) -> tuple[str, int] | str:
    found = simulator.around(0x1000 + offset, behind_call=False)
    return (found.register, found.offset) if isinstance(found, Found) else found.reason


def test_pushes_and_pops(tmp_path: Path) -> None:
    # push rbx; sub rsp, 0x20; pushfq; pop rax; add rsp, 0x20; pop rbx; ret
    code = bytes.fromhex("53 4883ec20 9c 58 4883c420 5b c3")
    simulator = made(tmp_path, code)
    places = [depth(simulator, at) for at in (0, 1, 5, 6, 7, 11, 12)]
    assert places == [("rsp", n) for n in (0, 8, 0x28, 0x30, 0x28, 8, 0)]
    inside = simulator.around(0x1005, behind_call=False)
    assert isinstance(inside, Found) and inside.saved == {"rbx": -8}
    behind = simulator.around(0x100C, behind_call=False)
    assert isinstance(behind, Found) and "rbx" in behind.kept and not behind.saved


def test_an_aligned_frame_is_measured_from_rbp(tmp_path: Path) -> None:
    # push rbp; mov rbp, rsp; and rsp, -0x40; sub rsp, 0x80; nop; mov rsp, rbp; pop rbp; ret
    code = bytes.fromhex("55 4889e5 4883e4c0 4881ec80000000 90 4889ec 5d c3")
    simulator = made(tmp_path, code)
    assert depth(simulator, 15) == ("rbp", 8)
    assert depth(simulator, 19) == ("rsp", 8)
    assert depth(simulator, 20) == ("rsp", 0)


def test_a_stack_probe_loop(tmp_path: Path) -> None:
    # lea r11, [rsp-0x3000]; L: sub rsp, 0x1000; mov qword [rsp], 0; cmp rsp, r11; jne L;
    # sub rsp, 0x100; nop; add rsp, 0x3100; ret
    code = bytes.fromhex(
        "4c8d9c2400d0ffff 4881ec00100000 48c7042400000000 4c39dc 75ec 4881ec00010000 90"
        "4881c400310000 c3"
    )
    simulator = made(tmp_path, code)
    assert depth(simulator, 35) == ("rsp", 0x3100)
    assert depth(simulator, 43) == ("rsp", 0)


def test_paths_that_disagree_are_not_guessed(tmp_path: Path) -> None:
    # test edi, edi; je L; push rax; L: nop; ret
    simulator = made(tmp_path, bytes.fromhex("85ff 7401 50 90 c3"))
    assert depth(simulator, 5) == "paths of different stack depths meet here"
    assert depth(simulator, 4) == ("rsp", 0)


def test_a_switched_stack_is_named(tmp_path: Path) -> None:
    # mov rsp, rdi; and rsp, -16; call rsi; ud2
    simulator = made(tmp_path, bytes.fromhex("4889fc 4883e4f0 ffd6 0f0b"))
    assert "switches the stack" in str(depth(simulator, 7))


def test_calls_that_do_not_come_back(tmp_path: Path) -> None:
    # f: test edi,edi; je L; ret; push rax; call panic; L: nop; ret    panic: ud2
    code = bytes.fromhex("85ff 740a c3 50 e80f000000 90 90 90 90 c3") + b"\x90" * 10 + b"\x0f\x0b"
    simulator = made(tmp_path, code, ("panic", 26))
    assert simulator.code.returns(0x1000) and not simulator.code.returns(0x101A)
    assert depth(simulator, 14) == ("rsp", 0)


def test_loading_cs_by_a_far_return(tmp_path: Path) -> None:
    # push 8; lea rax, [rip+3]; push rax; retfq; nop; ret
    simulator = made(tmp_path, bytes.fromhex("6a08 488d0503000000 50 48cb 90 c3"))
    assert depth(simulator, 12) == ("rsp", 0)
    assert depth(simulator, 9) == ("rsp", 8)


@pytest.mark.parametrize("code", [b"\xff" * 64, bytes(64), b"\xeb\xfe" * 32, b"\x0f" * 64])
def test_bytes_that_are_no_code(tmp_path: Path, code: bytes) -> None:
    simulator = made(tmp_path, code)
    for at in range(64):
        simulator.around(0x1000 + at, behind_call=at % 2 == 0)
