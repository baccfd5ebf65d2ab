"""A stop out of a file: QEMU's own ELF core, a snapshot of ours, or a raw copy of RAM."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory import RamMap
from breenix_gdbagent.memory.core import ElfCore
from breenix_gdbagent.memory.elf import read_headers
from breenix_gdbagent.memory.mapped import MappedFile
from breenix_gdbagent.memory.ramfile import RamFile
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.x86.core_notes import cpus_of_notes


def open_snapshot(path: Path, ram: RamMap | None = None) -> Stop:
    """The stop that the file holds.

    A bare core has no RAM map: `ram` gives it (`memory.ramfile.parse_ram_size`), else nothing can
    be called beyond RAM. With `ram` a raw RAM file opens too; it has no CPUs.
    Raises `InputError` in one sentence for whatever is no such file, damaged or not complete.
    """
    file = MappedFile(path)
    if ram is not None and bytes(file.data[:4]) != b"\x7fELF":
        return Stop(cpus=(), memory=RamFile(path, ram), reason=StopReason("core"))
    headers = read_headers(file.data, file.name)
    cpus = cpus_of_notes(headers.notes)
    if not cpus:
        raise InputError(f"{file.name} is an ELF core without the registers of any CPU")
    return Stop(cpus=cpus, memory=ElfCore(file, headers, ram), reason=StopReason("core"))
