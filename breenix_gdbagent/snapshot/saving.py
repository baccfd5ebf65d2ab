"""Saves a stop in one pass; the file appears only when it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from struct import pack
from typing import NamedTuple

from breenix_gdbagent.addresses import PAGE, PhysAddr
from breenix_gdbagent.arch.spaces import Stretch
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.memory import PhysicalMemory
from breenix_gdbagent.memory.corewriter import CoreWriter
from breenix_gdbagent.memory.elf import Note
from breenix_gdbagent.memory.mapped import MappedMemory
from breenix_gdbagent.snapshot.note import note_of
from breenix_gdbagent.snapshot.report_trailer import append_trailer
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.wholefile import appearing

_BLOCK = 1 << 20
_NOTHING = (PhysAddr(1 << 64), memoryview(b""))
_NT_AUXV = 6
_AT_ENTRY = 9


class Lacking(NamedTuple):
    """Pages of RAM that were to be kept and could not be read (None: all there are), and why."""

    pages: int | None
    reason: str


def save_snapshot(
    stop: Stop,
    path: Path,
    *,
    frames: Iterable[int] | None = None,
    extra: Mapping[str, Json] | None = None,
    report: Mapping[str, Json] | None = None,
) -> Lacking | None:
    """Writes `stop` to `path`, over what was there before. What it lacks then, None: nothing.

    `frames` are the physical addresses of the 4 KiB frames to keep (in any order; one that cannot
    be read is left out, and lacking when it is RAM), None for all that the memory has. `extra` is
    kept as it is, `report` in the trailer behind the core, and nothing else of this machine is.
    Raises `OutputError` when the file cannot be written; then, and when interrupted, `path` is as
    it was and nothing else remains.
    """
    with appearing(path) as out:
        writer = CoreWriter(out, stop.arch.elf_machine)
        if frames is None:
            lacking = _keep_all(writer, stop.memory)
        else:
            lacking = _keep(writer, stop.memory, sorted({frame & -PAGE for frame in frames}))
        notes = [cpu.arch.core_notes(cpu) for cpu in stop.cpus]
        general, full = [n[0] for n in notes], [one for n in notes for one in n[1:]]
        ours = note_of(stop, writer.zero_area(), extra or {})
        writer.finish([*general, *_auxiliary(stop), *full, ours], _seen_by_gdb(stop))
        if report is not None:
            append_trailer(out, report, None if stop.image is None else stop.image.image.sha256)
    if lacking is None and not stop.cpus and stop.memory.ram is None:
        return Lacking(None, stop.no_paging)
    return lacking


def _keep(writer: CoreWriter, memory: PhysicalMemory, frames: list[int]) -> Lacking | None:
    at = 0
    unread: list[str] = []
    while at < len(frames):
        start = frames[at]
        stop = at + 1
        while stop < len(frames) and frames[stop] == start + (stop - at) * PAGE:
            stop += 1
            if (stop - at) * PAGE >= _BLOCK:
                break
        unread += _keep_run(writer, memory, start, (stop - at) * PAGE)
        at = stop
    return Lacking(len(unread), unread[0]) if unread else None


def _keep_run(
    writer: CoreWriter, memory: PhysicalMemory, start: int, length: int
) -> Iterator[str]:
    """Keeps [start, start + length); where not all of it can be read, page by page. Why not, of
    each page of RAM that is left out."""
    try:
        writer.keep(start, memory.read(PhysAddr(start), length))
    except Unreadable as error:
        if length > PAGE:
            for pa in range(start, start + length, PAGE):
                yield from _keep_run(writer, memory, pa, PAGE)
        elif memory.ram is not None and memory.ram.holds(PhysAddr(start), PAGE):
            yield error.reason


def _keep_all(writer: CoreWriter, memory: PhysicalMemory) -> Lacking | None:
    """Everything the memory has; what `filled` skips of that is zero."""
    held = 0
    pieces = memory.filled()
    pa, piece = next(pieces, _NOTHING)
    for start, end in _spans(memory):
        held += end - start
        at = start
        while pa < end:
            writer.keep_zeros(at, pa - at)
            writer.keep(pa, piece)
            at = pa + len(piece)
            pa, piece = next(pieces, _NOTHING)
        writer.keep_zeros(at, end - at)
    ranges = [(r.start, r.end) for r in memory.ram.ranges] if memory.ram is not None else []
    missing = max(sum(end - start for start, end in _whole_pages(ranges)) - held, 0) // PAGE
    return Lacking(missing, "this stop does not hold them") if missing else None


def _spans(memory: PhysicalMemory) -> Iterator[tuple[int, int]]:
    """Whole pages that the memory has, in order."""
    if isinstance(memory, MappedMemory):
        parts = [(s.start, s.end) for s in memory.segments]
    elif memory.ram is not None:
        parts = [(r.start, r.end) for r in memory.ram.ranges]
    else:
        parts = [(pa, pa + len(piece)) for pa, piece in memory.filled()]
    yield from _whole_pages(parts)


def _whole_pages(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in parts:
        first, last = -(-start // PAGE) * PAGE, end // PAGE * PAGE
        if first < last:
            yield first, last


def _seen_by_gdb(stop: Stop) -> list[Stretch]:
    """What the tables of the CPU that the stop is about map: gdb sees memory as that CPU does."""
    if not stop.cpus:
        return []
    mode, root = stop.cpu.paging, stop.cpu.root
    if mode is None or root is None:
        return []
    return stop.arch.paging.stretches(Tables(stop.memory), root, mode)


def _auxiliary(stop: Stop) -> list[Note]:
    """NT_AUXV with the entry point, by which gdb knows where a kernel of ET_DYN was loaded.

    (gdb/solib-svr4.c, svr4_exec_displacement: AT_ENTRY less the ELF's own e_entry.)
    """
    if stop.image is None:
        return []
    entry = stop.image.va(stop.image.image.entry)
    return [Note("CORE", _NT_AUXV, pack("<4Q", _AT_ENTRY, entry, 0, 0))]
