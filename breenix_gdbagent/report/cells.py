"""The stack matrix's cells: a glyph for each state of a stack in a space, and what it says."""

from breenix_gdbagent.views.stack_matrix import StackState

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

CELLS = {
    "-": "not mapped",
    "p": "some pages not mapped",
    "g": "guard page mapped",
    "u": "ring 3 can reach it",
    "r": "read-only",
    "d": "other frames than in the master",
    "x": "executable",
    "?": "not judged: tables not readable, or a stack in the making",
    ".": "as it should be",
}
"""Worst first."""
