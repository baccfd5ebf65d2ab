"""``pt diff A B`` of two saved stops: what each space maps in one and not in the other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.spaces import Gap
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.mappings import changes_json, changes_text
from breenix_gdbagent.targets.saved import saved
from breenix_gdbagent.views.changes import Change, space_changes
from breenix_gdbagent.views.comparison import paired

TARGETS = ("lab", "breenix", "image", "config", "gdb", "replay", "snapshot")


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
    """0 when every space of one stop maps the same in the other, 1 when not or not all of it is
    known. Raises `InputError` for a file that is no snapshot."""
    adapter = getattr(options, "adapter", None)
    first, second = (
        Kernel(saved(Path(text), options.kernel, options.ram_size, adapter)[0])
        for text in (options.before, options.after)
    )
    told = [one for a, b in paired(first, second) if (one := _pair(first, a, second, b)).differs]
    if options.json:
        print_json(list[Json](_json(one) for one in told))
    else:
        print("\n\n".join(_text(one) for one in told) or _ALIKE)
    return 1 if told else 0


_ALIKE = "both stops have the same spaces, and each maps the same addresses with the same rights"


@dataclass(frozen=True, slots=True)
class Pair:
    """One space in both stops; `changes` None where one of them lacks it."""

    before: Space | None
    after: Space | None
    changes: Sequence[Change] | None
    gaps: Sequence[Gap] = ()

    @property
    def space(self) -> Space:
        """The space, of whichever stop has it."""
        one = self.before or self.after
        assert one is not None
        return one

    @property
    def differs(self) -> bool:
        return self.changes is None or bool(self.changes or self.gaps)


def _pair(first: Kernel, a: Space | None, second: Kernel, b: Space | None) -> Pair:
    if a is None or b is None:
        return Pair(a, b, None)
    before, after = first.merged.space(a.root), second.merged.space(b.root)
    return Pair(a, b, space_changes(before, after), (*before.gaps, *after.gaps))


def _json(one: Pair) -> dict[str, Json]:
    return {
        "role": one.space.role,
        "pid": one.space.pid,
        "name": one.space.name,
        "before": None if one.before is None else hex64(one.before.root),
        "after": None if one.after is None else hex64(one.after.root),
        "changes": None if one.changes is None else changes_json(one.changes, one.gaps),
    }


def _text(one: Pair) -> str:
    if one.changes is None:
        side = "B" if one.before is None else "A"
        return f"{one.space.label}, {hex64(one.space.root)}: only in {side}"
    roots = dict.fromkeys(hex64(s.root) for s in (one.before, one.after) if s is not None)
    return f"{one.space.label}, {' and '.join(roots)}\n{changes_text(one.changes, one.gaps)}"
