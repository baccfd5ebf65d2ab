"""Which architectures there are, and which one a file or a guest is of: the one place that chooses.

A room for another architecture is entered here, and nowhere else.
"""

from __future__ import annotations

from breenix_gdbagent.aarch64.architecture import AARCH64
from breenix_gdbagent.arch.cpu import Arch
from breenix_gdbagent.x86.architecture import X86_64

ARCHITECTURES: tuple[Arch, ...] = (X86_64, AARCH64)


def of_program(qemu: str) -> Arch:
    """The architecture that a program of QEMU's emulates (``qemu-system-x86_64``)."""
    suffix = qemu.rpartition("-")[2]
    return next((one for one in ARCHITECTURES if suffix in one.qemu_names), ARCHITECTURES[0])


def of_elf(machine: int) -> Arch:
    """The architecture of an ELF file's e_machine; the first for what is none of them (QEMU writes
    its cores of a CPU that is not in long mode as 32-bit x86)."""
    return next((one for one in ARCHITECTURES if one.elf_machine == machine), ARCHITECTURES[0])


def of_stub(told: str) -> Arch:
    """The architecture that a gdbstub's target description names."""
    return next((one for one in ARCHITECTURES if told in one.stub_names), ARCHITECTURES[0])
