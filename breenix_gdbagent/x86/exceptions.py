"""Exceptions as the CPU delivers them: vectors, the frame it pushes, what error codes say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from breenix_gdbagent.addresses import VirtAddr, canonical
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.vectors import EXCEPTIONS, WITH_ERROR_CODE

ReadVirtual = Callable[[int, int], bytes]
"""(virtual address, length) -> bytes; raises `ReadError`."""


class Vector(NamedTuple):
    """An exception that the manual names, and whether an error code is pushed for it."""

    number: int
    mnemonic: str
    name: str
    error_code: bool


VECTORS = {row[0]: Vector(*row) for row in EXCEPTIONS}
"""By number. What is not here has no error code: interrupts and ``int n``."""

FRAME = Struct("<5Q")
"""RIP, CS, RFLAGS, RSP, SS as 64-bit mode pushes them (SDM vol. 3, 6.14.2)."""
ERROR_CODE_SIZE = 8
# Bit 1 is always 1; 3, 5, 15 and those above ID (21) always 0 (SDM vol. 1, 3.4.3).
_RFLAGS_ONE, _RFLAGS_ZERO = 1 << 1, ~0x3F_7FD7 & (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class ExceptionFrame:
    """What the CPU pushed on entry to a handler in 64-bit mode (SDM vol. 3, figure 6-9).

    `error_code` is None where the vector has none; `size` is the bytes pushed, the error code
    included (not the bytes skipped to align the stack). `clean`: the bytes above the selectors and
    the error code are 0, as every CPU leaves them although the manual does not promise it.
    """

    error_code: int | None
    rip: VirtAddr
    cs: int
    rflags: int
    rsp: VirtAddr
    ss: int
    clean: bool = True

    @property
    def cpl(self) -> int:
        """The ring that was interrupted."""
        return self.cs & 3

    @property
    def size(self) -> int:
        return FRAME.size + (0 if self.error_code is None else ERROR_CODE_SIZE)

    def plausible(self, levels: int = 4) -> bool:
        """Whether a CPU in 64-bit mode can have pushed it: fixed bits of RFLAGS, a code selector,
        SS of the same ring (or null in ring 0: SDM vol. 3, 6.14.4), a canonical RSP. RIP may be
        anything: a jump to nowhere has been interrupted too."""
        if not self.rflags & _RFLAGS_ONE or self.rflags & _RFLAGS_ZERO or self.cs < 8:
            return False
        if self.cpl not in (0, 3) or not canonical(self.rsp, levels):
            return False
        return self.ss & 3 == self.cpl and (self.ss > 3 or self.cpl == 0)


def read_frame(read: ReadVirtual, rsp: int, vector: int) -> ExceptionFrame:
    """The frame at `rsp`, which is RSP at the handler's first instruction: the error code where the
    vector has one, then RIP, CS, RFLAGS, RSP, SS. Raises `ReadError`."""
    size = FRAME.size + (ERROR_CODE_SIZE if vector in WITH_ERROR_CODE else 0)
    raw = read(rsp, size)
    if len(raw) != size:
        raise ReadError(f"the exception frame at {rsp:#x} is cut short")
    code = raw[: size - FRAME.size]
    return parse_frame(raw[len(code) :], int.from_bytes(code, "little") if code else None)


def parse_frame(raw: bytes, error_code: int | None = None) -> ExceptionFrame:
    """The frame of the 40 bytes that begin with RIP; `error_code` as the 8 bytes that were pushed
    before it."""
    rip, cs, rflags, rsp, ss = FRAME.unpack(raw)
    clean = not (cs >> 16 or ss >> 16 or (error_code or 0) >> 32)
    code = None if error_code is None else error_code & 0xFFFF_FFFF
    return ExceptionFrame(
        code, VirtAddr(rip), cs & 0xFFFF, rflags, VirtAddr(rsp), ss & 0xFFFF, clean
    )


PF_PRESENT = 1 << 0
PF_WRITE = 1 << 1
PF_USER = 1 << 2
PF_RESERVED = 1 << 3
PF_FETCH = 1 << 4
PF_KEY = 1 << 5
PF_SHADOW_STACK = 1 << 6
PF_HLAT = 1 << 7
PF_SGX = 1 << 15

_PF_NAMES = (
    (PF_PRESENT, "P"),
    (PF_WRITE, "W"),
    (PF_USER, "U"),
    (PF_RESERVED, "RSVD"),
    (PF_FETCH, "I"),
    (PF_KEY, "PK"),
    (PF_SHADOW_STACK, "SS"),
    (PF_HLAT, "HLAT"),
    (PF_SGX, "SGX"),
)


@dataclass(frozen=True, slots=True)
class PageFaultCode:
    """The error code of a page fault (SDM vol. 3, figure 4-12), bit by bit.

    `present` False: no translation, an entry was not present. True: there is one, and it does not
    allow the access. (Breenix's memory-debugging notes have that wrong for 0x1 and 0x3.)
    """

    value: int

    @property
    def present(self) -> bool:
        return bool(self.value & PF_PRESENT)

    @property
    def access(self) -> str:
        """``write``, ``fetch`` or ``read`` (a fetch shows only where NXE or SMEP is on)."""
        if self.value & PF_FETCH:
            return "fetch"
        return "write" if self.value & PF_WRITE else "read"

    @property
    def user(self) -> bool:
        """Whether ring 3 asked, and not the kernel or the CPU itself."""
        return bool(self.value & PF_USER)

    @property
    def reserved(self) -> bool:
        return bool(self.value & PF_RESERVED)

    @property
    def protection_key(self) -> bool:
        return bool(self.value & PF_KEY)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the bits set, in their order."""
        return tuple(name for bit, name in _PF_NAMES if self.value & bit)

    @property
    def undefined(self) -> int:
        """Bits that are set and have no meaning: this was no error code of a page fault."""
        return self.value & ~sum(bit for bit, _ in _PF_NAMES)


@dataclass(frozen=True, slots=True)
class SelectorCode:
    """The error code of #TS, #NP, #SS and #GP (SDM vol. 3, figure 6-7); 0 names no selector.

    `external`: raised while an event from outside was delivered. `table` is ``idt`` (then `index`
    is a vector), ``ldt`` or ``gdt``.
    """

    value: int

    @property
    def external(self) -> bool:
        return bool(self.value & 1)

    @property
    def table(self) -> str:
        if self.value & 2:
            return "idt"
        return "ldt" if self.value & 4 else "gdt"

    @property
    def index(self) -> int:
        return self.value >> 3 & 0x1FFF

    @property
    def selector(self) -> int:
        """The selector it stands for, RPL 0 (with ``idt`` there is none: see `index`)."""
        return self.value & 0xFFF8 | (self.value & 4 if not self.value & 2 else 0)
