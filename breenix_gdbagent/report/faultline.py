"""What error codes and addresses of a fault mean, in words, without the machine at hand."""

from __future__ import annotations

from collections.abc import Iterator

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

FAMILY = {
    0: "divide-error", 6: "invalid-opcode", 8: "double-fault", 10: "exception.unhandled",
    11: "exception.unhandled", 12: "exception.unhandled", 13: "general-protection",
}  # fmt: skip


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
        # A guard page is below a kernel stack: ring 3 did not fall into one by itself.
        kernels = [] if meant.user else ["page-fault.guard-page", "page-fault.null"]
        return ["page-fault.unmapped", *kernels, "page-fault.handled"]
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


def in_guard_page(va: int) -> bool:
    """Whether `va` is in a guard page of Breenix's kernel stacks, of either era."""
    if DF_STACK[0] - 0x1000 <= va < DF_STACK[0]:
        return True
    return any(
        (va - KERNEL_STACKS) % era.slot_size < 0x1000
        for era in ERAS
        if 0 <= va - KERNEL_STACKS < era.stack_slots * era.slot_size
    )


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
