"""Every walk that the captures know, answered by us: entries, address, size, rights, reason.

The truth was computed by others and compared with QEMU's `gva2gpa` and `info tlb`.
"""

from __future__ import annotations

from typing import Any

import pytest

from breenix_gdbagent.errors import NotMapped, Unreadable
from breenix_gdbagent.memory.core import ElfCore
from breenix_gdbagent.x86.paging import Tables, Walk, translate, walk
from tests.unit.captures import NAMES, capture, truth_of

ASKED = {"root", "va", "kind", "pa_in_full_memory"}
"""Of a walk: the question, and what only all of RAM could answer."""


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _said(found: Walk, told: dict[str, Any]) -> dict[str, Any]:
    """What we say, of each thing that the truth tells."""
    effective = found.effective
    rights = None if effective is None else {"w": effective.w, "u": effective.u, "nx": effective.nx}
    said: dict[str, Any] = {
        "entries": [hex(e.raw) for e in found.entries],
        "entry_pas": [hex(e.entry_pa) for e in found.entries],
        "pa": _hex(found.pa),
        "size": found.size,
        "page": found.size,
        "perm": rights,
        "reason": {None: "mapped", "unreadable": "table-not-in-core"}.get(
            found.reason, found.reason
        ),
        "stopped_at": found.leaf.level if found.leaf else found.stopped_at,
        "why": "non-canonical"
        if found.reason == "non-canonical"
        else f"{(found.reason or '').replace('-', ' ')} at level {found.stopped_at}",
        "linux_pa": _hex(found.pa),
    }
    said |= rights or {"w": None, "u": None, "nx": None}
    return {key: said[key] for key in told if key in said}


@pytest.mark.parametrize("name", NAMES)
def test_every_walk_is_as_the_truth_says(name: str) -> None:
    truth: Any = truth_of(name)
    tables = Tables(ElfCore.open(capture(name) / "core.elf"))
    assert len(truth["walks"]) >= 180
    for told in truth["walks"]:
        found = walk(tables, int(told["root"], 16), int(told["va"], 16))
        expected = {k: v for k, v in told.items() if k not in ASKED}
        if told["pa"] is None:
            expected.pop("linux_pa", None)  # Linux knows the frame of a PROT_NONE page, the CPU not
            told = {k: v for k, v in told.items() if k != "linux_pa"}
        assert _said(found, told) == expected, told


@pytest.mark.parametrize("name", NAMES)
def test_readers_arrive_where_the_walk_does(name: str) -> None:
    truth: Any = truth_of(name)
    tables = Tables(ElfCore.open(capture(name) / "core.elf"))
    for told in truth["walks"]:
        try:
            pa: str | None = hex(translate(tables, int(told["root"], 16), int(told["va"], 16))[0])
        except (NotMapped, Unreadable):
            pa = None
        assert pa == told["pa"], told
