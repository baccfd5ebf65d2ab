"""Where a function's return address is, from its instructions alone.

The release kernel has neither CFI nor frame pointers. The stack pointer's distance from the
function's entry is followed over its control flow (capstone), and with it copies of the stack
pointer (frame pointers, stack-probe loops) and the places where the caller's registers were saved.
A join of paths that disagree knows nothing there; nothing is guessed.
Source: System V ABI AMD64 section 3.2; Intel SDM volume 2 for the instructions.
"""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.symbols.code import CodeReader, Instruction
from breenix_gdbagent.symbols.effects import ALL, CALLER_SAVED, State, move_stack, step

_JUMP_TABLE = 512
_MAX_STEPS = 200_000


@dataclass(frozen=True, slots=True)
class Found:
    """The caller's stack at one address: relative to `register`, which must be known.

    The word at `register` + `offset` was on top of the stack when the function was entered: the
    return address, or what the CPU pushed for a gate. `saved` has, by register name, where the
    caller's value lies relative to that word; `kept` are registers that still hold it.
    """

    register: str
    offset: int
    saved: dict[str, int]
    kept: frozenset[str]


@dataclass(frozen=True, slots=True)
class NotFound:
    """Why the simulation does not know the stack at that address."""

    reason: str


class Simulator:
    """Simulates functions of one ELF; results are kept by function.

    `code` reads and decodes instructions by link address, and knows which calls come back.
    """

    def __init__(self, code: CodeReader) -> None:
        self.code = code
        self._done: dict[int, dict[int, State]] = {}

    def around(self, link: int, behind_call: bool) -> Found | NotFound:
        """The stack at a link address, or inside the call that holds it (`behind_call`)."""
        extent = self.code.extent(link)
        if extent is None:
            return NotFound("no symbol says where its function begins")
        if not behind_call:
            return self.at(*extent, link)
        for instruction in self.code.function(*extent):
            if instruction.address <= link < instruction.address + instruction.size:
                found = self.at(*extent, instruction.address)
                if isinstance(found, Found):
                    kept = found.kept - CALLER_SAVED
                    return Found(found.register, found.offset, found.saved, kept)
                return found
        return NotFound("the address is inside of no instruction")

    def at(self, start: int, end: int, link: int) -> Found | NotFound:
        """The stack before the instruction at `link` of the function [start, end).

        All are link addresses.
        """
        states = self._done.get(start)
        if states is None:
            states = self._done[start] = _Function(self.code, start, end).run()
        state = states.get(link)
        if state is None:
            return NotFound("no path from the function's entry leads here")
        for register in ("rsp", "rbp", *ALL):
            if register in state.place:
                saved = {r: h for r, h in state.home.items() if h is not None}
                kept = frozenset(r for r, h in state.home.items() if h is None)
                return Found(register, -state.place[register], saved, kept)
        if any(_switches(i) for i in self.code.function(start, end)):
            return NotFound("it switches the stack: where the old one is, is not known")
        return NotFound("paths of different stack depths meet here")


def _switches(instruction: Instruction) -> bool:
    """Whether an instruction loads the stack pointer with a new stack."""
    return instruction.mnemonic in ("mov", "xchg", "pop") and instruction.operands.startswith("rsp")


class _Function:
    """One function's data-flow: the state before each instruction, to a fixed point."""

    def __init__(self, code: CodeReader, start: int, end: int) -> None:
        self.code = code
        self.start = start
        self.end = end
        self.list = code.function(start, end)
        self.index = {i.address: n for n, i in enumerate(self.list)}
        self.before: dict[int, State] = {}

    def run(self) -> dict[int, State]:
        entry = State({"rsp": 0}, dict.fromkeys(ALL))
        work = [self.start]
        self.before[self.start] = entry
        steps = 0
        while work and steps < _MAX_STEPS:
            address = work.pop()
            while True:
                steps += 1
                n = self.index.get(address)
                if n is None or steps >= _MAX_STEPS:
                    break
                instruction = self.list[n]
                after = self.before[address].copy()
                step(after, instruction)
                following = self.follow(instruction, n, after)
                fresh = [a for a in following if self.enter(a, after)]
                if not fresh:
                    break
                address = fresh.pop()
                work += fresh
        return self.before

    def enter(self, address: int, state: State) -> bool:
        """Merge a state into the one before `address`; whether it has to be looked at again."""
        if address not in self.index:
            return False
        known = self.before.get(address)
        if known is None:
            self.before[address] = state.copy()
            return True
        return known.meet(state)

    def follow(self, instruction: Instruction, n: int, state: State) -> list[int]:
        """Where control goes behind an instruction, inside of the function."""
        mnemonic = instruction.mnemonic
        behind = instruction.address + instruction.size
        if mnemonic in ("retf", "retfq"):
            return [behind] if self.far_return_goes_on(n, state, behind) else []
        if mnemonic in ("ret", "iretq", "ud2", "sysretq", "sysexit"):
            return []
        if mnemonic == "call":
            target = instruction.target
            return [] if target is not None and not self.code.returns(target) else [behind]
        if mnemonic == "jmp":
            target = instruction.target
            return [target] if target is not None else self.table(n)
        if instruction.is_jump and instruction.target is not None:
            self.probe_loop(n, state, behind)
            return [behind, instruction.target]
        return [behind]

    def far_return_goes_on(self, n: int, state: State, behind: int) -> bool:
        """`push selector; lea reg, [rip + 0]; push reg; retfq` loads CS and goes on behind it."""
        for back in self.list[max(0, n - 4) : n]:
            if back.mnemonic == "lea" and back.rip_target == behind:
                move_stack(state, 16)
                return True
        return False

    def probe_loop(self, n: int, state: State, behind: int) -> None:
        """Behind `cmp rsp, reg; jne loop` the stack pointer equals that register.

        LLVM's inline stack probes (`lea r11, [rsp - N]; loop: sub rsp, 0x1000; ...`) end so.
        """
        last = self.list[n - 1] if n else None
        if last is None or last.mnemonic != "cmp" or self.list[n].mnemonic != "jne":
            return
        left, _, right = last.operands.partition(", ")
        if left == "rsp" and right in state.place:
            state.place["rsp"] = state.place[right]
        elif right == "rsp" and left in state.place:
            state.place["rsp"] = state.place[left]

    def table(self, n: int) -> list[int]:
        """Targets of a jump through a table of 32-bit offsets (`lea; movsxd; add; jmp reg`).

        The `lea` may stand far away, outside of a loop: any with the register that is added.
        """
        jump = self.list[n]
        for back in self.list[max(0, n - 4) : n][::-1]:
            left, _, right = back.operands.partition(", ")
            if back.mnemonic == "add" and left == jump.operands:
                for lea in self.list[:n][::-1]:
                    if lea.mnemonic == "lea" and lea.operands.startswith(
                        (f"{left}, [rip", f"{right}, [rip")
                    ):
                        targets = self.entries(lea.rip_target)
                        if targets:
                            return targets
        return []

    def entries(self, base: int | None) -> list[int]:
        targets: list[int] = []
        for slot in range(_JUMP_TABLE if base is not None else 0):
            assert base is not None
            offset = self.code.signed32(base + 4 * slot)
            if offset is None or base + offset not in self.index:
                break
            targets.append(base + offset)
        return list(dict.fromkeys(targets))
