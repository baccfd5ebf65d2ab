"""Entry code followed on every path, with abstract values, to where it leaves.

A call comes back with the stack as it was and with every register that a function may change
changed; one that was handed the interrupt frame may have put another thread's there, so that both
privileges are followed behind it. What a switch reads of the new thread is taken to be what it
wrote of the old one, by the same code, when that thread was left.
Sources: Intel SDM volume 2; SDM volume 3, 6.14.2 (the CPU aligns RSP to 16 bytes before it pushes);
System V ABI for AMD64, 3.2.1 and 3.2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from breenix_gdbagent.entrycode.operands import Code, Step, reach, value_of, whole
from breenix_gdbagent.entrycode.state import State
from breenix_gdbagent.entrycode.values import (
    ARGUMENTS,
    KEPT,
    LOST,
    Value,
)

MOST_STEPS = 200_000
MOST_OF_KEPT = 4
"""Of the six registers that a function may not change: with so many on its stack an entry keeps all
that a thread needs, or means to."""
KERNEL_CS, USER_CS = 0x08, 0x33
_SELECTORS = {0: KERNEL_CS, 3: USER_CS}
_CS = 8
_EQUAL = {"je": True, "jz": True, "jne": False, "jnz": False}
_BRANCHES = (
    "iretq", "sysretq", "sysret", "ret", "call", "ud2", "int3", "iret", "iretd", "retf", "retfq",
)  # fmt: skip
_STRINGS = ("movs", "stos", "cmps", "scas", "lods")


class End(NamedTuple):
    """Where a path leaves the code: `kind` is ``iretq``, ``sysretq``, ``ret`` or ``jump``."""

    kind: str
    at: int
    state: State


class Call(NamedTuple):
    """A call of `target` (None: not known), with RSP as it is before it."""

    at: int
    target: int | None
    rsp: Value
    forward: bool


@dataclass(slots=True)
class Followed:
    """What one entry does. `unread` says where it could not be followed, and why."""

    entry: int
    ends: dict[tuple[object, ...], End] = field(default_factory=dict)
    calls: dict[tuple[object, ...], Call] = field(default_factory=dict)
    strings: dict[int, bool] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    goes_over: set[int] = field(default_factory=set)


def follow(code: Code, entry: int, frame: int | None) -> Followed:
    """The code from `entry` on. `frame` is where the interrupt frame lies above RSP: 0, 8 behind an
    error code, None where there is none (a system call by ``syscall``, a function)."""
    return _Follower(code, entry, frame).result()


class _Follower:
    def __init__(self, code: Code, entry: int, frame: int | None) -> None:
        self.code = code
        self.frame = frame
        self.found = Followed(entry)
        self.states: dict[tuple[object, ...], State] = {}
        self.waiting: list[tuple[int, int, tuple[object, ...]]] = []
        self.queued: set[tuple[object, ...]] = set()
        self.pushed = self.steps = 0
        for ring in (3, 0) if frame is not None else (None,):
            state = State.at_entry()
            if frame is None:
                state.words["", 0] = Value("return")
            else:
                state.from_ring = ring
                self._set_ring(state, ring)
            self._come_to(entry, state)

    def result(self) -> Followed:
        """Every path to its end, or until it is too much."""
        while self.waiting:
            rip, _, key = heappop(self.waiting)
            self.queued.discard(key)
            if not self._run(rip, self.states[key].copy()):
                self.found.unread[rip] = "too long"
                break
        return self.found

    def _come_to(self, rip: int, state: State) -> None:
        key = state.key(rip)
        known = self.states.get(key)
        if known is None:
            self.states[key] = state
        elif not known.merge(state):
            return
        if key not in self.queued:
            self.queued.add(key)
            self.pushed += 1
            heappush(self.waiting, (rip, self.pushed, key))

    def _set_ring(self, state: State, ring: int | None) -> None:
        """The frame's CS tells this privilege."""
        assert self.frame is not None
        state.ring = ring
        if ring is not None:
            state.words["", self.frame + _CS] = Value("number", "", _SELECTORS[ring])

    def _run(self, rip: int, state: State) -> bool:
        """Straight on to the next branch; False where it has become too much."""
        while self.steps < MOST_STEPS:
            self.steps += 1
            step = self.code.step(rip)
            if step is None:
                self.found.unread[rip] = "no instruction"
                return True
            self.found.seen.add(rip)
            if step.name in _BRANCHES or step.name[0] == "j" or step.name.startswith("loop"):
                for target, after in self._successors(step, state):
                    self._come_to(target, after)
                return True
            self._plain(step, state)
            rip = step.after
        return False

    # One instruction -----------------------------------------------------------------------

    def _successors(self, step: Step, state: State) -> Iterator[tuple[int, State]]:
        name = step.name
        if name in ("iretq", "sysretq", "sysret", "ret"):
            self._end("sysretq" if name == "sysret" else name, step, state)
        elif name == "call":
            yield from self._call(step, state)
        elif name == "jmp":
            yield from self._jump(step, state)
        elif name[0] == "j" or name.startswith("loop"):
            yield from self._branch(step, state)

    def _end(self, kind: str, step: Step, state: State) -> None:
        key = (kind, *state.key(step.address))
        known = self.found.ends.get(key)
        if known is not None:
            known.state.merge(state)
        else:
            self.found.ends[key] = End(kind, step.address, state)

    def _call(self, step: Step, state: State) -> Iterator[tuple[int, State]]:
        target = step.target
        rsp = state.rsp
        key = (step.address, rsp.name, rsp.number)
        known = self.found.calls.get(key)
        forward = state.forward and (known is None or known.forward)
        self.found.calls[key] = Call(step.address, target, rsp, forward)
        if target is not None and not self.code.returns(target):
            return
        may_switch = state.ring is not None and _hands_registers(state)
        for name in self.code.changed_by(target):
            result = Value("result", "", step.address) if name == "rax" else LOST
            state.write(name, result, step.address)
        for slot in [s for s in state.words if s[0] == rsp.name and s[1] < rsp.number]:
            del state.words[slot]
        state.compared = None
        yield step.after, state
        if may_switch:
            other = state.copy()
            other.switched = True
            self._set_ring(other, 3 - (state.ring or 0))
            for name in KEPT:
                if other.registers[name].is_register(name):
                    other.write(name, LOST, step.address)
            yield step.after, other

    def _jump(self, step: Step, state: State) -> Iterator[tuple[int, State]]:
        if step.target is not None:
            yield step.target, state
            return
        value = value_of(step, 0, state)
        if value.kind == "return":
            self._end("jump", step, state)
        else:
            self.found.unread[step.address] = "indirect jump"

    def _branch(self, step: Step, state: State) -> Iterator[tuple[int, State]]:
        taken = _decided(step.name, state)
        if taken is not True:
            yield step.after, state if taken is False else state.copy()
        if taken is not False and step.target is not None:
            yield step.target, state

    def _plain(self, step: Step, state: State) -> None:
        """What does not branch."""
        if step.name.startswith(_STRINGS) and "xmm" not in step.text:
            self.found.strings[step.address] = state.forward
        act: Callable[[Step, State], None] = _SIMPLE.get(step.name, _other)
        act(step, state)
        if step.name == "mov" and step.operands[0].name == "rsp":
            self.found.goes_over.add(step.address)
        if state.rsp.kind != "stack":
            self._goes_over(step, state)

    def _goes_over(self, step: Step, state: State) -> None:
        """RSP is no longer an address of the stack that the code was entered with. Where the old
        one was kept behind a pointer, the new one was kept by the same code."""
        self.found.goes_over.add(step.address)
        kept = [v for v in state.fields.values() if v.kind == "stack" and v.name == ""]
        if self.frame is None and kept:
            state.registers["rsp"] = kept[-1]._replace(by=frozenset())
        else:
            state.registers["rsp"] = Value("stack", f"{step.address:#x}")


