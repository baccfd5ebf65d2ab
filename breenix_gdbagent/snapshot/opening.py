"""Opens a snapshot: a core of ours, one of QEMU's, or a raw copy of RAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent.architectures import of_elf
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.memory import RamMap
from breenix_gdbagent.memory.core import OWNER, ElfCore
from breenix_gdbagent.memory.elf import WANTED, read_headers
from breenix_gdbagent.memory.elf_header import is_elf
from breenix_gdbagent.memory.mapped import MappedFile
from breenix_gdbagent.memory.ramfile import RamFile
from breenix_gdbagent.snapshot.note import VERSION, GarbledNote, ImageRecord, read_note
from breenix_gdbagent.stop import Stop, StopReason


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An opened file. Of a core that is not ours `version`, `image` and `extra` are None.

    `stop.image` is None in any case: the kernel's ELF is not in the file, `image` says which it is.
    """

    stop: Stop
    version: int | None = None
    image: ImageRecord | None = None
    extra: Mapping[str, Json] | None = None


def open_snapshot(path: Path, ram: RamMap | None = None) -> Stop:
    """The stop that the file holds, see `read_snapshot`."""
    return read_snapshot(path, ram).stop


def read_snapshot(path: Path, ram: RamMap | None = None) -> Snapshot:
    """Opens a snapshot of ours, a bare ELF core, or (with `ram`) a raw copy of RAM without CPUs.

    A bare core has no RAM map: `ram` gives it (`memory.ramfile.parse_ram_size`), else nothing can
    be called beyond RAM; of a snapshot of ours it replaces the one in the file.
    Raises `InputError` in one sentence for whatever is no such file, damaged, not complete, or of
    a newer version than this agent knows.
    """
    file = MappedFile(path)
    if ram is not None and not is_elf(bytes(file.data[:4])):
        return Snapshot(Stop(cpus=(), memory=RamFile(path, ram), reason=StopReason("core")))
    headers = read_headers(file.data, file.name)
    ours = next((note for note in headers.notes if note.owner == OWNER), None)
    if ours is None:
        # QEMU says x86-64 only when CPU 0 is in long mode (target/i386/arch_dump.c,
        # cpu_get_dump_info).
        arch = of_elf(headers.machine)
        cpus = arch.cpus_of_notes(headers.notes, long_mode=headers.machine == arch.elf_machine)
        if not cpus:
            raise InputError(
                f"{file.name} is an ELF core without the registers of any CPU", fix=WANTED
            )
        return Snapshot(Stop(cpus, ElfCore(file, headers, ram), StopReason("core")))
    if ours.type != VERSION:
        raise InputError(
            f"{file.name} is a snapshot of version {ours.type}; this agent knows {VERSION}",
            fix="open it with a newer breenix-gdbagent",
        )
    try:
        note = read_note(ours.data)
    except GarbledNote as garbled:
        raise InputError(
            f"{file.name} is damaged: its note of registers and serial text is garbled"
        ) from garbled
    stop = Stop(
        cpus=note.cpus,
        memory=ElfCore(file, headers, ram or note.ram, note.zeros),
        reason=note.reason,
        serial=note.serial,
        epoch=note.epoch,
        seconds=note.seconds,
        pic=note.pic,
        adapter=note.adapter,
    )
    return Snapshot(stop, ours.type, note.image, note.extra)
