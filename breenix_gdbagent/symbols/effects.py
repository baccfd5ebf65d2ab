"""What one instruction does to the stack pointer, to its copies, and to saved registers.

Source: Intel SDM volume 2; System V ABI AMD64 section 3.2 (which registers a call keeps).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from breenix_gdbagent.symbols.code import Instruction

# Copies of the stack pointer are followed in registers that no instruction writes implicitly.
_TRACKED = frozenset({"rsp", "rbp", "rbx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"})
ALL = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
CALLER_SAVED = frozenset({"rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"})
_READS = frozenset({"cmp", "test", "bt", "push", "nop", "ud2", "prefetcht0", "out", "verr", "verw"})
_IMPLICIT = {
    "mul": ("rax", "rdx"), "div": ("rax", "rdx"), "idiv": ("rax", "rdx"), "cqo": ("rdx",),
    "cdq": ("rdx",), "cdqe": ("rax",), "cwde": ("rax",), "rdmsr": ("rax", "rdx"),
    "rdtsc": ("rax", "rdx"), "cpuid": ("rax", "rbx", "rcx", "rdx"),
    "rdtscp": ("rax", "rcx", "rdx"), "syscall": ("rcx", "r11"), "lodsb": ("rax", "rsi"),
    "cmpxchg": ("rax",), "xgetbv": ("rax", "rdx"), "in": ("rax",), "imul": ("rax", "rdx"),
    "cmpxchg16b": ("rax", "rdx"),
}  # fmt: skip
_STACK = re.compile(r"\[(r[a-z0-9]+)(?: ([+-]) (0x[0-9a-f]+|\d+))?\]$")


@dataclass(slots=True)
class State:
    """`place`: register -> its value minus the entry's stack pointer, where it is a copy of it.

    `home`: register -> where the value it had at entry is now: None in the register itself, or a
    slot (offset from the entry's stack pointer). A register without entry has lost it.
    """

    place: dict[str, int]
    home: dict[str, int | None] = field(default_factory=dict)

    def copy(self) -> State:
        return State(dict(self.place), dict(self.home))

    def meet(self, other: State) -> bool:
        """Keep only what both know; whether that lost something."""
        places = {r: p for r, p in self.place.items() if other.place.get(r, None) == p}
        homes = {r: h for r, h in self.home.items() if r in other.home and other.home[r] == h}
        lost = len(places) != len(self.place) or len(homes) != len(self.home)
        self.place, self.home = places, homes
        return lost


def step(state: State, instruction: Instruction) -> None:
    """The effect of one instruction on the stack pointer, its copies, and saved registers."""
    handler = _HANDLERS.get(instruction.mnemonic)
    if handler is not None:
        handler(state, instruction.operands)
        return
    mnemonic = instruction.mnemonic
    if mnemonic in _READS or mnemonic.startswith("j"):
        return
    for register in _IMPLICIT.get(mnemonic, ()):
        _kill(state, register)
    if mnemonic in ("xchg", "xadd", "cmpxchg"):
        for operand in instruction.operands.split(", "):
            _kill(state, _full(operand))
        return
    if mnemonic.startswith("rep"):
        for register in ("rcx", "rsi", "rdi"):
            _kill(state, register)
        return
    target = instruction.operands.partition(",")[0]
    if "[" not in target:
        _kill(state, _full(target))


def _kill(state: State, register: str | None) -> None:
    """A register is written with something we do not follow."""
    if register is None:
        return
    state.place.pop(register, None)
    if state.home.get(register, 0) is None:
        del state.home[register]


def _push(state: State, operand: str) -> None:
    move_stack(state, -8)
    if operand in ALL and operand in state.home and state.home[operand] is None:
        at = state.place.get("rsp")
        if at is not None:
            _remember(state, operand, at)


def _remember(state: State, register: str, slot: int) -> None:
    """The entry value of `register` is in `slot` too: count on it once the register changes."""
    state.home[register] = slot


def _pop(state: State, operand: str) -> None:
    at = state.place.get("rsp")
    register = _full(operand)
    move_stack(state, 8)
    if register is None or register == "rsp":
        if register == "rsp":
            state.place.pop("rsp", None)
        return
    restored = at is not None and state.home.get(register, 0) == at
    _kill(state, register)
    if restored:
        state.home[register] = None
    elif state.home.get(register) == at:
        state.home.pop(register, None)


def move_stack(state: State, by: int) -> None:
    if "rsp" in state.place:
        state.place["rsp"] += by


def _add(state: State, operands: str) -> None:
    _shift(state, operands, 1)


def _sub(state: State, operands: str) -> None:
    _shift(state, operands, -1)


def _shift(state: State, operands: str, sign: int) -> None:
    target, _, amount = operands.partition(", ")
    register = _full(target)
    if register is None:
        return
    place = state.place.get(register)
    value = _number(amount)
    _kill(state, register)
    if place is not None and value is not None and register == target:
        state.place[register] = place + sign * value


def _mov(state: State, operands: str) -> None:
    target, _, source = operands.partition(", ")
    slot = _slot(state, target)
    if slot is not None:
        if source in ALL and state.home.get(source, 0) is None:
            _remember(state, source, slot)
        return
    if "[" in target:
        return
    register = _full(target)
    if register is None:
        return
    place = state.place.get(source)
    from_slot = _slot(state, source)
    restored = from_slot is not None and state.home.get(register, 0) == from_slot
    _kill(state, register)
    if place is not None and register == target and register in _TRACKED:
        state.place[register] = place
    if restored:
        state.home[register] = None


def _lea(state: State, operands: str) -> None:
    target, _, source = operands.partition(", ")
    register = _full(target)
    slot = _slot(state, source)
    _kill(state, register)
    if register is not None and slot is not None and register in _TRACKED:
        state.place[register] = slot


def _leave(state: State, _: str) -> None:
    place = state.place.get("rbp")
    state.place.pop("rsp", None)
    if place is not None:
        state.place["rsp"] = place
    _pop(state, "rbp")


def _call(state: State, _: str) -> None:
    for register in CALLER_SAVED:
        _kill(state, register)


def _and(state: State, operands: str) -> None:
    _kill(state, _full(operands.partition(",")[0]))


def _pushfq(state: State, _: str) -> None:
    move_stack(state, -8)


def _popfq(state: State, _: str) -> None:
    move_stack(state, 8)


_HANDLERS: dict[str, Callable[[State, str], None]] = {
    "push": _push,
    "pop": _pop,
    "pushfq": _pushfq,
    "popfq": _popfq,
    "add": _add,
    "sub": _sub,
    "mov": _mov,
    "movabs": _mov,
    "lea": _lea,
    "leave": _leave,
    "call": _call,
    "and": _and,
}
_NARROW = {
    name: full
    for full, names in {
        "rax": "eax ax al ah", "rbx": "ebx bx bl bh", "rcx": "ecx cx cl ch",
        "rdx": "edx dx dl dh", "rsi": "esi si sil", "rdi": "edi di dil", "rbp": "ebp bp bpl",
        "rsp": "esp sp spl",
        **{f"r{n}": f"r{n}d r{n}w r{n}b" for n in range(8, 16)},
    }.items()
    for name in [full, *names.split()]
}  # fmt: skip


def _full(operand: str) -> str | None:
    """The 64-bit register that an operand is or lies in; None for memory and numbers."""
    return _NARROW.get(operand)


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _slot(state: State, operand: str) -> int | None:
    """The place of a memory operand relative to the entry's stack pointer, when it is known."""
    match = _STACK.search(operand)
    if match is None or "[rip" in operand or "gs:" in operand or "fs:" in operand:
        return None
    base = state.place.get(match.group(1))
    if base is None:
        return None
    offset = int(match.group(3), 0) if match.group(3) else 0
    return base - offset if match.group(2) == "-" else base + offset
