"""An exception as its CPU reports it in registers, and what the tables say of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from breenix_gdbagent.arch.walks import Walk

Refusal = Literal[
    "", "null", "non-canonical", "unmapped", "access-flag", "address-size", "write-protected",
    "supervisor-only", "no-execute", "smep", "smap", "undefined", "bad-return", "other",
]  # fmt: skip
"""In which way an access, an instruction or a return was refused, in the words of finding codes."""


class Taken(NamedTuple):
    """One exception at its handler's first instructions, before anything of it is lost.

    `code` is what the CPU reports as its cause, `says` that in words; `pc` and `state` are the
    interrupted program's counter and state, `sp` its stack pointer. Of an access: `address`,
    `access` (``read``, ``write``, ``fetch``) and `level` of the table that refuses it. `predicted`
    is the code that the tables give for that access, None where they allow it or where it is
    none of theirs (`judged` False). `comes_again`: the handler's own first store, at `sp`, is
    refused as well, so that the exception is followed by others without end; why, in words.
    """

    vector: int
    code: int
    says: str
    refusal: Refusal
    from_user: bool
    pc: int
    sp: int
    state: int
    address: int | None = None
    access: str = ""
    level: int | None = None
    walk: Walk | None = None
    predicted: int | None = None
    judged: bool = False
    comes_again: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the tables give what the CPU reports."""
        return self.judged and self.predicted == self.code
