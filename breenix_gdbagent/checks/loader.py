"""What goes wrong before the kernel: the firmware caught an exception, or a loader hangs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from breenix_gdbagent.addresses import Hex, VirtAddr
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.checks.facts import ASIDE, IF_KNOWN, Facts
from breenix_gdbagent.checks.finding import Finding, Where, declare
from breenix_gdbagent.cpumodel.context import PF, vector_name
from breenix_gdbagent.kernel.firmware_dump import FirmwareDump, firmware_dump
from breenix_gdbagent.kernel.started import absent, started
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import walk
from breenix_gdbagent.x86.pe import image_holding

_GAVE_UP = re.compile(
    r"UEFI Interactive Shell|BdsDxe: No bootable option|No bootable device|^grub(?: rescue)?> ?"
    r"|^error: .*(?:not found|no such|unknown|invalid|unrecogni[sz]ed|can't|cannot)"
    r"|^(?:limine: |PANIC: )|^Failed to boot both default and fallback entries"
)
"""OVMF and its shell, SeaBIOS, GRUB, Limine: nothing is booted from there on."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_GRUB_GAVE_UP, _GRUB_ERROR = "Failed to boot both", "error: "

LOADER_FAULT = declare(
    "loader-fault",
    "error",
    "it went wrong before the kernel had started",
    arises="The boot loader, or a driver of the firmware, faulted: UEFI prints the exception on "
    "its console and spins. Or the loader gave up and halts: no kernel on the disk, no memory, a "
    "kernel that it cannot load.",
    confirm="The serial text has `!!!! X64 Exception Type`, or the loader's last words; the "
    "kernel's ELF is not in memory, or has not loaded its IDT.",
    mend="Look at the loader: its version, its configuration, where it loads the kernel to, and "
    "how much RAM the machine has. RIP less the image's base is the place in the loader's file.",
    kind="run",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderFacts(Facts):
    """What the firmware printed of an exception, and where the CPU stands. `base` is that of the
    image that RIP is in (its own header in memory, or the firmware's word), `agrees` whether CR2
    and CR3 of a CPU are still those that were printed, `gives` the error code that the tables give
    for that access. Without a dump (`vector` None) the loader hangs."""

    vector: Annotated[int | None, IF_KNOWN]
    exception: Annotated[str | None, IF_KNOWN]
    error_code: Annotated[Hex | None, IF_KNOWN]
    rip: VirtAddr
    rsp: Annotated[VirtAddr | None, IF_KNOWN]
    cr2: Annotated[VirtAddr | None, IF_KNOWN]
    cr3: Annotated[Hex | None, IF_KNOWN]
    base: Annotated[VirtAddr | None, IF_KNOWN]
    entry: Annotated[VirtAddr | None, IF_KNOWN]
    image: Annotated[str | None, IF_KNOWN]
    agrees: Annotated[bool | None, IF_KNOWN]
    mode: Annotated[str, ASIDE]
    gives: Annotated[int | None, ASIDE]
    says: Annotated[str, ASIDE]


def fault(kernel: Kernel, *, still: bool) -> Finding | None:
    """The finding where the kernel has not started; None where it has, or nothing shows that what
    comes before it has failed. `still`: nothing moves any more."""
    dump = firmware_dump(kernel.stop.serial)
    if started(kernel):
        return None
    if dump is not None:
        return _printed(kernel, dump)
    if not absent(kernel):
        return None
    gave_up = _last_words(kernel)
    return _stands(kernel, gave_up) if gave_up or (still and kernel.stop.cpus) else None


def _last_words(kernel: Kernel) -> str:
    """The line by which a firmware or a loader says that it goes no further, empty where none
    does."""
    lines = _lines(kernel)
    found = next(filter(_GAVE_UP.search, lines), "")
    if not found.startswith(_GRUB_GAVE_UP):
        return found
    return next((line for line in lines if line.startswith(_GRUB_ERROR)), found)


def _lines(kernel: Kernel) -> list[str]:
    """What was printed, line by line, without what only moves the cursor of a terminal."""
    plain = (_ESCAPES.sub("", line).strip() for line in kernel.stop.serial.lines())
    return [line for line in plain if line]


def never_started(kernel: Kernel) -> str:
    """In what state the CPU is where the kernel whose ELF is known was never started, empty where
    it was, or that is not known."""
    before = bool(kernel.stop.cpus) and absent(kernel) and not started(kernel)
    return kernel.stop.cpu.privilege if before else ""


def _printed(kernel: Kernel, dump: FirmwareDump) -> Finding:
    about = [cpu for cpu in kernel.stop.cpus if cpu.get("cr3") == dump.cr3]
    page_fault = dump.vector == PF
    agrees = any(not page_fault or cpu.get("cr2") == dump.cr2 for cpu in about)
    facts = LoaderFacts(
        vector=dump.vector,
        exception=vector_name(dump.vector),
        error_code=None if dump.error_code is None else Hex(dump.error_code),
        rip=dump.rip,
        rsp=dump.rsp,
        cr2=dump.cr2 if page_fault else None,
        cr3=Hex(dump.cr3),
        base=dump.base if dump.base is not None else _base(kernel, about[:1], dump.rip),
        entry=dump.entry,
        image=dump.image,
        agrees=agrees if kernel.stop.cpus else None,
        mode="",
        gives=_given(kernel, about, dump) if page_fault else None,
        says="",
    )
    root = about[0].root if about else None
    return Finding(
        LOADER_FAULT,
        "firmware",
        facts,
        Where(root=root, va=dump.cr2 if page_fault else None),
        confidence="proved" if agrees else "likely",
    )


def _given(kernel: Kernel, about: list[Cpu], dump: FirmwareDump) -> int | None:
    """The error code that the tables give for the access that was printed."""
    from breenix_gdbagent.x86.control import PagingMode
    from breenix_gdbagent.x86.exceptions import PageFaultCode
    from breenix_gdbagent.x86.verdict import Access, verdict

    mode, root = (PagingMode.of(about[0]), about[0].root) if about else (None, None)
    if mode is None or root is None or dump.error_code is None:
        return None
    way = walk(kernel.tables, root, dump.cr2, mode.levels)
    access = Access(PageFaultCode(dump.error_code).access, dump.cs & 3)
    return verdict(way, access, mode).error_code


def _base(kernel: Kernel, about: list[Cpu], rip: int) -> VirtAddr | None:
    if not about or about[0].root is None or about[0].paging is None:
        return None
    return image_holding(kernel.memory_of(about[0].root).read, rip)


def _stands(kernel: Kernel, gave_up: str) -> Finding:
    cpu = kernel.stop.cpu
    lines = _lines(kernel)
    errors = [line for line in lines if line.startswith(_GRUB_ERROR)]
    says = gave_up or next(iter(errors[-1:] or lines[-1:]), "")
    facts = LoaderFacts(
        vector=None,
        exception=None,
        error_code=None,
        rip=VirtAddr(cpu.at or 0),
        rsp=None,
        cr2=None,
        cr3=None,
        base=_base(kernel, [cpu], cpu.at or 0),
        entry=None,
        image=None,
        agrees=None,
        mode=cpu.privilege,
        gives=None,
        says=says,
    )
    return Finding(LOADER_FAULT, "loader", facts, confidence="likely")
