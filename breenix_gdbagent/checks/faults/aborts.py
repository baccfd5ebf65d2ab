"""The fault of a CPU whose architecture reports it in registers: what was refused, by which entry,
whether the tables give what the CPU reports, and whether its handler can begin at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from breenix_gdbagent.addresses import PAGE, Hex, VirtAddr, hex64, page_base
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.taken import Refusal, Taken
from breenix_gdbagent.arch.walks import NOT_PRESENT, UNREADABLE
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, Facts
from breenix_gdbagent.checks.faults import cause
from breenix_gdbagent.checks.faults.double_fault import DOUBLE_FAULT
from breenix_gdbagent.checks.faults.exceptions import INVALID_OPCODE, UNHANDLED
from breenix_gdbagent.checks.faults.shutdown import REBOOT
from breenix_gdbagent.checks.finding import Code, Finding, NotChecked, Where, declare, place_of
from breenix_gdbagent.checks.reasons import FaultNotRead, HandlerNotRead, NotRead
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel

ERET_FRAME = declare(
    "eret.frame",
    "error",
    "the kernel returned through a frame that is none",
    arises="A context of zeroes, one that was overwritten, or a program's taken for the kernel's: "
    "ELR_EL1 is no place to go to in the mode that SPSR_EL1 names, or SPSR_EL1 names no mode.",
    confirm="ELR_EL1 and SPSR_EL1 of the stop, and the saved context of the thread that was to run "
    "next; SPSR_EL1 in words: explain.",
    mend="Look at who filled that thread's saved context last, and whether it was ever filled.",
    kind="event",
)
SP_MISALIGNED = declare(
    "sp.misaligned",
    "error",
    "the stack pointer is no multiple of 16",
    arises="SCTLR_EL1.SA makes every load and store through such an SP an SP alignment fault "
    "(QEMU's TCG does not raise it): code that changes SP by 8, or a saved SP that is wrong.",
    confirm="SP of the interrupted code; disassemble what changed it last.",
    mend="Change SP by multiples of 16 only; look at where a wrong SP was loaded from.",
)
_ALIGNMENT, _SCTLR_SA = 16, 1 << 3
_OVERFLOW_REACH = 0x1000

_CODES: Mapping[Refusal, Code] = {
    "null": cause.NULL,
    "non-canonical": cause.NON_CANONICAL,
    "unmapped": cause.UNMAPPED,
    "access-flag": cause.UNMAPPED,
    "address-size": cause.RESERVED,
    "write-protected": cause.WRITE_PROTECTED,
    "supervisor-only": cause.SUPERVISOR_ONLY,
    "no-execute": cause.NO_EXECUTE,
    "smep": cause.SMEP,
    "smap": cause.SMAP,
    "undefined": INVALID_OPCODE,
    "bad-return": ERET_FRAME,
    "other": UNHANDLED,
}
_UNTOLD = ("marker", "exit", "breakpoint", "step", "interrupt")
_OFFSET = re.compile(r"\+0x[0-9a-f]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortFacts(Facts):
    """One exception: where it came from, what the CPU reports, what was accessed and how, and the
    code that the tables give for that. `guard`: the address is right below a stack that the code
    ran over; `agrees`: the tables give what was reported, None where it is none of theirs."""

    cpu: int
    el: str
    came_by: str
    esr: Hex
    says: str
    access: Annotated[str, IF_KNOWN]
    address: Annotated[VirtAddr | None, IF_KNOWN]
    pc: VirtAddr
    symbol: str | None
    sp: VirtAddr
    spsr: Hex
    predicted: Annotated[Hex | None, IF_KNOWN]
    again: Annotated[str, IF_KNOWN]
    user: Annotated[bool, ASIDE]
    guard: Annotated[bool, ASIDE]
    agrees: Annotated[bool | None, ASIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class MisalignedFacts(Facts):
    """An SP that is no multiple of 16, and where the code stands that has it."""

    cpu: int
    sp: VirtAddr
    pc: VirtAddr
    symbol: str | None


def check(kernel: Kernel) -> Iterator[Finding]:
    """The fault of the CPU that the stop is about, and stack pointers that are misaligned. Raises
    `NotChecked` where it cannot be read, and at a stop at which a handler may be at work."""
    reason = kernel.stop.reason
    if reason.kind == "shutdown":
        yield Finding(REBOOT, "kernel")
        return
    if kernel.mode is None:
        raise NotChecked(NotRead(kernel.stop.no_paging))
    if reason.kind == "fault" and reason.vector is not None:
        yield from _at_vector(kernel, kernel.stop.cpu, reason.vector)
        return
    for cpu in kernel.stop.cpus:
        yield from _misaligned(kernel, cpu, cpu.stack, cpu.at, user=cpu.cpl == 3)
    if reason.kind not in _UNTOLD:
        raise NotChecked(HandlerNotRead(kernel.stop.cpu.arch.name))


def taken_at(kernel: Kernel, cpu: Cpu, vector: int) -> Taken:
    """The exception for which a CPU is in a vector. Raises `ReadError`."""
    root = cpu.root
    if root is None:
        raise ReadError(f"the tables of CPU {cpu.index} are not known")
    return cpu.arch.taken(cpu, vector, kernel.walk, kernel.memory_of(root).read)


def _at_vector(kernel: Kernel, cpu: Cpu, vector: int) -> Iterator[Finding]:
    try:
        taken = taken_at(kernel, cpu, vector)
    except ReadError as lacking:
        raise NotChecked(FaultNotRead(cpu.index, lacking.what)) from lacking
    found = _finding(kernel, cpu, taken)
    misaligned = list(_misaligned(kernel, cpu, taken.sp, taken.pc, user=taken.from_user))
    if taken.refusal == "null" and _returned(taken):
        returned = _with_code(found, ERET_FRAME)
        found = replace(found, cause=ERET_FRAME.name, because=(returned,))
        yield returned
    yield found
    yield from misaligned
    if taken.comes_again:
        yield Finding(
            DOUBLE_FAULT,
            found.subject,
            found.facts,
            cause=found.code.name,
            because=(found,),
            chain=(*found.chain, taken.comes_again),
        )


def _returned(taken: Taken) -> bool:
    return "ERET" in taken.says


def _with_code(found: Finding, code: Code) -> Finding:
    return Finding(
        code, found.subject, found.facts, found.where, chain=found.chain, confidence="likely"
    )


def _finding(kernel: Kernel, cpu: Cpu, taken: Taken) -> Finding:
    guard = _over_a_stack(kernel, taken)
    code = cause.GUARD_PAGE if guard else _CODES[taken.refusal or "other"]
    symbol = kernel.symbol(taken.pc)
    agrees = taken.agrees if taken.judged else None
    facts = AbortFacts(
        cpu=cpu.index,
        el="EL0" if taken.from_user else "EL1",
        came_by=cpu.arch.vectors.get(taken.vector, str(taken.vector)),
        esr=Hex(taken.code),
        says=taken.says,
        access=taken.access,
        address=None if taken.address is None else VirtAddr(taken.address),
        pc=VirtAddr(taken.pc),
        symbol=symbol,
        sp=VirtAddr(taken.sp),
        spsr=Hex(taken.state),
        predicted=None if taken.predicted is None else Hex(taken.predicted),
        again=taken.comes_again,
        user=taken.from_user,
        guard=guard,
        agrees=agrees,
    )
    if agrees is False:
        code = cause.STALE_TLB
    return Finding(
        code,
        _subject(kernel, cpu, taken, symbol),
        facts,
        Where() if taken.walk is None else place_of(taken.walk),
        chain=(_event(taken),),
        confidence="proved" if agrees is not None else "likely",
    )


def _event(taken: Taken) -> str:
    where = "" if taken.address is None else f" at {hex64(taken.address)}"
    return f"{taken.says}{where} (ESR_EL1 {taken.code:#x})"


def _subject(kernel: Kernel, cpu: Cpu, taken: Taken, symbol: str | None) -> str:
    space = None if cpu.root is None else kernel.space_of(cpu.root)
    if taken.from_user:
        return space.subject if space is not None else "EL0"
    return "kernel" if symbol is None else _OFFSET.sub("", symbol)


def _over_a_stack(kernel: Kernel, taken: Taken) -> bool:
    """Whether the kernel ran over the end of a stack: nothing is mapped where it accessed, right at
    its SP, and the page above is memory that it may write."""
    walk, address = taken.walk, taken.address
    if taken.from_user or address is None or walk is None or walk.reason != NOT_PRESENT:
        return False
    if taken.access == "fetch" or abs(taken.sp - address) > _OVERFLOW_REACH:
        return False
    above = kernel.walk(walk.root, page_base(address) + PAGE)
    return above.effective is not None and above.effective.w and above.reason != UNREADABLE


def _misaligned(
    kernel: Kernel, cpu: Cpu, sp: int | None, pc: int | None, *, user: bool
) -> Iterator[Finding]:
    """An SP of the kernel's that the CPU would refuse; a program's is its own affair."""
    if user or sp is None or pc is None or sp % _ALIGNMENT == 0:
        return
    if not (cpu.get("sctlr_el1") or 0) & _SCTLR_SA:
        return
    symbol = kernel.symbol(pc)
    facts = MisalignedFacts(cpu=cpu.index, sp=VirtAddr(sp), pc=VirtAddr(pc), symbol=symbol)
    subject = "kernel" if symbol is None else _OFFSET.sub("", symbol)
    yield Finding(SP_MISALIGNED, subject, facts, Where(va=sp))
