"""The state of a CPU and its stack at one place of entry code."""

from __future__ import annotations

from dataclasses import dataclass, field

from breenix_gdbagent.entrycode.values import LOST, REGISTERS, Value, joined

Slot = tuple[str, int]
"""A word of the stack (which stack, bytes above its start), or of memory behind a register."""


@dataclass(slots=True)
class State:
    """`words` are those of stacks, `fields` those behind pointers and in the per-CPU block.
    `ring` is the privilege that the interrupt frame tells now, `from_ring` what it told at the
    entry; None where there is no frame; `switched` where a function may have put another thread's
    registers there. `swaps` counts swapgs modulo 2, `forward` whether the
    direction flag is known to be clear. `compared` are the operands of the last comparison.
    `saved` and `restored` are registers that were put on a stack, and taken back."""

    registers: dict[str, Value]
    words: dict[Slot, Value] = field(default_factory=dict)
    fields: dict[Slot, Value] = field(default_factory=dict)
    ring: int | None = None
    from_ring: int | None = None
    switched: bool = False
    swaps: int = 0
    forward: bool = False
    compared: tuple[str, Value, Value] | None = None
    saved: frozenset[str] = frozenset()
    restored: frozenset[str] = frozenset()

    @classmethod
    def at_entry(cls) -> State:
        """Every register holds what it held."""
        registers = {name: Value("was", name) for name in REGISTERS}
        return cls({**registers, "rsp": Value("stack")})

    @property
    def rsp(self) -> Value:
        return self.registers["rsp"]

    def copy(self) -> State:
        """One to go on with on another path."""
        return State(
            dict(self.registers), dict(self.words), dict(self.fields), self.ring, self.from_ring,
            self.switched, self.swaps, self.forward, self.compared, self.saved, self.restored,
        )  # fmt: skip

    def key(self, rip: int) -> tuple[object, ...]:
        """States that agree in this are followed as one."""
        rsp = self.rsp
        where = rip, rsp.kind, rsp.name, rsp.number
        return *where, self.ring, self.from_ring, self.switched, self.swaps

    def merge(self, other: State) -> bool:
        """Take in what holds on another path to the same place; whether that changed anything."""
        before = (dict(self.registers), dict(self.words), dict(self.fields), self.forward)
        for name, value in self.registers.items():
            self.registers[name] = joined(value, other.registers[name])
        self.words = _both(self.words, other.words)
        self.fields = _both(self.fields, other.fields)
        self.forward = self.forward and other.forward
        if self.compared != other.compared:
            self.compared = None
        self.saved &= other.saved
        self.restored &= other.restored
        return before != (self.registers, self.words, self.fields, self.forward)

    # Registers -----------------------------------------------------------------------------

    def write(self, name: str, value: Value, at: int, *, changes: bool = False) -> None:
        """A register is written by the instruction at `at`. `changes`: by what it held itself, so
        that one that was lost before is lost by the same."""
        if name == "rsp":
            self.registers[name] = value
            return
        before = self.registers[name]
        if value.is_register(name):
            self.restored |= {name}
            self.registers[name] = value
        elif before.is_register(name):
            self.registers[name] = value._replace(by=frozenset((at,)))
        elif changes:
            self.registers[name] = value._replace(by=before.by)
        else:
            self.registers[name] = value._replace(by=before.by | {at})

    def restore(self, name: str, value: Value, at: int) -> None:
        """A register is loaded with a word of the stack: what it held when that was put there."""
        if value.by or value.is_register(name):
            self.restored |= {name} if value.is_register(name) else frozenset()
            self.registers[name] = value
        else:
            self.write(name, value, at)

    # Stack ---------------------------------------------------------------------------------

    def store(self, slot: Slot, value: Value) -> None:
        """A word is put on a stack."""
        if value.kind == "was":
            self.saved |= {value.name}
        old = self.words.get(slot)
        if value.kind == "result" and old is not None and old.is_register("rax"):
            value = value._replace(kind="answer")
        self.words[slot] = value

    def push(self, value: Value) -> None:
        """RSP goes down, and the word is there."""
        self.registers["rsp"] = rsp = self.rsp.plus(-8)
        self.store((rsp.name, rsp.number), value)

    def pop(self) -> Value:
        """The word at RSP, which goes up."""
        rsp = self.rsp
        self.registers["rsp"] = rsp.plus(8)
        return self.words.get((rsp.name, rsp.number), LOST)


def _both(one: dict[Slot, Value], other: dict[Slot, Value]) -> dict[Slot, Value]:
    return {slot: joined(value, other[slot]) for slot, value in one.items() if slot in other}
