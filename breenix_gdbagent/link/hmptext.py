"""Values out of the human monitor's text, which is no stable interface: read defensively.

What is not understood is left out (None, an empty map), never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch.cpu import DescriptorTable, SystemSegment
from breenix_gdbagent.memory.interface import RamMap, RamRange
from breenix_gdbagent.x86.pic import Chip, Pic

_PIC = (
    r"^\s*pic([01]): irr=([0-9a-f]{2}) imr=([0-9a-f]{2}) isr=([0-9a-f]{2}) .*irq_base=([0-9a-f]{2})"
)
# Compiled at their first use, which most starts of the agent do not come to.
_RANGE = (
    r"^\s*([0-9a-f]{8,16})-([0-9a-f]{8,16}) \(prio -?\d+, (ram|rom)\): "
    r"(.*?)(?: @([0-9a-f]{8,16}))?(?: KVM)?\s*$"
)
_CLOCK = r"^\s*([0-9a-f]{8,16})-[0-9a-f]{8,16} \(prio -?\d+, i/o\): acpi-tmr\s*$"
_REGISTER = (
    r"^(GDT|IDT)= +([0-9a-f]+) ([0-9a-f]+)"
    r"|^(TR|LDT) *=([0-9a-f]{4}) ([0-9a-f]+) ([0-9a-f]+)"
    r"|\b(HLT|EFER|RIP|EIP)=([0-9a-f]+)\b"
    r"|^CS *=.* (CS16|CS32|CS64) "
)


def parse_ram_map(text: str) -> RamMap:
    """Where RAM is, from ``info mtree -f``: the parts of the block that holds address 0, or where
    none does (``virt`` of aarch64 has its flash there) of the largest one.

    Only what the CPUs see ("memory"): video RAM and ROMs are other blocks, and what of RAM lies
    behind the BIOS is not there. Parts of RAM that are write-protected for now (shadowed BIOS,
    ``rom``) can be read all the same.
    """
    for view in f"\n{text}".split("\nFlatView #"):
        if 'AS "memory"' not in view:
            continue
        found = re.findall(_RANGE, view, flags=re.MULTILINE)
        rows = [
            (int(start, 16), int(end, 16) + 1, name, int(offset or "0", 16))
            for start, end, _, name, offset in found
        ]
        names = [name for start, _, name, _ in rows if start == 0]
        if not names:
            sizes = [(b - a, row[3]) for (a, b, *_), row in zip(rows, found, strict=True)
                     if row[2] == "ram"]  # fmt: skip
            names = [max(sizes)[1]] if sizes else []
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


def parse_clock_port(text: str) -> int | None:
    """The I/O port of the ACPI timer, from ``info mtree -f``; None: this machine has none, or its
    firmware has not put it anywhere yet. It counts QEMU's virtual clock at 3,579,545 Hz, which
    stands still while the guest does (QEMU hw/acpi/core.c; ACPI 6.5, 4.8.3.3), and to read it
    changes nothing."""
    found = re.search(_CLOCK, text, flags=re.MULTILINE)
    return int(found[1], 16) if found is not None else None


def parse_port(text: str) -> int | None:
    """What an I/O port holds, from ``i /w PORT``; None where nothing answers there."""
    found = re.search(r"= 0x([0-9a-f]+)\s*$", text)
    value = int(found[1], 16) if found is not None else None
    return None if value == 0xFFFFFFFF else value


def parse_pic(text: str) -> Pic | None:
    """The interrupt controllers, from ``info pic``; None where this machine has none."""
    chips = {
        int(row[0]): Chip(*(int(row[i], 16) for i in (4, 1, 2, 3)))
        for row in re.findall(_PIC, text, flags=re.MULTILINE)
    }
    return Pic(chips[0], chips[1]) if {0, 1} <= chips.keys() else None


def parse_phys_bits(text: str) -> int | None:
    """How many bits physical addresses have, from ``qom-get CPU phys-bits``; None: not told. QEMU's
    own least and most are 32 and 52 (target/i386/cpu.c, x86_cpu_realizefn)."""
    found = re.fullmatch(r"\s*([0-9]{2})\s*", text)
    return int(found[1]) if found is not None and 32 <= int(found[1]) <= 52 else None


class HiddenRegisters(NamedTuple):
    """What of one CPU the gdbstub does not have."""

    gdtr: DescriptorTable | None = None
    idtr: DescriptorTable | None = None
    tr: SystemSegment | None = None
    ldtr: SystemSegment | None = None
    halted: bool | None = None
    efer: int | None = None
    rip: int | None = None
    code_64: bool | None = None


def parse_registers(text: str) -> Mapping[int, HiddenRegisters]:
    """By CPU index, from ``info registers -a`` (or without -a: one CPU, index 0)."""
    found = {}
    for part in f"\n{text}".split("\nCPU#")[1:] or [f"0\n{text}"]:
        number, _, told = part.partition("\n")
        hidden = _hidden(told)
        if number.strip().isdecimal() and hidden != HiddenRegisters():
            found[int(number)] = hidden
    return found


def _hidden(text: str) -> HiddenRegisters:
    tables: dict[str, DescriptorTable] = {}
    segments: dict[str, SystemSegment] = {}
    plain: dict[str, int] = {}
    code_64: bool | None = None
    for row in re.findall(_REGISTER, text, flags=re.MULTILINE):
        table, base, limit, segment, selector, start, size, name, value, code = row
        if table:
            tables[table] = DescriptorTable(VirtAddr(int(base, 16)), int(limit, 16))
        elif segment:
            where = VirtAddr(int(start, 16))
            segments[segment] = SystemSegment(int(selector, 16), where, int(size, 16))
        elif code:
            code_64 = code == "CS64"
        else:
            plain.setdefault(name, int(value, 16))
    halted = plain.get("HLT")
    return HiddenRegisters(
        gdtr=tables.get("GDT"),
        idtr=tables.get("IDT"),
        tr=segments.get("TR"),
        ldtr=segments.get("LDT"),
        halted=bool(halted) if halted in (0, 1) else None,
        efer=plain.get("EFER"),
        rip=plain.get("RIP", plain.get("EIP")),
        code_64=code_64,
    )