def _hands_registers(state: State) -> bool:
    """Whether a function is handed an address of the stack on which the program's registers are
    kept, all that a thread needs: it may put another thread's there."""
    if not any(state.registers[name].kind == "stack" for name in ARGUMENTS):
        return False
    rsp = state.rsp
    kept = {
        v.name
        for (on, at), v in state.words.items()
        if on == rsp.name and at >= rsp.number and v.kind == "was"
    }
    return len(kept.intersection(KEPT)) >= MOST_OF_KEPT


def _decided(name: str, state: State) -> bool | None:
    """Whether a branch is taken, by the last comparison; None where that is not known."""
    if name not in _EQUAL or state.compared is None:
        return None
    how, one, other = state.compared
    if one.kind != "number" or other.kind != "number":
        return None
    equal = one.number & other.number == 0 if how == "test" else one.number == other.number
    return equal == _EQUAL[name]


# Instructions that are followed ----------------------------------------------------------------


def _push(step: Step, state: State) -> None:
    state.push(value_of(step, 0, state))


def _pop(step: Step, state: State) -> None:
    value = state.pop()
    register = whole(step.operands[0].name)
    if register is not None:
        state.restore(register, value, step.address)


def _push_flags(step: Step, state: State) -> None:
    state.push(LOST)


def _pop_flags(step: Step, state: State) -> None:
    state.pop()
    state.forward = False
    state.compared = None


def _swap(step: Step, state: State) -> None:
    state.swaps ^= 1


