"""The program that an exception interrupted: facts that every finding about a fault has in common.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import Hex, PhysAddr, VirtAddr
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, SHORT, SPREAD, Facts, Place
from breenix_gdbagent.checks.faults.address_kind import in_image
from breenix_gdbagent.cpumodel.context import Context
from breenix_gdbagent.cpumodel.instruction import Instruction
from breenix_gdbagent.cpumodel.selectors import runs_32_bit
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.started import surely_before
from breenix_gdbagent.kernel.view import Kernel

_OFFSET = re.compile(r"\+0x[0-9a-f]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(Facts):
    """What the CPU pushed, or would have."""

    rip: VirtAddr
    cs: Hex
    rflags: Hex
    rsp: VirtAddr
    ss: Hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(Facts):
    """Where, in which ring and space, by what instruction; on which CPU of several. `code_32`: in
    compatibility mode. `before`: the kernel has not started, a firmware or a boot loader ran."""

    cpu: Annotated[int | None, IF_KNOWN]
    ring: int
    rip: VirtAddr
    symbol: str | None
    instruction: str | None
    process: Annotated[Space | None, SHORT]
    cr3: PhysAddr
    frame: Frame
    code_32: Annotated[bool, ASIDE]
    before: Annotated[bool, ASIDE]


@dataclass(frozen=True, slots=True)
class RingMismatch:
    """A ring that does not fit the place it runs at."""

    ring: int
    at: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints(Facts):
    """What else is remarkable: text where code should be, a string instruction that goes down, a
    ring that does not fit the place, and who seems to have called when RIP leads nowhere."""

    text_at_rip: Annotated[str, IF_KNOWN]
    downwards: Annotated[str, IF_KNOWN]
    ring_mismatch: Annotated[RingMismatch | None, IF_KNOWN]
    return_address: Annotated[Place | None, IF_KNOWN]


@dataclass(frozen=True, slots=True)
class PageFaultCode:
    """The error code of a page fault, to be told bit by bit."""

    value: int


@dataclass(frozen=True, slots=True)
class SelectorErrorCode:
    """An error code that names a selector."""

    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultFacts(Facts):
    """The base of what shows a fault."""

    at: Annotated[Interrupted, SPREAD]


def interrupted(kernel: Kernel, context: Context, instruction: Instruction | None) -> Interrupted:
    """The program of a context, with its names."""
    return Interrupted(
        cpu=context.cpu.index if len(kernel.stop.cpus) > 1 else None,
        ring=context.cpl,
        rip=VirtAddr(context.rip),
        symbol=kernel.symbol(context.rip),
        instruction=instruction.text if instruction is not None else None,
        process=kernel.space_of(context.root),
        cr3=context.root,
        frame=Frame(
            rip=VirtAddr(context.rip),
            cs=Hex(context.cs),
            rflags=Hex(context.rflags),
            rsp=VirtAddr(context.rsp),
            ss=Hex(context.ss),
        ),
        code_32=runs_32_bit(context),
        before=surely_before(kernel),
    )


def subject(kernel: Kernel, context: Context) -> str:
    """The stable name of what faulted: the process for ring 3, the kernel's function, or what
    is known instead. Without addresses."""
    space = kernel.space_of(context.root)
    if context.cpl == 3:
        return space.subject if space is not None else "ring 3"
    name = kernel.symbol(context.rip)
    if name is not None:
        return _OFFSET.sub("", name)
    if in_image(kernel, context.rip) or space is None or not kernel.is_breenix:
        return "kernel"
    return f"kernel/{space.subject}"


def hints(kernel: Kernel, context: Context, walk: Walk | None = None) -> Hints:
    """See `Hints`. `walk` is that of the address that faulted."""
    return Hints(
        text_at_rip=_text_at(context),
        downwards=_downwards(context),
        ring_mismatch=_mismatch(kernel, context),
        return_address=_return_address(kernel, context, walk),
    )


_DF = 1 << 10
_STRINGS = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))
"""Opcodes of INS, OUTS, MOVS, CMPS, STOS, LODS, SCAS (SDM volume 2, appendix A)."""
_PREFIXES = frozenset((0xF2, 0xF3, 0x66, 0x67, *range(0x40, 0x50)))


def _downwards(context: Context) -> str:
    """That a string instruction goes downwards, by RFLAGS.DF; empty for any other."""
    try:
        code = context.read(context.rip, 6) if context.rflags & _DF else b""
    except ReadError:
        return ""
    opcode = next((byte for byte in code if byte not in _PREFIXES), None)
    return "RFLAGS.DF is set" if opcode in _STRINGS else ""


def _mismatch(kernel: Kernel, context: Context) -> RingMismatch | None:
    here = kernel.walk(context.root, context.rip).effective
    in_kernel = context.cpl == 3 and in_image(kernel, context.rip)
    in_process = context.cpl == 0 and here is not None and here.u
    if not in_kernel and not in_process:
        return None
    return RingMismatch(context.cpl, Place(context.rip, kernel.symbol(context.rip)))


def _return_address(kernel: Kernel, context: Context, walk: Walk | None) -> Place | None:
    if context.cpl or walk is None or walk.va != context.rip:
        return None
    try:
        back = int.from_bytes(context.read(context.rsp, 8), "little")
    except ReadError:
        return None
    return Place(back, kernel.symbol(back)) if in_image(kernel, back) else None


def _text_at(context: Context) -> str:
    """The text that RIP stands in, empty when it is none: a program that ran on past its end into
    its strings. Code can be printable too (``AWAVAUATUSH``), so small letters are asked for."""
    try:
        raw = context.read(context.rip, 24)
    except ReadError:
        return ""
    end = next((i for i, byte in enumerate(raw) if not 0x20 <= byte < 0x7F), len(raw))
    text = raw[:end].decode("ascii")
    return text if sum(c.islower() for c in text) >= 6 else ""
