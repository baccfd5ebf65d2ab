"""Segment descriptors as the CPU checks them when a selector is loaded (SDM vol. 3, 3.4 and 5)."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.cpumodel.context import GP, NP, Context, Raised
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.descriptors import Segment, parse_segment

SELECTOR = 0xFFFC  # of an error code: index and table, without RPL
TABLE_LOCAL = 1 << 2


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
        why = f"the {name} entry of selector {hex64(selector)} is not mapped"
        return Raised(fault.vector, fault.error_code, fault.address, why)
    return parse_segment(selector, context.read(at, 8))


def code_for_gate(context: Context, selector: int) -> Segment | Raised:
    """The code segment that a gate names, checked as for delivery to it (SDM vol. 3, 6.12.1.3):
    not null, a present 64-bit code segment of no less privilege."""
    if not selector & SELECTOR:
        return Raised(GP, 0, None, "the gate's selector is null")
    found = lookup(context, selector)
    if isinstance(found, Raised):
        return found
    error = selector & SELECTOR
    if not found.code:
        return Raised(GP, error, None, f"selector {hex64(selector)} is no code segment")
    if found.dpl > context.cpl:
        why = f"the code segment {hex64(selector)} is of ring {found.dpl}, less than ring "
        return Raised(GP, error, None, f"{why}{context.cpl}")
    if not found.present:
        return Raised(NP, error, None, f"the code segment {hex64(selector)} is not present")
    if not found.long or found.default_big:
        return Raised(GP, error, None, f"the code segment {hex64(selector)} is not 64-bit code")
    return found
