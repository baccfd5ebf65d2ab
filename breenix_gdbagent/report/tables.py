"""Page tables in words and in JSON: the contract's `pt walk` and `pt roots`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.walks import Walk
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.fields import to_json
from breenix_gdbagent.report.model import ShownSpace
from breenix_gdbagent.report.shown_walk import shown_walk

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.spaces import Space

LEAST = 16  # columns of the text in a table's last column
MOST_DEAD = 8


def walk_text(walk: Walk, label: str | None, symbol: str | None) -> str:
    """The walk drawn level by level, the entry that stopped it marked. `label` is what its space
    is called, `symbol` what its address is, each None where that is not known."""
    from breenix_gdbagent.report import drawn  # not for answers in JSON, which draw nothing
    from breenix_gdbagent.report.page import Page

    names = {} if label is None else {hex64(walk.root): label}
    page = Page(100)
    drawn.walk(page, shown_walk(walk), names, "", symbol)
    return "\n".join(page.lines)


def spaces_text(spaces: Sequence[Space], none: str, width: int | None = None) -> str:
    """`pt roots` as a table, its last column wrapped to `width`; where there is nothing in it the
    sentence `none`. Roots of the dead, which a kernel leaves in RAM by the dozen, come last, and
    only the first `MOST_DEAD` of them."""
    if not spaces:
        return f"no root was found: {none}"
    longest = max((len(s.name or "") for s in spaces), default=0)
    column = max(longest, len("name"))
    lines = [f"{'root':<14} {'role':<8} {'live':<8} {'pid':>4}  {'name':<{column}}  found by"]
    dead = [s for s in spaces if s.live is False]
    for s in (*(s for s in spaces if s.live is not False), *dead[:MOST_DEAD]):
        live = {True: "yes", False: "no", None: "unknown"}[s.live]
        pid = "" if s.pid is None else str(s.pid)
        head = f"{hex64(s.root):<14} {s.role:<8} {live:<8} {pid:>4}  {s.name or '-':<{column}}  "
        lines += _hung(head, s.source, width)
    if len(dead) > MOST_DEAD:
        lines.append(
            f"and {len(dead) - MOST_DEAD} more that are dead: still in RAM, in use by nobody "
            "(pt roots --json has them)"
        )
    return "\n".join(lines)


def _hung(head: str, text: str, width: int | None) -> list[str]:
    """`text` behind `head`, its further lines below its first."""
    room = LEAST if width is None else max(width - len(head), LEAST)
    if width is None:
        parts = [text]
    else:
        import textwrap

        parts = textwrap.wrap(text, room) or [""]
    return [head + parts[0], *(" " * len(head) + part for part in parts[1:])]


def shown_space(space: Space) -> ShownSpace:
    """A root as reports have it."""
    return ShownSpace(
        hex64(space.root), space.role, space.live, space.pid, space.name, space.source
    )


def spaces_json(spaces: Sequence[Space]) -> list[Json]:
    """Every root (`pt roots --json` is this list)."""
    return [to_json(shown_space(space)) for space in spaces]
