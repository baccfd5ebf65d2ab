"""The CPU of x86-64: its architecture is known once this is imported."""

from __future__ import annotations

from breenix_gdbagent.arch.cpu import Cpu, DescriptorTable, SystemSegment
from breenix_gdbagent.x86.architecture import X86_64
from breenix_gdbagent.x86.control import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR3_ADDRESS,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    LONGEST_INSTRUCTION,
    RESET_CR0,
    RFLAGS_IF,
    PagingMode,
)

__all__ = [
    "CR0_PE",
    "CR0_PG",
    "CR0_WP",
    "CR3_ADDRESS",
    "CR4_LA57",
    "CR4_PAE",
    "CR4_PKE",
    "CR4_SMAP",
    "CR4_SMEP",
    "EFER_LMA",
    "EFER_NXE",
    "LONGEST_INSTRUCTION",
    "RESET_CR0",
    "RFLAGS_IF",
    "X86_64",
    "Cpu",
    "DescriptorTable",
    "PagingMode",
    "SystemSegment",
]
