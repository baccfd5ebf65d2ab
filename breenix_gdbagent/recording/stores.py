"""One replay with the plugin in QEMU: every store into a physical range, in order."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError, LinkClosed, QemuDied
from breenix_gdbagent.memory import RamMap
from breenix_gdbagent.recording.manifest import Manifest
from breenix_gdbagent.recording.plugin import candidates
from breenix_gdbagent.recording.replaying import ReplayVm, open_replay

_RECORD = struct.Struct("<7Q")
RECORDS = "stores"


class Store(NamedTuple):
    """One word that a store wrote: `icount` is the instruction's own number, one too high for each
    instruction that faulted before it. With `rip` None nothing that stores was seen: it had changed
    between the record before and `icount`."""

    icount: int
    rip: int | None
    va: int
    pa: int
    before: int
    after: int
    size: int


def stores_into(
    directory: Path, manifest: Manifest, ram: RamMap, low: int, high: int
) -> list[Store] | None:
    """Every store into physical [`low`, `high`), multiples of 8 in one range of RAM; None where no
    plugin can be loaded here. Raises `InputError`, `LinkError`, `QemuError`."""
    place = ram.find(low)
    if place is None or high > place.end:
        raise InputError(f"physical {hex64(low)} is in no RAM of this machine")
    for plugin in candidates():
        where = f"lo={low:#x},hi={high:#x},at={place.offset + low - place.start:#x}"
        words = ("-plugin", f"{{plugin}},{where},ram={{ram}},out={{run}}/{RECORDS}")
        try:
            vm = open_replay(directory, manifest, more=words, values={"plugin": str(plugin)})
        except (QemuDied, LinkClosed):
            continue  # it cannot be loaded into this QEMU: the next one may
        with vm:
            return _played(vm)
    return None


def _played(vm: ReplayVm) -> list[Store]:
    assert vm.ram_file is not None
    vm.run()
    vm.quit()
    data = (vm.ram_file.parent / RECORDS).read_bytes()
    return _records(data, vm.manifest.begin)


def _records(data: bytes, begin: int) -> list[Store]:
    out = []
    for count, rip, va, pa, before, after, size in _RECORD.iter_unpack(data):
        out.append(Store(begin + count - 1, rip if size else None, va, pa, before, after, size))
    return out
