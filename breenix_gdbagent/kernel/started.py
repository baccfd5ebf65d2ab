"""Whether the kernel whose ELF is known runs yet, or its firmware or boot loader still does."""

from __future__ import annotations

from breenix_gdbagent.kernel.view import Kernel

KERNELS = 1 << 32
"""No firmware's IDT lies above 4 GiB."""


def started(kernel: Kernel) -> bool:
    """Whether a kernel runs: its ELF has its place and a CPU is in it, or a CPU has an IDT that no
    firmware has."""
    image = kernel.stop.image
    for cpu in kernel.stop.cpus:
        rip = cpu.get("rip")
        if image is not None and rip is not None and image.holds(rip):
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
