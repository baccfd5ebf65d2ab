"""Segment descriptors as the CPU checks them when a selector is loaded (SDM vol. 3, 3.4 and 5)."""

from __future__ import annotations

from dataclasses import replace

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.descriptors import Gate
from breenix_gdbagent.cpumodel.context import GP, NP, Context, Raised, refusal, vector_name
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.descriptors import Segment, parse_segment

SELECTOR = 0xFFFC  # of an error code: index and table, without RPL
TABLE_LOCAL = 1 << 2
ACCESSED, BUSY = 1 << 0, 1 << 1
"""Bits of a descriptor's type: of code and data segments, and of a TSS."""


def conforming(segment: Segment) -> bool:
    """A code segment that runs with the privilege of its caller (SDM vol. 3, 5.8.1.2)."""
    return segment.code and bool(segment.type & 4)


def writable_data(segment: Segment) -> bool:
    return not segment.system and not segment.type & 8 and bool(segment.type & 2)


def readable(segment: Segment) -> bool:
    """Data, or code that may be read."""
    return not segment.system and (not segment.type & 8 or bool(segment.type & 2))


def lookup(context: Context, selector: int) -> Segment | Raised:
    """The descriptor that a selector names, or what fetching it raises: #GP beyond the limit, #PF
    where the table is not mapped. Raises `ReadError` when the table's place is not known."""
    local = bool(selector & TABLE_LOCAL)
    name = "LDT" if local else "GDT"
    table = context.cpu.ldtr if local else context.cpu.gdtr
    if table is None:
        raise ReadError(f"{name}R is not known")
    offset = selector & ~7
    if table.limit is not None and offset + 7 > table.limit:
        why = f"selector {hex64(selector)} lies beyond the {name}, whose limit is {table.limit:#x}"
        return Raised(GP, selector & SELECTOR, table.base + offset, why)
    at = table.base + offset
    fault = context.page_fault(at, 8, "read", user=False)
    if fault is not None:
        why = f"the {name} entry of selector {hex64(selector)} {refusal(fault)}"
        return replace(fault, why=why, own=True)
    return parse_segment(selector, context.read(at, 8))


def runs_32_bit(context: Context) -> bool:
    """Whether the program's CS names code without the L bit, so that long mode runs it as 32-bit
    code: by the CPU's own copy of the descriptor, else by the GDT. False where it is not known."""
    if context.cs == context.cpu.get("cs") and context.cpu.code_64 is not None:
        return not context.cpu.code_64
    try:
        found = lookup(context, context.cs)
    except ReadError:
        return False
    return isinstance(found, Segment) and found.code and not found.long


def code_bits(context: Context) -> int:
    """64, or in compatibility mode 32 or 16 by the D bit of the program's code segment (32 where
    that is not known)."""
    if not runs_32_bit(context):
        return 64
    try:
        found = lookup(context, context.cs)
    except ReadError:
        return 32
    return 16 if isinstance(found, Segment) and found.code and not found.default_big else 32


def marked(context: Context, found: Segment, register: str) -> Raised | None:
    """What the CPU's own write of a descriptor raises that `register` is loaded with: the accessed
    bit of a code or data segment, the busy bit of a TSS, where it is clear (SDM vol. 3, 3.4.5.1 and
    7.2.2). QEMU writes the upper four bytes (target/i386/tcg/seg_helper.c, helper_load_seg and
    helper_ltr). None where it can be written, or is set already."""
    bit, name = (BUSY, "busy") if found.system else (ACCESSED, "accessed")
    if found.type & bit:
        return None
    local = bool(found.selector & TABLE_LOCAL)
    table = context.cpu.ldtr if local else context.cpu.gdtr
    if table is None:
        raise ReadError(f"{'LDT' if local else 'GDT'}R is not known")
    at = table.base + (found.selector & ~7) + 4
    fault = context.page_fault(at, 4, "write", user=False)
    if fault is None:
        return None
    entry = f"{'LDT' if local else 'GDT'} entry {found.selector >> 3}"
    why = f"{register} is loaded from {entry}, whose {name} bit is clear: the CPU sets it itself"
    return replace(fault, why=f"{why}, and that entry {refusal(fault)}", own=True)


def code_for_gate(context: Context, gate: Gate) -> Segment | Raised:
    """The code segment that a gate names, checked as for delivery to it (SDM vol. 3, 6.12.1.3):
    not null, a present 64-bit code segment of no less privilege."""
    selector, error = gate.selector, gate.selector & SELECTOR
    name = f"the gate of {vector_name(gate.vector)}"
    if not error:
        return Raised(GP, 0, None, f"{name} names the null selector")
    found = lookup(context, selector)
    if isinstance(found, Raised):
        return found
    named, vector = f"{name} names selector {hex64(selector)}", GP
    if not found.code:
        why = f"{named}, which is no code segment"
    elif found.dpl > context.cpl:
        why = f"{named}, a code segment of ring {found.dpl}, less than ring {context.cpl}"
    elif not found.present:
        vector, why = NP, f"{named}, a code segment that is not present"
    elif not found.long or found.default_big:
        why = f"{named}, which is not 64-bit code"
    else:
        return found
    return Raised(vector, error, None, why)
