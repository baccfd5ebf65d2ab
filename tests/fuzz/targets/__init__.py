"""All targets by name; a file here has those of one kind."""

from __future__ import annotations

from tests.fuzz.targets import files, link, symbols, tables, text

TARGETS = {
    target.name: target for room in (link, files, symbols, tables, text) for target in room.TARGETS
}
