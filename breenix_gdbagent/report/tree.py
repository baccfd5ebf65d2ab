"""Page tables as data for a page that opens them lazily: each table once, entries as runs."""

from __future__ import annotations

from collections.abc import Sequence

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.views.table_runs import TableAt, TableRuns


def build(found: TableRuns, roots: Sequence[str]) -> dict[str, Json]:
    """``tables``: ``FRAME.LEVEL`` (hexadecimal without 0x) -> runs ``[first index, count, entry,
    step]``, see `Run`. `roots` are those that the page begins with."""
    return {
        "levels": found.levels,
        "nxe": found.nxe,
        "roots": list(roots),
        "tables": {
            _key(at): [[run.first, run.length, f"{run.entry:x}", run.step] for run in runs]
            for at, runs in found.tables.items()
        },
        "unreadable": [_key(at) for at in found.unreadable],
    }


def _key(at: TableAt) -> str:
    return f"{at.frame:x}.{at.level}"
