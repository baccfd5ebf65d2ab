"""Fault lines as Breenix prints them, read and put into words without the machine at hand.

What the kernel says (kernel/src/interrupts.rs, both eras)::

    PAGE FAULT at 0x50000000 Error Code: 0x4
    [DIAG:PAGEFAULT] Fault addr: 0x7fffff033010      and Error code, RIP, CS, RFLAGS, RSP, SS, CR3
    Accessed Address: VirtAddr(0x50000000)           Error Code: PageFaultErrorCode(USER_MODE)
    PF @ 0x7fffff033010 Error: 0x6 (P=0, W=1, U=1, I=0)
    [DIAG:GPF] ... and [DIAG:DOUBLEFAULT] ...         the same fields
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from breenix_gdbagent.addresses import NEAR_NULL, canonical, counted, hex64
from breenix_gdbagent.kernel.breenix.layout import (
    DF_STACK,
    ERAS,
    HEAP_START,
    KERNEL_STACKS,
    PF_STACK,
    USER_LIMIT,
)
from breenix_gdbagent.x86.exceptions import PageFaultCode, SelectorCode

_NUMBER = r"(?:VirtAddr\()?(0x[0-9a-fA-F_]+)"
_ADDRESS = re.compile(rf"(?:PAGE FAULT at|PF @|Fault addr:|Accessed Address:|CR2:) *{_NUMBER}")
_ERROR = re.compile(rf"Error(?: [Cc]ode)?: *(?:PageFaultErrorCode\()?{_NUMBER}", re.IGNORECASE)
_NAMED = re.compile(r"Error(?: [Cc]ode)?: *PageFaultErrorCode\(\s*([A-Z][A-Z_ |\s]*?),?\s*\)")
_BITS = {
    "PROTECTION_VIOLATION": 1, "CAUSED_BY_WRITE": 2, "USER_MODE": 4, "MALFORMED_TABLE": 8,
    "INSTRUCTION_FETCH": 16, "PROTECTION_KEY": 32, "SHADOW_STACK": 64, "HLAT": 128,
    "SGX": 1 << 15, "RMP": 1 << 31,
}  # fmt: skip
"""As the x86_64 crate prints the bits of a ``PageFaultErrorCode`` (structures/idt.rs)."""
_FIELD = re.compile(rf"\b(RIP|CS|RSP|SS|CR3|RFLAGS): *{_NUMBER}")
_KINDS = (
    (8, re.compile(r"DIAG:DOUBLEFAULT|DOUBLE FAULT")),
    (13, re.compile(r"DIAG:GPF|GENERAL PROTECTION")),
    (14, re.compile(r"DIAG:PAGEFAULT|PAGE FAULT|\bPF @")),
    (6, re.compile(r"INVALID OPCODE")),
    (12, re.compile(r"STACK SEGMENT FAULT")),
    (0, re.compile(r"DIVIDE BY ZERO")),
)
FAMILY = {
    0: "divide-error", 6: "invalid-opcode", 8: "double-fault", 12: "exception.unhandled",
    13: "general-protection",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FaultLine:
    """What a pasted text says of one fault; None for what it does not say."""

    vector: int | None = None
    address: int | None = None
    error_code: int | None = None
    rip: int | None = None
    cs: int | None = None
    rsp: int | None = None
    cr3: int | None = None


def parse(text: str) -> FaultLine | None:
    """The first fault that `text` tells of, None where it tells of none."""
    vector = next((number for number, shape in _KINDS if shape.search(text)), None)
    address, error = _ADDRESS.search(text), _error_code(text)
    if vector is None and (address is None or error is None):
        return None
    found = FaultLine(
        14 if vector is None else vector,
        _value(address[1]) if address else None,
        error,
    )
    for name, digits in _FIELD.findall(text):
        if name in ("RIP", "CS", "RSP", "CR3") and getattr(found, name.lower()) is None:
            found = replace(found, **{name.lower(): _value(digits)})
    return found


def _error_code(text: str) -> int | None:
    """The first error code, as a number or as the names of its bits; None with a name unknown."""
    number, named = _ERROR.search(text), _NAMED.search(text)
    if named is None or (number is not None and number.start() < named.start()):
        return _value(number[1]) if number else None
    bits = [_BITS.get(name.strip()) for name in named[1].split("|")]
    return sum(bit for bit in bits if bit is not None) if None not in bits else None


def _value(digits: str) -> int:
    return int(digits.replace("_", ""), 16)


def page_fault_sentence(code: int) -> str:
    """``a write in ring 3 to an address that nothing maps``."""
    meant = PageFaultCode(code)
    verb = {"fetch": "an instruction fetch", "write": "a write", "read": "a read"}[meant.access]
    ring = "in ring 3" if meant.user else "by the kernel or the CPU itself"
    if meant.reserved:
        why = "through an entry with a reserved bit set"
    elif not meant.present:
        why = "to an address that nothing maps (an entry on the way has P clear)"
    elif meant.protection_key:
        why = "to a page whose protection key forbids it"
    elif meant.access == "fetch":
        why = "from a page that is mapped but not executable for it"
    elif meant.access == "write":
        why = "to a page that is mapped but not writable for it"
    else:
        why = "to a page that is mapped but not readable for it"
    return f"{verb} {ring} {why}"


def page_fault_bits(code: int) -> list[str]:
    """The bits in words: P, W, U and I always, the others where they are set."""
    meant = PageFaultCode(code)
    bits = [
        "P=1: a translation exists and does not allow this access (protection violation)"
        if meant.present
        else "P=0: there is no translation, an entry was not present",
        "W=1: the access was a write" if code & 2 else "W=0: the access was no write",
        "U=1: ring 3 asked" if code & 4 else "U=0: the kernel asked, or the CPU on its behalf",
        "I=1: the access was an instruction fetch"
        if code & 16
        else "I=0: no fetch (or a fetch with both NXE and SMEP off)",
    ]
    if meant.reserved:
        bits.append("RSVD=1: an entry on the way has a reserved bit set")
    if meant.protection_key:
        bits.append("PK=1: a protection key forbids it")
    if code & 64:
        bits.append("SS=1: a shadow-stack access")
    if meant.undefined:
        bits.append(f"{hex64(meant.undefined)}: no page fault sets these: not a #PF error code?")
    if code in (1, 3):
        bits.append(
            "Breenix's memory-debugging notes call 0x1 and 0x3 a non-present page: with P=1 it is "
            "a protection violation, the page is there"
        )
    return bits


def codes_of_page_fault(code: int) -> list[str]:
    """The finding codes that an error code leaves open, likeliest first."""
    meant = PageFaultCode(code)
    if meant.reserved:
        return ["page-fault.reserved-bit"]
    if not meant.present:
        fetch = ["page-fault.null"] if not meant.user else []
        return ["page-fault.unmapped", "page-fault.guard-page", *fetch, "page-fault.handled"]
    if meant.access == "fetch":
        if meant.user:
            return ["page-fault.supervisor-only", "page-fault.no-execute"]
        return ["page-fault.no-execute", "page-fault.smep"]
    if meant.user:
        first = ["page-fault.supervisor-only"]
        return (["page-fault.write-protected"] if code & 2 else []) + first + ["page-fault.handled"]
    last = ["page-fault.smap", "page-fault.stale-tlb"]
    return (["page-fault.write-protected"] if code & 2 else []) + last


def selector_words(code: int) -> str:
    """What the same number means for #TS, #NP, #SS and #GP."""
    if not code:
        return "no selector is to blame"
    meant = SelectorCode(code)
    external = ", while an event from outside was delivered" if meant.external else ""
    if meant.table == "idt":
        return f"IDT entry {meant.index}{external}"
    return f"{meant.table.upper()} entry {meant.index}, selector {hex64(meant.selector)}{external}"


