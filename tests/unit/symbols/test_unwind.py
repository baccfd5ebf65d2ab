"""Backtraces over stacks made here: calls, gates, rings, and every way a trace can end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.backtrace import Backtrace, Frame
from breenix_gdbagent.symbols.hwframe import frame_at
from breenix_gdbagent.symbols.unwind import Unwinder
from tests.writers.elf import NOTYPE, Elf, Sym, text

BASE = 0x8000000000
STACK = 0xFFFFC90000011000
USER = (0x40001234, 0x33, 0x202, 0x7FFFFF010FF8, 0x2B)

# name -> (offset from 0x1000, code before a call, called function, code behind it)
FUNCTIONS = {
    "_start": (0x00, "", "main", "0f0b"),
    "main": (0x10, "4883ec18", "g", "4883c418 c3"),
    "g": (0x30, "53", "f", "5b c3"),
    "f": (0x40, "4883ec08 90 4883c408 c3", "", ""),
    "page_fault_handler": (0x60, "50 51", "handle", "59 58 4883c408 48cf"),
    "handle": (0x80, "4883ec20 90 4883c420 c3", "", ""),
    "timer_interrupt_entry": (0xA0, "50", "handle", "58 48cf"),
    "switcher": (0xC0, "4889fc", "f", "0f0b"),
    "recurse": (0xE0, "50", "recurse", "58 c3"),
    "mutual_a": (0x100, "4883ec28", "mutual_b", "4883c428 c3"),
    "mutual_b": (0x120, "50", "mutual_a", "58 c3"),
}


def build(tmp_path: Path) -> Image:
    code = bytearray(b"\xcc" * 0x200)
    symbols = []
    for name, (at, before, called, behind) in FUNCTIONS.items():
        body = bytes.fromhex(before)
        if called:
            distance = FUNCTIONS[called][0] - (at + len(body) + 5)
            body += b"\xe8" + distance.to_bytes(4, "little", signed=True)
        body += bytes.fromhex(behind)
        code[at : at + len(body)] = body
        symbols.append(Sym(name, 0x1000 + at, 0 if "entry" in name else len(body), NOTYPE))
    path = tmp_path / "kernel"
    path.write_bytes(Elf([text(bytes(code))], symbols, entry=0x1000).build())
    return Image.open(path)


def start(name: str) -> int:
    return BASE + 0x1000 + FUNCTIONS[name][0]


def behind_call(name: str) -> int:
    """The return address that a call in `name` pushes."""
    return start(name) + len(bytes.fromhex(FUNCTIONS[name][1])) + 5


class Stack:
    """A stack that grows as code would grow it; `gone` addresses cannot be read."""

    def __init__(self, top: int = STACK) -> None:
        self.sp = top
        self.words: dict[int, int] = {}

    def push(self, *values: int) -> Stack:
        for value in values:
            self.sp -= 8
            self.words[self.sp] = value
        return self

    def call(self, name: str) -> Stack:
        """As `name` stands behind the call it makes: its own frame, then the return address."""
        before = FUNCTIONS[name][1]
        for _ in range(before.count("50") + before.count("51") + before.count("53")):
            self.push(0xDEAD)
        if before.startswith("4883ec"):
            self.push(*[0xBEEF] * (int(before[6:8], 16) // 8))
        return self.push(behind_call(name))

    def interrupt(
        self, rip: int, cs: int = 8, rflags: int = 0x46, ss: int = 0, error: int | None = None
    ) -> Stack:
        saved = self.sp
        self.sp &= ~15
        self.push(ss, saved, rflags, cs, rip)
        return self if error is None else self.push(error)

    def read(self, va: int, length: int) -> bytes:
        out = b""
        for at in range(va, va + length, 8):
            if at not in self.words:
                raise ReadError(f"{at:#x} is not mapped")
            out += self.words[at].to_bytes(8, "little")
        return out


def trace(image: Image, stack: Stack, rip: int, limit: int = 64, **registers: int) -> Backtrace:
    unwinder = Unwinder(image.loaded(BASE), stack.read)
    return unwinder.backtrace({"rip": rip, "rsp": stack.sp, "cs": 8, **registers}, limit)


def names(found: Backtrace) -> list[str]:
    return [frame.name for frame in found.frames]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return build(tmp_path)


def test_calls_up_to_the_entry_point(image: Image) -> None:
    stack = Stack().call("_start").call("main").call("g").push(0)
    found = trace(image, stack, start("f") + 4, rbx=5)
    assert names(found) == ["f", "g", "main", "_start"]
    assert [f.how for f in found.frames] == ["registers", *["simulated"] * 3]
    assert [f.exact for f in found.frames] == [True, False, False, False]
    assert found.end == "the kernel's entry point: nothing called it"
    assert found.frames[2].registers["rbx"] == 0xDEAD, "restored from where g pushed it"
    assert [found.size(i) for i in range(4)] == [0x10, 0x10, 0x20, None]
    assert found.largest(1)[0][1].name == "main"


def test_a_page_fault_in_the_kernel(image: Image) -> None:
    stack = Stack().call("_start").call("main").call("g")
    stack.interrupt(start("f"), error=2).call("page_fault_handler").push(0, 0, 0, 0)
    found = trace(image, stack, start("handle") + 4)
    assert names(found) == ["handle", "page_fault_handler", "f", "g", "main", "_start"]
    interrupted = found.frames[2]
    assert (interrupted.how, interrupted.vector, interrupted.exact) == ("interrupt-frame", 14, True)
    assert found.frames[3].how == "simulated"


def test_from_ring_3_by_a_gate_without_error_code(image: Image) -> None:
    stack = Stack().push(*USER[::-1]).call("timer_interrupt_entry").push(0, 0, 0, 0)
    found = trace(image, stack, start("handle") + 4)
    assert names(found) == ["handle", "timer_interrupt_entry", "??"]
    last = found.frames[-1]
    assert (last.pc, last.sp, last.ring, last.vector) == (USER[0], USER[3], 3, 32)
    assert found.end.startswith("ring 3")


def test_in_ring_3_itself(image: Image) -> None:
    found = Unwinder(image.loaded(BASE), Stack().read).backtrace(
        {"rip": USER[0], "rsp": USER[3], "cs": 0x33}
    )
    assert len(found.frames) == 1 and found.frames[0].ring == 3 and "ring 3" in found.end


@pytest.mark.parametrize(
    ("gate", "error"), [("page_fault_handler", 6), ("timer_interrupt_entry", None)]
)
def test_at_the_first_instruction_of_a_handler(image: Image, gate: str, error: int | None) -> None:
    stack = Stack().call("_start").call("main").call("g").interrupt(start("f"), error=error)
    found = trace(image, stack, start(gate), rbp=77)
    assert names(found) == [gate, "f", "g", "main", "_start"]
    assert found.frames[1].registers["rbp"] == 77, "nothing has changed a register yet"


def test_gates_by_address_and_not_by_name(image: Image) -> None:
    """A handler with an error code need not be called as Breenix calls it."""
    stack = Stack().call("_start").call("main").interrupt(start("g"), error=0)
    unwinder = Unwinder(image.loaded(BASE), stack.read, {13: start("handle"), 3: 0})
    found = unwinder.backtrace({"rip": start("handle"), "rsp": stack.sp, "cs": 8})
    assert [f.vector for f in found.frames][1] == 13 and names(found)[1] == "g"


def test_a_jump_to_nowhere(image: Image) -> None:
    stack = Stack().call("_start").interrupt(0, error=0x10).call("page_fault_handler")
    stack.push(0, 0, 0, 0)
    found = trace(image, stack, start("handle") + 4)
    assert found.frames[-1].pc == 0 and found.frames[-1].vector == 14
    assert found.end == "0x0 lies outside of the kernel's image"


@pytest.mark.parametrize(
    "frame",
    [
        {"cs": 0},
        {"cs": 0x12345},
        {"cs": 0x09},
        {"rflags": 0x44},
        {"rflags": 0x8046},
        {"rip": 1 << 50},
        {"ss": 0x33},
    ],
)
def test_what_is_no_hardware_frame_is_not_shown(image: Image, frame: dict[str, int]) -> None:
    stack = Stack().call("_start").call("main").call("g")
    stack.interrupt(**{"rip": start("f"), "error": 2, **frame}).call("page_fault_handler")
    stack.push(0, 0, 0, 0)
    found = trace(image, stack, start("handle") + 4)
    assert names(found) == ["handle", "page_fault_handler"]
    assert "no valid hardware frame" in found.end


def test_a_word_that_is_no_return_address(image: Image) -> None:
    """In the text, but not behind a call: a guess is never a frame."""
    for word in (start("f") + 4, start("main"), 0x1234, STACK):
        found = trace(image, Stack().push(word, 0), start("f") + 4)
        assert names(found) == ["f"] and "is no return address" in found.end
    found = trace(image, Stack().push(0, 0), start("f") + 4)
    assert found.end == "the return address is 0: the bottom of the stack"


def test_stacks_that_cannot_be_read(image: Image) -> None:
    found = trace(image, Stack().push(0), start("f") + 4)
    assert names(found) == ["f"] and "cannot be read" in found.end and "not mapped" in found.end
    stack = Stack().call("page_fault_handler").push(0, 0, 0, 0)
    assert "cannot be read" in trace(image, stack, start("handle") + 4).end


def test_a_switched_stack_is_an_end(image: Image) -> None:
    stack = Stack().call("switcher").push(0)
    found = trace(image, stack, start("f") + 4)
    assert names(found) == ["f", "switcher"]
    assert "switcher" in found.end and "switches the stack" in found.end


def test_recursion_is_found(image: Image) -> None:
    stack = Stack().call("_start").call("main")
    for _ in range(30):
        stack.call("mutual_a").call("mutual_b")
    stack.call("g").push(0)
    found = trace(image, stack, start("f") + 4, limit=256)
    circle = found.cycle()
    assert circle is not None and set(circle[0]) == {"mutual_a", "mutual_b"}
    assert circle[1] in (29, 30)
    assert found.largest(1)[0][0] == 0x30
    for _ in range(300):
        stack.call("recurse")
    cut = trace(image, stack, start("recurse"), limit=100)
    assert len(cut.frames) == 100 and "more than 100 frames" in cut.end
    assert cut.cycle() == (("recurse",), 100)
    assert trace(image, Stack().call("_start").push(0), start("f") + 4).cycle() is None


def test_a_recursion_is_folded_to_its_first_round_and_its_last(image: Image) -> None:
    """Who began it and where it stands stay; so does what it leads into and what it came from."""
    stack = Stack().call("_start").call("main")
    for _ in range(600):
        stack.call("mutual_a").call("mutual_b")
    stack.call("g").push(0)
    found = trace(image, stack, start("f") + 4, limit=4096)
    rows = found.folded()
    (cut,) = [row for row in rows if isinstance(row, tuple)]
    shown = [row for row in rows if isinstance(row, int)]
    circle = found.circle()
    assert circle is not None
    begin, length, rounds = circle
    assert length == 2 and rounds in (599, 600) and cut == ((rounds - 2) * 2, rounds - 2)
    assert len(shown) + cut[0] == len(found.frames)
    assert shown[: begin + 2] == list(range(begin + 2))
    assert shown[-1] == len(found.frames) - 1
    named = [frame.name for _, frame in found.largest(16)]
    assert len(named) == len(set(named)), "each function once"
    few = Stack().call("_start").call("main")
    for _ in range(3):
        few.call("recurse")
    short = trace(image, few.push(0), start("recurse"))
    assert short.folded() == list(range(len(short.frames)))


def test_frames_that_repeat(image: Image) -> None:
    """An interrupt frame may name any stack: one that leads back to itself ends the trace."""
    stack = Stack()
    stack.interrupt(start("timer_interrupt_entry"))
    stack.words[stack.sp + 24] = stack.sp
    found = trace(image, stack, start("timer_interrupt_entry"))
    assert "repeat" in found.end and len(found.frames) <= 2


def test_outside_of_the_kernel(image: Image) -> None:
    found = trace(image, Stack().push(0), 0x1234)
    assert len(found.frames) == 1 and "outside of the kernel's image" in found.end


def test_stripped(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "stripped"
    path.write_bytes(Elf([text(bytes(0x200))], entry=0x1000).build())
    found = trace(Image.open(path), Stack().push(0), BASE + 0x1010)
    assert found.end == "the ELF is stripped: no symbols to unwind by"


def test_hardware_frames_are_aligned() -> None:
    stack = Stack().push(*USER[::-1])
    assert frame_at(stack.read, stack.sp) is not None
    shifted = Stack(STACK - 8).push(*USER[::-1])
    assert frame_at(shifted.read, shifted.sp) is None


# -- chains of real calls, with and without DWARF ----------------------------------------------


def call_sites(image: Image) -> list[int]:
    """Link addresses behind direct calls, in plain functions whose frame is measured from rsp."""
    code = image.simulator.code
    first = image.symbols.at(image.entry)
    found = []
    for symbol in image.symbols.symbols:
        plain = "interrupts" not in symbol.name and "entry" not in symbol.name
        if symbol.kind != "function" or not symbol.executable or not plain:
            continue
        if first is not None and symbol.address == first.address:
            continue
        end = symbol.address + symbol.size
        for one in code.function(symbol.address, end):
            behind = one.address + one.size
            rules = image.frames.rules(behind - 1) if one.mnemonic == "call" else None
            if (
                rules
                and rules.cfa_register == "rsp"
                and rules.saved == {"rip": -8}
                and behind < end
            ):
                found.append(behind)
    return found


def test_random_chains_with_and_without_dwarf(labguest: Image, labguest_path: Path) -> None:
    """Stacks laid out by .debug_frame's word; the stripped ELF must find the same frames."""
    stripped = Image.open(labguest_path.with_name("labguest-stripped.elf"))
    assert not stripped.has_dwarf and stripped.section_data(".debug_frame") == b""
    rng = random.Random(11)
    sites = call_sites(labguest)
    assert len(sites) > 100
    for _ in range(40):
        chain = rng.sample(sites, 6)
        words: dict[int, int] = {}
        sp = at = STACK - 0x8000
        expected = []
        for link, outer in zip(chain, [*chain[1:], None], strict=True):
            expected.append((BASE + link, at))
            rules = labguest.frames.rules(link - 1)
            assert rules is not None
            cfa = at + rules.cfa_offset
            for address in range(at, cfa - 8, 8):
                words[address] = 0x1111
            words[cfa - 8] = 0 if outer is None else BASE + outer
            at = cfa
        stack = Stack(sp)
        stack.words = words
        top = Frame(VirtAddr(expected[0][0]), VirtAddr(sp), "registers", None, False, {})
        for one in (labguest, stripped):
            unwinder = Unwinder(one.loaded(BASE), stack.read)
            frames = [top]
            while len(frames) < len(chain):
                frames.append(unwinder.caller(frames[-1]))
            assert [(f.pc, f.sp) for f in frames] == expected
            assert {f.how for f in frames[1:]} == {"cfi" if one is labguest else "simulated"}
