"""Saves a stop: all of it in one pass, and the file appears only when it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from struct import pack

from breenix_gdbagent.addresses import PAGE, PhysAddr
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.memory import PhysicalMemory
from breenix_gdbagent.memory.corewriter import CoreWriter
from breenix_gdbagent.memory.elf import Note
from breenix_gdbagent.memory.mapped import MappedMemory
from breenix_gdbagent.snapshot.kept import keep
from breenix_gdbagent.snapshot.note import note_of
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.wholefile import appearing
from breenix_gdbagent.x86.core_notes import prstatus_note, qemu_note
from breenix_gdbagent.x86.paging import Tables
from breenix_gdbagent.x86.runs import Run, mapped_runs

_BLOCK = 1 << 20
_NOTHING = (PhysAddr(1 << 64), memoryview(b""))
_NT_AUXV = 6
_AT_ENTRY = 9


def save_snapshot(
    stop: Stop,
    path: Path,
    *,
    frames: Iterable[int] | None = None,
    extra: Mapping[str, Json] | None = None,
    report: Mapping[str, Json] | None = None,
) -> None:
    """Writes `stop` to `path`, over what was there before.

    `frames` are the physical addresses of the 4 KiB frames to keep (in any order; one that cannot
    be read is left out), None for all that the memory has. `extra` is kept as it is, `report` as
    `snapshot.kept` has it, and nothing else of this machine is. Raises `OutputError` when the file
    cannot be written; then, and when interrupted, `path` is as it was and nothing else remains.
    """
    with appearing(path) as out:
        writer = CoreWriter(out)
        if frames is None:
            _keep_all(writer, stop.memory)
        else:
            _keep(writer, stop.memory, sorted({frame & -PAGE for frame in frames}))
        general = [prstatus_note(cpu) for cpu in stop.cpus]
        full = [qemu_note(cpu) for cpu in stop.cpus]
        ours = note_of(stop, writer.zero_area(), extra or {})
        writer.finish([*general, *_auxiliary(stop), *full, ours], _seen_by_gdb(stop))
        if report is not None:
            keep(out, report, None if stop.image is None else stop.image.image.sha256)


def _keep(writer: CoreWriter, memory: PhysicalMemory, frames: list[int]) -> None:
    at = 0
    while at < len(frames):
        start = frames[at]
        stop = at + 1
        while stop < len(frames) and frames[stop] == start + (stop - at) * PAGE:
            stop += 1
            if (stop - at) * PAGE >= _BLOCK:
                break
        _keep_run(writer, memory, start, (stop - at) * PAGE)
        at = stop


def _keep_run(writer: CoreWriter, memory: PhysicalMemory, start: int, length: int) -> None:
    """Keeps [start, start + length); where not all of it can be read, page by page."""
    try:
        writer.keep(start, memory.read(PhysAddr(start), length))
    except Unreadable:
        if length > PAGE:
            for pa in range(start, start + length, PAGE):
                _keep_run(writer, memory, pa, PAGE)


def _keep_all(writer: CoreWriter, memory: PhysicalMemory) -> None:
    """Everything the memory has; what `filled` skips of that is zero."""
    pieces = memory.filled()
    pa, piece = next(pieces, _NOTHING)
    for start, end in _spans(memory):
        at = start
        while pa < end:
            writer.keep_zeros(at, pa - at)
            writer.keep(pa, piece)
            at = pa + len(piece)
            pa, piece = next(pieces, _NOTHING)
        writer.keep_zeros(at, end - at)


def _spans(memory: PhysicalMemory) -> Iterator[tuple[int, int]]:
    """Whole pages that the memory has, in order."""
    if isinstance(memory, MappedMemory):
        parts = [(s.start, s.end) for s in memory.segments]
    elif memory.ram is not None:
        parts = [(r.start, r.end) for r in memory.ram.ranges]
    else:
        parts = [(pa, pa + len(piece)) for pa, piece in memory.filled()]
    for start, end in parts:
        first, last = -(-start // PAGE) * PAGE, end // PAGE * PAGE
        if first < last:
            yield first, last


def _seen_by_gdb(stop: Stop) -> list[Run]:
    """What the tables of the CPU that the stop is about map: gdb sees memory as that CPU does."""
    if not stop.cpus:
        return []
    mode, root = stop.cpu.paging, stop.cpu.root
    if mode is None or root is None:
        return []
    return mapped_runs(Tables(stop.memory), root, mode.levels)


def _auxiliary(stop: Stop) -> list[Note]:
    """NT_AUXV with the entry point, by which gdb knows where a kernel of ET_DYN was loaded.

    (gdb/solib-svr4.c, svr4_exec_displacement: AT_ENTRY less the ELF's own e_entry.)
    """
    if stop.image is None:
        return []
    entry = stop.image.va(stop.image.image.entry)
    return [Note("CORE", _NT_AUXV, pack("<4Q", _AT_ENTRY, entry, 0, 0))]
