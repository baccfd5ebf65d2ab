"""What stands in the way of mapping an address, and who shares each table on the way there."""

from __future__ import annotations

from collections.abc import Sequence

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.arch.walks import NOT_PRESENT
from breenix_gdbagent.checks.mapping import ALREADY_MAPPED, Level, Obstacle
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.x86.paging import LEVEL

MOST_NAMED = 4


def obstacle_json(found: Obstacle) -> dict[str, Json]:
    """One space's answer: whether a page is there, and each entry with those that share it."""
    shared = found.shared_from
    return {
        "root": hex64(found.space.root),
        "role": found.space.role,
        "pid": found.space.pid,
        "name": found.space.name,
        "va": hex64(found.va),
        "code": ALREADY_MAPPED.name if found.taken else None,
        "pa": None if found.walk.pa is None else hex64(found.walk.pa),
        "size": found.walk.size,
        "reason": found.walk.reason,
        "shared_from": None if shared is None else shared.entry.level,
        "levels": [
            {
                "level": one.entry.level,
                "entry_pa": hex64(one.entry.entry_pa),
                "entry": hex64(one.entry.raw),
                "shared_by": list[Json](hex64(s.root) for s in one.shared_by),
            }
            for one in found.levels
        ],
    }


def obstacles_text(found: Sequence[Obstacle]) -> str:
    """One paragraph for all spaces whose answer is the same but for the top entry."""
    return "\n\n".join(_paragraph(group) for group in _alike(found))


def _alike(found: Sequence[Obstacle]) -> list[list[Obstacle]]:
    groups: dict[tuple[object, ...], list[Obstacle]] = {}
    for one in found:
        below = tuple(level.entry.entry_pa for level in one.levels[1:])
        groups.setdefault((below, one.walk.pa, one.walk.reason), []).append(one)
    return list(groups.values())


def _paragraph(group: Sequence[Obstacle]) -> str:
    one = group[0]
    lines = [f"{hex64(one.va)} in {_names([o.space for o in group])}: {_state(one)}"]
    for level in one.levels:
        # The topmost entry is each space's own; only its table can be shared.
        own = level.entry.level == one.levels[0].entry.level
        lines.append(f"  {_entry(level)}  {'' if own else _sharers(level)}".rstrip())
    if one.taken or one.walk.reason == NOT_PRESENT:
        lines.append(f"  {_verdict(one)}")
    return "\n".join(lines)


def _state(one: Obstacle) -> str:
    if one.taken:
        return f"taken ({ALREADY_MAPPED.name}), mapped to {hex64(one.walk.pa or 0)}"
    if one.walk.reason != NOT_PRESENT:
        return f"nothing can be said: {one.walk.reason}"
    return "free"


def _entry(level: Level) -> str:
    name = LEVEL[level.entry.level].name
    index = (level.entry.entry_pa & 0xFFF) >> 3
    return f"{name:<4} [{index:3}]  {hex64(level.entry.entry_pa):>12}  {level.entry.raw:#018x}"


def _sharers(level: Level) -> str:
    return f"shared with {_names(level.shared_by)}" if level.shared_by else "of this space alone"


def _names(spaces: Sequence[Space]) -> str:
    names = ", ".join(s.label for s in spaces[:MOST_NAMED])
    more = len(spaces) - MOST_NAMED
    return f"{names} and {more} more" if more > 0 else names


def _verdict(one: Obstacle) -> str:
    shared = one.shared_from
    if shared is None:
        whose = "what is mapped here is mapped in this space alone"
    else:
        table = hex64(shared.entry.entry_pa & ~0xFFF)
        whose = (
            f"from the {LEVEL[shared.entry.level].name} at {table} on the tables are shared: "
            "what is mapped here is mapped for all of them"
        )
    return f"a map fails; {whose}" if one.taken else whose
