"""Descriptor state: where a CPU finds its handlers and their stacks. An architecture without such
tables leaves it empty."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.addresses import VirtAddr


@dataclass(frozen=True, slots=True)
class Gate:
    """One 16-byte gate of the IDT. `type` is 0xE (interrupt) or 0xF (trap) when usable; `ist` is
    0 or the number 1 to 7 of a stack in the TSS."""

    vector: int
    offset: VirtAddr
    selector: int
    ist: int
    type: int
    dpl: int
    present: bool


@dataclass(frozen=True, slots=True)
class Tss:
    """The 64-bit TSS: stack tops for rings 0 to 2, `ist` the tops of IST1 to IST7."""

    rsp0: VirtAddr
    rsp1: VirtAddr
    rsp2: VirtAddr
    ist: tuple[VirtAddr, ...]
    iomap_base: int
