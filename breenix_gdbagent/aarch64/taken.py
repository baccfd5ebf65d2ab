"""The exception for which a CPU is in a vector, out of ESR, FAR, ELR and SPSR of EL1."""

from __future__ import annotations

import struct
from collections.abc import Callable

from breenix_gdbagent.aarch64.paging import rights
from breenix_gdbagent.aarch64.registers import PSTATE_PAN, exception_level
from breenix_gdbagent.aarch64.syndrome import (
    ACCESS_FLAG,
    CM,
    FNV,
    IL,
    PERMISSION,
    SIZE,
    TRANSLATION,
    WNR,
    Syndrome,
)
from breenix_gdbagent.aarch64.translation import Translation
from breenix_gdbagent.aarch64.vectors import EL0_SERROR, EL1_SERROR, EL1_SYNC, SP0_SERROR
from breenix_gdbagent.aarch64.verdict import Access, verdict
from breenix_gdbagent.addresses import NEAR_NULL, hex64
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.taken import Refusal, Taken
from breenix_gdbagent.arch.walks import NON_CANONICAL, Walk
from breenix_gdbagent.errors import ReadError

UNDEFINED, TRAPPED, ILLEGAL_STATE, PC_ALIGNMENT = 0x00, 0x18, 0x0E, 0x22
SERRORS = (EL1_SERROR, EL0_SERROR, SP0_SERROR)
_COMPARED = 0x3F << 26 | IL | CM | WNR | 0x3F
"""Of ESR_EL1 what the tables decide: class, access, status."""
_BLR, _BLR_MASK = 0xD63F0000, 0xFFFFFC1F
FRAME = 0x110
"""So far below SP a vector's first store is looked for: a frame of all registers."""

_KEPT = tuple(n for n in range(1, 30) if n not in (16, 17))
"""Registers that a kernel's entry leaves alone until it has looked at the class of an exception."""

Walker = Callable[[int, int], Walk]
Reader = Callable[[int, int], bytes]


def taken(cpu: Cpu, vector: int, walk: Walker, read: Reader) -> Taken:
    """`walk(root, va)` and `read(va, length)` are of the stop. Raises `ReadError`."""
    names = ("esr_el1", "elr_el1", "spsr_el1")
    esr, elr, spsr = (cpu.get(name) for name in names)
    mode = Translation.of(cpu)
    if esr is None or elr is None or spsr is None or mode is None:
        lacking = [n for n, v in zip(names, (esr, elr, spsr), strict=True) if v is None]
        raise ReadError(f"{' and '.join(lacking) or 'SCTLR_EL1, TCR_EL1'} of CPU {cpu.index}")
    user = exception_level(spsr) == 0
    sp = cpu.get("sp_el0" if user or vector < EL1_SYNC else "sp") or 0
    syndrome = Syndrome(esr)
    again = "" if user else _comes_again(cpu, mode, walk)
    plain = Taken(vector, esr, syndrome.name, "other", user, elr, sp, spsr, comes_again=again)
    if vector in SERRORS:
        return plain._replace(says="SError interrupt")
    if syndrome.is_abort:
        return _abort(cpu, plain, syndrome, mode._replace(pan=bool(spsr & PSTATE_PAN)), walk, read)
    if syndrome.ec in (UNDEFINED, TRAPPED):
        return plain._replace(refusal="undefined")
    if syndrome.ec == ILLEGAL_STATE:
        return plain._replace(refusal="bad-return")
    if syndrome.ec == PC_ALIGNMENT and not _called(cpu, elr, read):
        return plain._replace(refusal="bad-return")
    return plain


def _abort(
    cpu: Cpu, plain: Taken, syndrome: Syndrome, mode: Translation, walk: Walker, read: Reader
) -> Taken:
    fault, far = syndrome.fault, cpu.get("far_el1")
    assert fault is not None
    says = f"{plain.says}: {fault.words}"
    if far is None or plain.code & FNV:
        return plain._replace(says=says)
    way = walk(cpu.root or 0, far)
    el = 0 if plain.from_user else 1
    access = Access(syndrome.access, el, maintenance=bool(plain.code & CM))
    judged = fault.kind in (TRANSLATION, ACCESS_FLAG, PERMISSION, SIZE)
    predicted = None
    if judged:
        try:
            abort = verdict(way, access, mode)
        except LookupError:
            judged, abort = False, None
        if abort is not None:
            same = abort.esr & _COMPARED == plain.code & _COMPARED
            predicted = plain.code if same else abort.esr
    refusal: Refusal = "other"
    if judged:
        refusal = _refusal(fault.kind, access, way, mode, far)
    if refusal in ("null", "smep", "supervisor-only") and access.kind == "fetch":
        returned = not _called(cpu, far, read)
        says += "; nothing called it, so that a return (ERET) led there" if returned else ""
        if returned:
            refusal = "bad-return" if refusal != "null" else "null"
    return plain._replace(
        says=says,
        refusal=refusal,
        address=far,
        access=access.kind,
        level=fault.level,
        walk=way,
        predicted=predicted,
        judged=judged,
    )


def _refusal(kind: str, access: Access, way: Walk, mode: Translation, far: int) -> Refusal:
    if way.reason == NON_CANONICAL:
        return "non-canonical"
    if kind == TRANSLATION:
        return "null" if far < NEAR_NULL else "unmapped"
    if kind == ACCESS_FLAG:
        return "access-flag"
    if kind == SIZE:
        return "address-size"
    if not way.mapped:
        return "other"
    may = rights(way, mode)
    if access.el == 0:
        if not may.el0_read:
            return "supervisor-only"
        return "no-execute" if access.kind == "fetch" else "write-protected"
    if access.kind == "fetch":
        return "smep" if may.el0_read else "no-execute"
    if mode.pan and may.el0_read:
        return "smap"
    return "write-protected"


def _called(cpu: Cpu, target: int, read: Reader) -> bool:
    """Whether the program has come to `target` by a call or a return of its own: X30 is behind a
    BLR of a register that holds it, or is it. A branch (BR) may have been it too, where some
    register still has the address; of those only that of a call is believed."""
    link = cpu.get("x30")
    if link == target:
        # A return, unless every register is 0: then it is a context that was never filled.
        return bool(target) or any(cpu.get(f"x{n}") for n in _KEPT)
    if link is None:
        return True
    try:
        (word,) = struct.unpack("<I", read(link - 4, 4))
    except ReadError:
        return False
    return word & _BLR_MASK == _BLR and cpu.get(f"x{word >> 5 & 31}") == target


def _comes_again(cpu: Cpu, mode: Translation, walk: Walker) -> str:
    """Why what a vector of EL1 saves on SP_EL1 cannot be saved, "" where it can."""
    sp, pc = cpu.get("sp"), cpu.get("pc")
    if sp is None or pc is None:
        return ""
    try:
        if verdict(walk(cpu.root or 0, pc), Access("fetch", 1), mode) is not None:
            return f"the vector at {hex64(pc)} cannot be executed itself"
    except LookupError:
        return ""
    for at in (sp - 8, sp - FRAME):
        try:
            abort = verdict(walk(cpu.root or 0, at), Access("write", 1), mode)
        except LookupError:
            return ""
        if abort is not None:
            return f"the handler's stack cannot be written at {hex64(at)}: {abort.fault.words}"
    return ""