def _clear_direction(step: Step, state: State) -> None:
    state.forward = True


def _set_direction(step: Step, state: State) -> None:
    state.forward = False


def _compare(step: Step, state: State) -> None:
    one, other = value_of(step, 0, state), value_of(step, 1, state)
    state.compared = step.name, one, other


def _move(step: Step, state: State) -> None:
    target, source = step.operands[0], step.operands[1]
    value = value_of(step, 1, state)
    if target.kind == "memory":
        _store(step, state, value if source.size == 8 else LOST)
        return
    register = whole(target.name)
    if register is None or not target.general:
        return
    if target.size == 8 and source.kind == "memory" and source.size == 8:
        state.restore(register, value, step.address)
    elif target.size < 4:
        state.write(register, LOST, step.address)
    elif target.size == 8 or value.kind == "number":
        state.write(register, value._replace(by=frozenset()), step.address)
    else:
        state.write(register, LOST, step.address)


def _store(step: Step, state: State, value: Value) -> None:
    kind, slot = reach(step, 0, state)
    if kind == "stack":
        state.store(slot, value)
    elif kind == "field":
        state.fields[slot] = value


def _address(step: Step, state: State) -> None:
    register = whole(step.operands[0].name)
    assert register is not None
    kind, slot = reach(step, 1, state)
    value = Value("stack", *slot) if kind == "stack" and step.operands[0].size == 8 else LOST
    state.write(register, value, step.address)


def _arithmetic(step: Step, state: State) -> None:
    """add, sub, and, xor: on addresses of the stack and on numbers."""
    target = step.operands[0]
    register = whole(target.name) if target.kind == "register" else None
    if register is None:
        _other(step, state)
        return
    one, other = state.registers[register], value_of(step, 1, state)
    result = _computed(step, one, other)
    same = step.name in ("xor", "sub") and step.operands[1].name == target.name
    if same:
        result = Value("number")
    elif target.size < 4:
        result = LOST
    state.write(register, result, step.address, changes=not same)
    state.compared = "cmp", state.registers[register], Value("number")


def _computed(step: Step, one: Value, other: Value) -> Value:
    if other.kind != "number":
        return LOST
    amount = other.number - (1 << 64) if other.number >> 63 else other.number
    if one.kind in ("stack", "number") and step.name in ("add", "sub"):
        return one.plus(amount if step.name == "add" else -amount)._replace(by=frozenset())
    if one.kind == "number" and step.name == "and":
        return Value("number", "", one.number & other.number)
    if one.kind == "stack" and step.name == "and" and amount == -16:
        return one._replace(number=_aligned(one, step), by=frozenset())
    return LOST


def _aligned(rsp: Value, step: Step) -> int:
    """RSP after ``and rsp, -16``: the CPU and callers leave it 8 above a multiple of 16; behind an
    error code, and on a stack gone over to, at one."""
    skew = 0 if rsp.name or step.error_code else 8
    return (rsp.number + skew & ~15) - skew


def _exchange(step: Step, state: State) -> None:
    one, other = step.operands[0], step.operands[1]
    left, right = whole(one.name), whole(other.name)
    if left is None or right is None or one.size != 8:
        _other(step, state)
        return
    values = state.registers[left], state.registers[right]
    state.restore(left, values[1], step.address)
    state.restore(right, values[0], step.address)


def _nothing(step: Step, state: State) -> None:
    """Changes nothing that is followed."""


def _leave(step: Step, state: State) -> None:
    state.registers["rsp"] = state.registers["rbp"]
    if state.rsp.kind == "stack":
        state.restore("rbp", state.pop(), step.address)


def _other(step: Step, state: State) -> None:
    """Any other instruction: what it writes is lost."""
    for name in step.written:
        state.write(name, LOST, step.address, changes=name in step.read)
    if step.operands and step.operands[0].kind == "memory" and step.writes_memory:
        kind, slot = reach(step, 0, state)
        for above in range(0, max(step.operands[0].size, 8), 8):
            if kind == "stack":
                state.words[slot[0], slot[1] + above] = LOST
    state.compared = None


_SIMPLE = {
    "push": _push,
    "pop": _pop,
    "pushfq": _push_flags,
    "popfq": _pop_flags,
    "swapgs": _swap,
    "cld": _clear_direction,
    "std": _set_direction,
    "cmp": _compare,
    "test": _compare,
    "mov": _move,
    "movabs": _move,
    "lea": _address,
    "add": _arithmetic,
    "sub": _arithmetic,
    "and": _arithmetic,
    "xor": _arithmetic,
    "xchg": _exchange,
    "leave": _leave,
    "nop": _nothing,
    "endbr64": _nothing,
}
