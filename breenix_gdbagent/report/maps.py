"""The document's ``maps``: the stack matrix and what each space maps, in JSON.

Every output format draws from these values, so live and offline draw the same.
"""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.mappings import rights
from breenix_gdbagent.views.space_map import Region, SpaceMap
from breenix_gdbagent.views.stack_matrix import StackRow, StackState

GLYPHS = {
    StackState.UNMAPPED: "-",
    StackState.PARTLY_UNMAPPED: "p",
    StackState.GUARD_MAPPED: "g",
    StackState.USER_ACCESSIBLE: "u",
    StackState.READ_ONLY: "r",
    StackState.OTHER_FRAMES: "d",
    StackState.EXECUTABLE: "x",
    StackState.NOT_COMPARED: "?",
    StackState.SOUND: ".",
}
"""How the stack matrix draws each state; `cells.py` says what the glyphs mean."""


def build(found: SpaceMap) -> dict[str, Json]:
    """The document's ``maps``; ``reason`` says why there is nothing in it."""
    return {
        "spaces": [hex64(s.root) for s in found.spaces],
        "left_out": found.left_out,
        "stacks": [_row(row) for row in found.stacks.rows],
        "common": [_region(region) for region in found.common],
        "own": [[_region(region) for region in own] for own in found.own],
        "reason": found.reason,
    }


def _row(row: StackRow) -> Json:
    stack = row.stack
    return {
        "stack": stack.name,
        "bottom": hex64(stack.bottom),
        "top": hex64(stack.top),
        "guard": None if stack.guard is None else hex64(stack.guard),
        "ist": stack.ist,
        "cells": "".join(GLYPHS[state] for state in row.states),
        "users": list(row.users),
    }


def _region(region: Region) -> Json:
    return {
        "start": hex64(region.start),
        "last": hex64(region.end - 1),
        "slots": [region.first_slot, region.last_slot],
        "mapped": region.mapped,
        "rights": [rights(right) for right in region.rights],
        "holds": region.holds,
        "in_master": region.in_master,
    }
