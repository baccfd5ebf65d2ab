"""What a page shows of a stop beyond the report document: every range, the tables, the whole log.

It is read while the stop is at hand; a report out of a file whose memory is gone does without.
"""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.arch.spaces import Range
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import SerialText
from breenix_gdbagent.views.call_trace import trace_of_cpu
from breenix_gdbagent.views.machine_state import MachineState, machine_state
from breenix_gdbagent.views.space_map import MOST_SPACES
from breenix_gdbagent.views.table_runs import TableRuns, table_runs
from breenix_gdbagent.x86.mapped_space import Spaces
from breenix_gdbagent.x86.paging import index_at, same_table


@dataclass(frozen=True, slots=True)
class MappedPiece:
    """One range of a space, and the frame of its first page."""

    range: Range
    pa: int | None


@dataclass(frozen=True, slots=True)
class StopDetail:
    """`pieces` are, for each shown space by its root, its ranges without the repetitions of
    neighbouring slots that name one table, None where they cannot be read; `files` the source
    files, as DWARF names them, of the frames that the CPUs are in; `state` what they and the kernel
    hold."""

    pieces: dict[int, tuple[MappedPiece, ...]] | None
    tables: TableRuns
    serial: SerialText
    files: tuple[str, ...]
    state: MachineState


def stop_detail(kernel: Kernel) -> StopDetail:
    """The detail of a stop, for the spaces that `space_map` shows. Never raises."""
    try:
        roots = [int(space.root) for space in kernel.audited[:MOST_SPACES]]
    except ReadError:
        roots = []
    try:
        pieces = {root: _pieces(kernel, root) for root in roots}
    except ReadError:
        pieces = None
    return StopDetail(
        pieces,
        table_runs(kernel, roots),
        kernel.stop.serial,
        _files(kernel),
        machine_state(kernel),
    )


def _pieces(kernel: Kernel, root: int) -> tuple[MappedPiece, ...]:
    spaces = Spaces(kernel.tables, kernel.levels, kernel.nxe)
    entries = kernel.tables.table(root).tolist()
    found = []
    for one in spaces.space(root).ranges:
        slot = index_at(one.start, kernel.levels)
        # Neighbouring slots that name one table hold the same thing again.
        if slot and same_table(entries[slot], entries[slot - 1]):
            continue
        found.append(MappedPiece(one, kernel.walk(root, one.start).pa))
    return tuple(found)


def _files(kernel: Kernel) -> tuple[str, ...]:
    traces = (trace_of_cpu(kernel, cpu) for cpu in kernel.stop.cpus)
    found = (spot.file for one in traces for chain in one.spots for spot in chain if spot.file)
    return tuple(dict.fromkeys(found))
