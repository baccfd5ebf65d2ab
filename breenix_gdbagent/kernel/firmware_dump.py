"""The exception that UEFI firmware caught and printed: before the kernel, it is the only handler.

Source: EDK II, UefiCpuPkg/Library/CpuExceptionHandlerLib/X64/ArchExceptionHandler.c
(DumpCpuContext) and CpuExceptionCommon.c (DumpModuleImageInfo).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.stop import SerialText

_HEAD = re.compile(
    r"!!!! X64 Exception Type - ([0-9A-Fa-f]{2})\((.*?)\)\s+CPU Apic ID - ([0-9A-Fa-f]{8}) !!!!"
)
_VALUE = re.compile(r"\b([A-Z][A-Z0-9]{1,6}|ExceptionData)\s+- ([0-9A-Fa-f]{16})")
_CODE = re.compile(r"ExceptionData - ([0-9A-Fa-f]{16})")
_IMAGE = re.compile(
    r"!!!! (?:Find image based on IP\(0x[0-9A-Fa-f]+\) )?(?P<name>.*?) ?"
    r"\(ImageBase=(?P<base>[0-9A-Fa-f]{16}), EntryPoint=(?P<entry>[0-9A-Fa-f]{16})\) !!!!"
)
DUMPED = r"!!!! (?:Find image based on|Can't find image|.*\(ImageBase=)"
"""A regular expression of the last line of it, after which the firmware spins."""

_UNNAMED = "(No PDB)"
_NEEDED = frozenset({"RIP", "CS", "RFLAGS", "RSP", "SS", "CR2", "CR3"})


@dataclass(frozen=True, slots=True)
class FirmwareDump:
    """What the firmware printed of one exception. `error_code` is None where the vector has none,
    `base` and `entry` are those of the image that RIP is in and `image` its file, where it said."""

    vector: int
    error_code: int | None
    rip: VirtAddr
    cs: int
    rflags: int
    rsp: VirtAddr
    ss: int
    cr2: VirtAddr
    cr3: int
    base: VirtAddr | None = None
    entry: VirtAddr | None = None
    image: str | None = None


def firmware_dump(serial: SerialText) -> FirmwareDump | None:
    """The first exception that the firmware printed on any port; None where there is none, or its
    text is cut short."""
    for port in serial.ports:
        text = serial.port(port).replace("\r", "")
        head = _HEAD.search(text)
        if head is not None:
            return _read(int(head[1], 16), text[head.end() :].split("!!!! X64 Exception", 1)[0])
    return None


def _read(vector: int, text: str) -> FirmwareDump | None:
    found = {name: int(value, 16) for name, value in reversed(_VALUE.findall(text))}
    if not found.keys() >= _NEEDED:
        return None
    code, image = _CODE.search(text), _IMAGE.search(text)
    name = image["name"].strip() if image is not None else ""
    return FirmwareDump(
        vector=vector,
        error_code=int(code[1], 16) if code is not None else None,
        rip=VirtAddr(found["RIP"]),
        cs=found["CS"],
        rflags=found["RFLAGS"],
        rsp=VirtAddr(found["RSP"]),
        ss=found["SS"],
        cr2=VirtAddr(found["CR2"]),
        cr3=found["CR3"],
        base=VirtAddr(int(image["base"], 16)) if image is not None else None,
        entry=VirtAddr(int(image["entry"], 16)) if image is not None else None,
        image=name if name and name != _UNNAMED else None,
    )
