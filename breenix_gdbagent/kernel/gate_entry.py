"""Which gate led to where a CPU is: the entry code of its handler, followed instruction by
instruction.

Entry code is written by hand in most kernels and has no call-frame information. What it does to the
stack is plain all the same: it pushes registers and numbers, jumps to code that is common to many
gates, and calls. The numbers and return addresses that it would have left are compared with what
lies on the stack; nobody else leaves the same.
Source: Intel SDM volume 2 for the instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from breenix_gdbagent.cpumodel.instruction import Instruction
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.control import LONGEST_INSTRUCTION

ReadVirtual = Callable[[int, int], bytes]

MOST_INSTRUCTIONS = 192
MOST_PATHS = 16
_MASK = (1 << 64) - 1
_WORD = 8


@dataclass(frozen=True, slots=True)
class Agreement:
    """How what lies on a stack agrees with a handler's entry: `stands` where the CPU is on its way
    through it with that very stack, `told` numbers and return addresses that are there, `denied`
    where a number that it pushes is not."""

    stands: bool = False
    told: int = 0
    denied: bool = False

    @property
    def convinces(self) -> bool:
        """Whether that handler, and on that stack, was entered."""
        return self.stands or (self.told > 0 and not self.denied)


@dataclass(slots=True)
class _Path:
    """One way through the entry code: where it is, and the registers that are known."""

    rip: int
    known: dict[str, int]


@dataclass(slots=True)
class _Search:
    """`words` is address -> word of the live stack, from the CPU's RSP on."""

    words: Mapping[int, int]
    rip: int
    rsp: int
    stands: bool = False
    told: set[int] = field(default_factory=set)
    denied: bool = False

    def pushed(self, at: int, value: int) -> None:
        """A number that the entry pushes: it is still there, or another entry ran."""
        found = self.words.get(at)
        if found is None:
            return
        if found != value:
            self.denied = True
        elif value:
            self.told.add(at)

    def returns(self, at: int, value: int) -> None:
        """A return address: there while the call is not over."""
        if self.words.get(at) == value:
            self.told.add(at)

    def passed(self, path: _Path) -> None:
        self.stands = self.stands or (path.rip, path.known["rsp"]) == (self.rip, self.rsp)


def agreement(
    read: ReadVirtual, handler: int, entry_rsp: int, rip: int, rsp: int, words: Mapping[int, int]
) -> Agreement:
    """The entry at `handler`, entered with `entry_rsp`, against a CPU at `rip` with `rsp` and the
    `words` of its stack. `read(va, length)` raises `ReadError`."""
    search = _Search(words, rip, rsp)
    paths = [_Path(handler, {"rsp": entry_rsp})]
    seen = set[int]()
    begun = 1
    while paths and len(seen) < MOST_INSTRUCTIONS:
        path = paths.pop()
        while path.rip not in seen and len(seen) < MOST_INSTRUCTIONS:
            seen.add(path.rip)
            search.passed(path)
            instruction = _decoded(read, path)
            if instruction is None:
                break
            other = _step(search, path, instruction)
            if other is _ENDS:
                break
            if isinstance(other, _Path) and begun < MOST_PATHS:
                begun += 1
                paths.append(other)
    return Agreement(search.stands, len(search.told), search.denied)


_ENDS = object()


def _decoded(read: ReadVirtual, path: _Path) -> Instruction | None:
    from breenix_gdbagent.cpumodel.decoding import decode

    page_left = 0x1000 - (path.rip & 0xFFF)
    try:
        code = read(path.rip, LONGEST_INSTRUCTION)
    except ReadError:
        try:
            code = read(path.rip, min(page_left, LONGEST_INSTRUCTION))
        except ReadError:
            return None
    return decode(code, path.rip, path.known)


def _step(search: _Search, path: _Path, instruction: Instruction) -> object:
    """One instruction further. Gives `_ENDS` where the way is not known beyond it, or the other
    way of a branch."""
    after = instruction.address + instruction.size
    name, operands = instruction.name, instruction.operands
    path.rip = after
    target = operands[0] if operands else None
    if name in ("push", "pushfq", "pushf"):
        _push(search, path, target.value if target and target.kind == "immediate" else None)
    elif name in ("pop", "popfq", "popf"):
        path.known["rsp"] = path.known["rsp"] + _WORD & _MASK
        _forget(path, target.name if target is not None else "")
    elif name == "call":
        # It comes back with the stack as it was: what is pushed behind it lies above.
        search.returns(path.known["rsp"] - _WORD & _MASK, after)
    elif name == "jmp":
        if target is None or target.kind != "immediate" or target.value is None:
            return _ENDS
        path.rip = target.value
    elif name[0] == "j" and target is not None and target.value is not None:
        return _Path(target.value, dict(path.known))
    elif name in ("ret", "retf", "iretq", "iret", "sysret", "sysretq", "ud2"):
        return _ENDS
    elif target is not None and target.kind == "register":
        return _assign(path, instruction)
    return None


def _push(search: _Search, path: _Path, value: int | None) -> None:
    at = path.known["rsp"] = path.known["rsp"] - _WORD & _MASK
    if value is not None:
        search.pushed(at, value)


def _assign(path: _Path, instruction: Instruction) -> object:
    """A register that is written: the stack pointer and copies of it are followed."""
    name = instruction.name
    target, *sources = instruction.operands
    if name in ("cmp", "test", "bt"):
        return None
    value = _value(path, name, target.name, sources[0].value if sources else None)
    if target.name == "rsp":
        if value is None:
            return _ENDS
        path.known["rsp"] = value
    elif value is not None and name in ("mov", "lea") and _near(path, value):
        path.known[target.name] = value
    else:
        _forget(path, target.name)
    return None


def _value(path: _Path, name: str, register: str, source: int | None) -> int | None:
    before = path.known.get(register)
    if name in ("mov", "lea"):
        return source
    if before is None or source is None:
        return None
    match name:
        case "sub":
            return before - source & _MASK
        case "add":
            return before + source & _MASK
        case "and":
            return before & source
    return None


def _near(path: _Path, value: int) -> bool:
    """Whether it can be a copy of the stack pointer, which alone is worth following."""
    return abs(value - path.known["rsp"]) < 0x10000


def _forget(path: _Path, register: str) -> None:
    if register != "rsp":
        path.known.pop(register, None)
