"""What a register or a word of the stack can hold while entry code is followed.

A value is known by where it comes from, not by what it is: the interrupted program's register, an
address of the stack that the entry was given, a number. `by` are the addresses of the instructions
that put something else into a register than it held at the entry, () for what it held then.
"""

from __future__ import annotations

from typing import NamedTuple

REGISTERS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
VOLATILE = ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")
"""What a function may change (System V ABI for AMD64, 3.2.1)."""
KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15")
"""What it may not, RSP aside."""
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")

Writers = frozenset[int]
NOBODY: Writers = frozenset()
MOST_WRITERS = 12
MASK = (1 << 64) - 1


class Value(NamedTuple):
    """`kind` and what goes with it:

    - ``was``: the register `name` at the entry;
    - ``stack``: `number` bytes above the RSP of the entry, or of the stack `name` gone over to;
    - ``number``: `number`;
    - ``return``: the address that the caller wants to be returned to;
    - ``result``: what the call at `number` gave back;
    - ``answer``: such a result where the interrupted program's RAX was saved: a system call's;
    - ``lost``: something else.
    """

    kind: str
    name: str = ""
    number: int = 0
    by: Writers = NOBODY

    def is_register(self, name: str) -> bool:
        """Whether it is what the register held at the entry."""
        return self.kind == "was" and self.name == name

    def plus(self, amount: int) -> Value:
        """A stack address or a number so much further."""
        if self.kind == "stack":
            return self._replace(number=self.number + amount)
        return self._replace(number=self.number + amount & MASK)


LOST = Value("lost")


def joined(one: Value, other: Value) -> Value:
    """What holds where two paths meet."""
    if one == other:
        return one
    by = one.by | other.by
    if len(by) > MOST_WRITERS:
        by = frozenset(sorted(by)[:MOST_WRITERS])
    if one[:3] == other[:3]:
        return one._replace(by=by)
    return Value("lost", by=by)
