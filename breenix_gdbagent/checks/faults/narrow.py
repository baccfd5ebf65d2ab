"""A program of ring 3 that runs as 32-bit code without being one: how the kernel sent it there."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.cpumodel.context import Context
from breenix_gdbagent.cpumodel.selectors import runs_32_bit
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory.elf_header import PF_X, PT_LOAD

_SYSRET = b"\x0f\x07"
_REX_W = range(0x48, 0x50)


def advice(kernel: Kernel, context: Context) -> str:
    """What to do about ring 3 in compatibility mode, empty where it is in 64-bit mode."""
    if context.cpl != 3 or not runs_32_bit(context):
        return ""
    found = sysretl_at(kernel)
    where = "" if found is None else f": the kernel has one at {kernel.describe(found)}"
    return (
        f"CS {hex64(context.cs)} is of 32-bit code. If the program is 64-bit code, it was returned "
        f"to by a `sysret` without REX.W (sysretl){where}, or by a frame with the wrong CS: write "
        "sysretq (48 0f 07), and give iretq the 64-bit code segment."
    )


def sysretl_at(kernel: Kernel) -> int | None:
    """Where the kernel's ELF has a `sysret` that returns to 32-bit code, None where it has none."""
    image = kernel.stop.image
    if image is None:
        return None
    for segment in image.image.segments:
        if segment.type != PT_LOAD or not segment.flags & PF_X:
            continue
        code = image.image.read(segment.vaddr, segment.filesz) or b""
        at = code.find(_SYSRET)
        while at >= 0:
            if at and code[at - 1] not in _REX_W:
                return int(image.va(segment.vaddr + at))
            at = code.find(_SYSRET, at + 1)
    return None
