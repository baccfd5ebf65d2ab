"""Whether the kernel whose ELF is known runs yet, or its firmware or boot loader still does."""

from __future__ import annotations

from breenix_gdbagent.kernel.firmware_dump import firmware_dump
from breenix_gdbagent.kernel.view import Kernel

KERNELS = 1 << 32
"""No firmware's IDT lies above 4 GiB."""


def started(kernel: Kernel) -> bool:
    """Whether a kernel runs: its ELF has its place and a CPU is in it, with its code, its stack or
    its IDT, or a CPU has an IDT that no firmware has."""
    image = kernel.stop.image
    for cpu in kernel.stop.cpus:
        rip = cpu.at
        places = (rip, cpu.stack, cpu.idtr.base if cpu.idtr is not None else None)
        if image is not None and any(at is not None and image.holds(at) for at in places):
            return True
        if cpu.paging is not None and cpu.idtr is not None and cpu.idtr.base >= KERNELS:
            return True
    return False


def absent(kernel: Kernel) -> bool:
    """Whether the code of the ELF that is known was nowhere found: where one that is linked to a
    single place has that, nothing is mapped there."""
    image = kernel.stop.image
    if image is None:
        return kernel.stop.unplaced is not None
    text = image.image.text
    if text is None:
        return False
    roots = {cpu.root for cpu in kernel.stop.cpus if cpu.paging is not None}
    at = image.va(text.address)
    return all(root is None or not kernel.walk(root, at).mapped for root in roots)


def surely_before(kernel: Kernel) -> bool:
    """Whether what runs is no kernel: the one that is known has not started, and nothing of its one
    place is mapped, or the firmware printed that it caught an exception."""
    if not kernel.stop.cpus or started(kernel) or not absent(kernel):
        return False
    return kernel.stop.image is not None or firmware_dump(kernel.stop.serial) is not None
