"""Values out of the human monitor's text, which is no stable interface: read defensively.

What is not understood is left out (None, an empty map), never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.memory.interface import RamMap, RamRange
from breenix_gdbagent.x86.cpu import DescriptorTable, SystemSegment

# Compiled at their first use, which most starts of the agent do not come to.
_VIEW = r"^FlatView #"
_RANGE = (
    r"^\s*([0-9a-f]{8,16})-([0-9a-f]{8,16}) \(prio -?\d+, (ram|rom)\): "
    r"(.*?)(?: @([0-9a-f]{8,16}))?(?: KVM)?\s*$"
)
_CPU = r"^CPU#(\d+)\s*$"
_TABLE = r"^(GDT|IDT)=\s+([0-9a-f]+) ([0-9a-f]+)"
_SEGMENT = r"^(TR|LDT)\s*=([0-9a-f]{4}) ([0-9a-f]+) ([0-9a-f]+)"
_HALTED = r"\bHLT=([01])\b"
_EFER = r"\bEFER=([0-9a-f]+)"
_RIP = r"\b[RE]IP=([0-9a-f]+)"


def parse_ram_map(text: str) -> RamMap:
    """Where RAM is, from ``info mtree -f``: the parts of the block that holds address 0.

    Only what the CPUs see ("memory"): video RAM and ROMs are other blocks, and what of RAM lies
    behind the BIOS is not there. Parts of RAM that are write-protected for now (shadowed BIOS,
    ``rom``) can be read all the same.
    """
    for view in re.split(_VIEW, text, flags=re.MULTILINE):
        if 'AS "memory"' not in view:
            continue
        rows = [
            (int(start, 16), int(end, 16) + 1, name, int(offset or "0", 16))
            for start, end, _, name, offset in re.findall(_RANGE, view, flags=re.MULTILINE)
        ]
        names = [name for start, _, name, _ in rows if start == 0]
        ours = sorted((a, b, at) for a, b, name, at in rows if name in names)
        joined: list[RamRange] = []
        for start, end, at in ours:
            if end <= start or (joined and start < joined[-1].end):
                return RamMap([])  # no view that we understand
            if joined and joined[-1].end == start:
                last = joined[-1]
                if last.offset + last.end - last.start == at:
                    joined[-1] = RamRange(last.start, PhysAddr(end), last.offset)
                    continue
            joined.append(RamRange(PhysAddr(start), PhysAddr(end), at))
        return RamMap(joined)
    return RamMap([])


class HiddenRegisters(NamedTuple):
    """What of one CPU the gdbstub does not have."""

    gdtr: DescriptorTable | None = None
    idtr: DescriptorTable | None = None
    tr: SystemSegment | None = None
    ldtr: SystemSegment | None = None
    halted: bool | None = None
    efer: int | None = None
    rip: int | None = None


def parse_registers(text: str) -> Mapping[int, HiddenRegisters]:
    """By CPU index, from ``info registers -a`` (or without -a: one CPU, index 0)."""
    parts = re.split(_CPU, text, flags=re.MULTILINE)
    if len(parts) == 1:
        return {0: _hidden(text)} if re.search(_TABLE, text, flags=re.MULTILINE) else {}
    return {int(parts[i]): _hidden(parts[i + 1]) for i in range(1, len(parts) - 1, 2)}


def _hidden(text: str) -> HiddenRegisters:
    tables = {
        name: DescriptorTable(VirtAddr(int(base, 16)), int(limit, 16))
        for name, base, limit in re.findall(_TABLE, text, flags=re.MULTILINE)
    }
    segments = {
        name: SystemSegment(int(selector, 16), VirtAddr(int(base, 16)), int(limit, 16))
        for name, selector, base, limit in re.findall(_SEGMENT, text, flags=re.MULTILINE)
    }
    halted, efer, rip = re.search(_HALTED, text), re.search(_EFER, text), re.search(_RIP, text)
    return HiddenRegisters(
        gdtr=tables.get("GDT"),
        idtr=tables.get("IDT"),
        tr=segments.get("TR"),
        ldtr=segments.get("LDT"),
        halted=None if halted is None else halted[1] == "1",
        efer=None if efer is None else int(efer[1], 16),
        rip=None if rip is None else int(rip[1], 16),
    )
