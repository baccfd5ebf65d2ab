"""A stop in a file and out of it: a snapshot of ours, QEMU's own ELF core, a raw copy of RAM.

A snapshot is an ELF core as QEMU writes it, with one note more (`snapshot.note`), so that gdb,
readelf and whatever reads QEMU's cores opens it.
"""

from __future__ import annotations

from breenix_gdbagent.snapshot.note import ImageRecord
from breenix_gdbagent.snapshot.opening import Snapshot, open_snapshot, read_snapshot
from breenix_gdbagent.snapshot.saving import save_snapshot

__all__ = ["ImageRecord", "Snapshot", "open_snapshot", "read_snapshot", "save_snapshot"]