def place_words(va: int) -> str | None:
    """What an address is by Breenix's layout alone, None where that tells nothing."""
    if not canonical(va):
        return "not a canonical address: an access to it raises #GP or #SS, never #PF"
    if va < NEAR_NULL:
        return f"a null pointer, field at {hex64(va)}" if va else "a null pointer"
    if DF_STACK[0] <= va < DF_STACK[1]:
        return "the IST stack of #DF"
    if PF_STACK[0] <= va < PF_STACK[1]:
        return "the IST stack of #PF"
    if DF_STACK[0] - 0x1000 <= va < DF_STACK[0]:
        below = counted(DF_STACK[0] - va, "byte")
        return f"{below} below the IST stack of #DF: an IST stack overflowed"
    if KERNEL_STACKS <= va < max(era.stacks_end for era in ERAS):
        return "; ".join(_stack_words(va))
    if HEAP_START <= va < HEAP_START + (64 << 20):
        return "the kernel heap (64 MiB in 2026, its first MiB in 2025)"
    if va < USER_LIMIT:
        if va >= 0x7FFF_FF00_0000:
            return "the region of user stacks: 2026 grows one on a fault up to 64 KiB below it"
        if 0x4000_0000 <= va < 0x8000_0000:
            return "user code and data"
    return None


def _stack_words(va: int) -> Iterator[str]:
    for era in reversed(ERAS):
        offset = va - KERNEL_STACKS
        slot, inside = divmod(offset, era.slot_size)
        if slot >= era.stack_slots:
            continue
        if inside < 0x1000:
            yield f"{era.name}: the guard page of kernel stack slot {slot} (an overflow)"
        else:
            below = era.slot_size - inside
            yield f"{era.name}: kernel stack slot {slot}, {counted(below, 'byte')} below its top"
