"""What each glyph in a cell of the stack matrix says."""

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
