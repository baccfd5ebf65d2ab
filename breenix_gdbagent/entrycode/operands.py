"""Instructions as the follower sees them, and where their operands lead."""

from __future__ import annotations

from typing import NamedTuple

from breenix_gdbagent.entrycode.state import Slot, State
from breenix_gdbagent.entrycode.values import LOST, MASK, REGISTERS, VOLATILE, Value
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.code import CodeReader
from breenix_gdbagent.x86.control import LONGEST_INSTRUCTION
from breenix_gdbagent.x86.disassembler import IMMEDIATE, REGISTER, WRITE, Detailed, detailed

_OLD = {
    **{p + n: f"r{n}" for n in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp") for p in "er"},
    **{n: f"r{n}" for n in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")},
    **{n + s: f"r{n}x" for n in "abcd" for s in "lh"},
    **{f"{n}l": f"r{n}" for n in ("si", "di", "bp", "sp")},
}
_GENERAL = frozenset((*REGISTERS, "rsp"))
MOST_HELPER = 64
"""Instructions of a function without calls that is read for what it changes."""


def whole(name: str) -> str | None:
    """The general register that a name is one of or a part of; None for others."""
    if name in _GENERAL:
        return name
    if name in _OLD:
        return _OLD[name]
    if name[:1] == "r" and name[-1:] in "dwb" and name[:-1] in _GENERAL:
        return name[:-1]
    return None


class Operand(NamedTuple):
    """One operand: of its `kind` (``register``, ``number``, ``memory``) the rest holds. Of memory
    `name` is the base register, `number` the displacement; `scaled` where there is an index."""

    kind: str
    size: int
    name: str = ""
    number: int = 0
    segment: str = ""
    scaled: bool = False

    @property
    def general(self) -> bool:
        """A general register."""
        return self.kind == "register" and whole(self.name) is not None


class Step(NamedTuple):
    """One instruction. `error_code`: the entry that it is followed for has one on its stack."""

    address: int
    after: int
    name: str
    text: str
    operands: tuple[Operand, ...]
    target: int | None
    read: frozenset[str]
    written: tuple[str, ...]
    writes_memory: bool
    error_code: bool


class Code:
    """The code of one ELF by link addresses, each instruction decoded once."""

    def __init__(self, image: Image, *, error_code: bool = False) -> None:
        self.image = image
        self.reader = CodeReader(image.elf, image.symbols)
        self.error_code = error_code
        self._steps: dict[int, Step | None] = {}
        self._changed: dict[int, tuple[str, ...]] = {}

    def behind_error_code(self) -> Code:
        """The same code, followed for an entry with an error code."""
        other = Code(self.image, error_code=True)
        other.reader, other._changed = self.reader, self._changed
        return other

    def step(self, address: int) -> Step | None:
        """The instruction at a link address, None where the ELF has none."""
        if address not in self._steps:
            self._steps[address] = self._decoded(address)
        return self._steps[address]

    def _decoded(self, address: int) -> Step | None:
        for size in (LONGEST_INSTRUCTION, 8, 4, 2, 1):
            data = self.image.read(address, size)
            if data is not None:
                found = detailed(data, address)
                return None if found is None else _step(found, self.error_code)
        return None

    def returns(self, target: int) -> bool:
        """Whether a call of `target` can come back."""
        return self.reader.returns(target)

    def changed_by(self, target: int | None) -> tuple[str, ...]:
        """Registers that a call may change: by the ABI, but for a short helper without calls that
        was written by hand, in which it is read."""
        symbol = None if target is None else self.image.symbols.covering(target)
        if target is None or symbol is None or symbol.kind != "label":
            return VOLATILE
        if target not in self._changed:
            self._changed[target] = self._read_helper(target)
        return self._changed[target]

    def spares(self, target: int | None) -> bool:
        """Whether a call of `target`, read to its end, changes no register that it may change."""
        return target is not None and not self._read_helper(target)

    def _read_helper(self, target: int) -> tuple[str, ...]:
        written: set[str] = set()
        at = target
        for _ in range(MOST_HELPER):
            step = self.step(at)
            if step is None or step.name == "call" or step.name[0] == "j":
                return VOLATILE
            if step.name == "ret":
                pushed = {name for name in written if name in VOLATILE}
                return () if not pushed else VOLATILE
            written |= set(step.written)
            at = step.after
        return VOLATILE


def _step(found: Detailed, error_code: bool) -> Step:
    read, written = found.regs_access()
    operands = tuple(_operand(found, one) for one in found.operands)
    name = found.insn_name()
    first = operands[0] if operands else None
    direct = name == "call" or name[0] == "j" or name.startswith("loop")
    direct = direct and first is not None and first.kind == "number"
    return Step(
        found.address,
        found.address + found.size,
        name,
        f"{found.mnemonic} {found.op_str}".strip(),
        operands,
        first.number if direct and first is not None else None,
        frozenset(n for n in (whole(found.reg_name(r)) for r in read) if n is not None),
        tuple(n for n in (whole(found.reg_name(r)) for r in written) if n is not None),
        bool(found.operands and found.operands[0].access & WRITE),
        error_code,
    )


def _operand(found: Detailed, raw: object) -> Operand:
    from breenix_gdbagent.x86.disassembler import DetailedOperand

    one: DetailedOperand = raw  # type: ignore[assignment]
    if one.type == REGISTER:
        return Operand("register", one.size, found.reg_name(one.reg))
    if one.type == IMMEDIATE:
        return Operand("number", one.size, "", one.imm & MASK)
    memory = one.mem
    base = found.reg_name(memory.base) if memory.base else ""
    segment = found.reg_name(memory.segment) if memory.segment else ""
    return Operand("memory", one.size, base, memory.disp, segment, bool(memory.index))


def reach(step: Step, which: int, state: State) -> tuple[str, Slot]:
    """Where a memory operand lies: on a stack, in a field behind a pointer or of the per-CPU block
    (``stack``, ``field``, and the place), or not known (``""``)."""
    operand = step.operands[which]
    if operand.scaled or operand.segment == "fs":
        return "", ("", 0)
    if operand.segment == "gs":
        return ("field", ("gs", operand.number)) if not operand.name else ("", ("", 0))
    if operand.name in ("", "rip"):
        at = operand.number + (step.after if operand.name else 0)
        return "field", ("fixed", at)
    base = state.registers.get(whole(operand.name) or "", LOST)
    if base.kind == "stack":
        return "stack", (base.name, base.number + operand.number)
    if base.kind == "was":
        return "field", (base.name, operand.number)
    return "", ("", 0)


def value_of(step: Step, which: int, state: State) -> Value:
    """What an operand holds."""
    operand = step.operands[which]
    if operand.kind == "number":
        return Value("number", "", operand.number)
    if operand.kind == "register":
        name = whole(operand.name)
        if name is None:
            return LOST
        return _part(state.registers[name], operand.size)
    kind, slot = reach(step, which, state)
    if kind == "stack":
        return _part(state.words.get(slot, LOST), operand.size)
    if kind == "field":
        return _part(_field(state, slot), operand.size)
    return LOST


def _field(state: State, slot: Slot) -> Value:
    """What a place behind a pointer holds: what was put there, or, behind the pointer to another
    thread's, what was put at the same place behind the pointer to this one's."""
    found = state.fields.get(slot)
    if found is not None or slot[0] in ("gs", "fixed"):
        return found or LOST
    mirrored = [v for (base, at), v in state.fields.items() if at == slot[1] and base in REGISTERS]
    return mirrored[0] if len(mirrored) == 1 else LOST


def _part(value: Value, size: int) -> Value:
    """The low `size` bytes of a value, where anything is known of them."""
    if size == 8:
        return value
    if value.kind == "number":
        return value._replace(number=value.number & (1 << 8 * size) - 1)
    return Value("lost", by=value.by)
