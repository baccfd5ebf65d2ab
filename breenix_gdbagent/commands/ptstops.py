"""``pt diff A B`` of two saved stops: what each space maps in one and not in the other."""

from __future__ import annotations

import argparse
from pathlib import Path

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.diff import paired
from breenix_gdbagent.report.mappings import (
    Change,
    changes,
    changes_json,
    changes_text,
    merged_changes,
)
from breenix_gdbagent.targets.saved import saved

TARGETS = ("lab", "breenix", "image", "gdb", "snapshot")


def named_by(options: argparse.Namespace) -> bool:
    """Whether the two sides are files, and so stops of their own. Raises `InputError` where a
    target is named besides."""
    files = [Path(text).is_file() for text in (options.before, options.after)]
    if not all(files):
        return False
    if any(getattr(options, name) is not None for name in TARGETS):
        raise InputError("two saved stops and a target besides", fix="leave the target out")
    return True


def between(options: argparse.Namespace) -> int:
    """0 when every space of one stop maps the same in the other, 1 when not. Raises `InputError`
    for a file that is no snapshot."""
    first, second = (
        Kernel(saved(Path(text), options.kernel, options.ram_size)[0])
        for text in (options.before, options.after)
    )
    found = [(a, b, _changes(first, a, second, b)) for a, b in paired(first, second)]
    told = [one for one in found if one[2] is None or one[2]]
    if options.json:
        print_json(list[Json](_json(*one) for one in told))
    else:
        print("\n\n".join(_text(*one) for one in told) or _ALIKE)
    return 1 if told else 0


_ALIKE = "both stops have the same spaces, and each maps the same addresses with the same rights"


def _changes(
    first: Kernel, a: Space | None, second: Kernel, b: Space | None
) -> list[Change] | None:
    """None where one stop lacks the space."""
    if a is None or b is None:
        return None
    return merged_changes(
        changes(first.merged.space(a.root).ranges, second.merged.space(b.root).ranges)
    )


def _json(a: Space | None, b: Space | None, found: list[Change] | None) -> dict[str, Json]:
    space = a or b
    assert space is not None
    return {
        "role": space.role,
        "pid": space.pid,
        "name": space.name,
        "before": None if a is None else hex64(a.root),
        "after": None if b is None else hex64(b.root),
        "changes": None if found is None else changes_json(found),
    }


def _text(a: Space | None, b: Space | None, found: list[Change] | None) -> str:
    space = a or b
    assert space is not None
    if found is None:
        return f"{space.label}, {hex64(space.root)}: only in {'B' if a is None else 'A'}"
    roots = dict.fromkeys(hex64(s.root) for s in (a, b) if s is not None)
    return f"{space.label}, {' and '.join(roots)}\n{changes_text(found)}"
