"""One physical frame in words and in JSON: who maps it, as what, and what the allocator says."""

from __future__ import annotations

from collections.abc import Sequence

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.report.mappings import rights
from breenix_gdbagent.report.wording.addresses import address
from breenix_gdbagent.views.frame_users import FrameAsTable, FrameMapping, FrameUsers

MOST_NAMED = 4
STATES = {
    "allocated": "the allocator gave it out",
    "free": "the allocator has it as free",
    "never": "the allocator never gave it out",
    None: "it is none of the allocator's",
}


def who_json(found: FrameUsers) -> dict[str, Json]:
    """`pt who --json`: every mapping and every use as a table; `ram` and `allocator` null where
    that is not known, `reason` then says why the allocator's word is missing."""
    return {
        "pa": hex64(found.pa),
        "mappings": [_mapping(one) for one in found.mappings],
        "tables": [
            {
                **_owner(one.use.root, one.space),
                "level": one.use.level,
                "va": hex64(one.use.va),
                "entry_pa": None if one.use.entry_pa is None else hex64(one.use.entry_pa),
                "aliases": one.use.aliases,
            }
            for one in found.tables
        ],
        "ram": found.ram,
        "allocator": found.allocator,
        "reason": found.no_allocator,
    }


def _mapping(one: FrameMapping) -> dict[str, Json]:
    m = one.mapping
    return {
        **_owner(m.root, one.space),
        "va": hex64(m.va),
        "size": m.size,
        "effective": {"w": m.effective.w, "u": m.effective.u, "nx": m.effective.nx},
        "entry_pa": hex64(m.entry_pa),
        "level": m.level,
        "aliases": m.aliases,
        "kind": one.kind.name,
    }


def _owner(root: int, space: Space | None) -> dict[str, Json]:
    return {
        "root": hex64(root),
        "pid": space.pid if space is not None else None,
        "name": space.name if space is not None else None,
        "role": space.role if space is not None else "unknown",
    }


def who_text(found: FrameUsers) -> str:
    """Who maps a physical address and as what, and who uses its frame as a page table; spaces that
    do the same are told together."""
    lines = [f"physical {hex64(found.pa)}: {_state(found)}"]
    alike: dict[tuple[object, ...], list[FrameMapping]] = {}
    for one in found.mappings:
        m = one.mapping
        alike.setdefault((m.va, m.effective, m.level, m.aliases), []).append(one)
    lines += [_mapped(found, group) for group in alike.values()]
    uses: dict[tuple[object, ...], list[FrameAsTable]] = {}
    for use in found.tables:
        uses.setdefault((use.use.level, use.use.va, use.use.aliases), []).append(use)
    lines += [_table(group) for group in uses.values()]
    if len(lines) == 1:
        lines.append("  no known space maps it or uses it as a table")
        if found.as_virtual is not None:
            pa = hex64(found.as_virtual)
            lines.append(f"  as a virtual address it leads to physical {pa}: who {pa}")
    return "\n".join(lines)


def _state(found: FrameUsers) -> str:
    if found.ram is False:
        return "no RAM, a device's or a hole"
    place = "RAM" if found.ram else "whether it is RAM is not known"
    if found.no_allocator is not None:
        return f"{place}; the allocator's word is not known: {found.no_allocator}"
    return f"{place}; {STATES.get(found.allocator, STATES[None])}"


def _mapped(found: FrameUsers, group: Sequence[FrameMapping]) -> str:
    m = group[0].mapping
    names = _names([(one.mapping.root, one.space) for one in group])
    entries = _entries([one.mapping.entry_pa for one in group], m.aliases)
    return (
        f"  mapped at {hex64(m.va)} {rights(m.effective)} in {names}\n"
        f"    {_kind(found, group[0])}level {m.level} entry at {entries}"
    )


def _kind(found: FrameUsers, one: FrameMapping) -> str:
    """What lies there, where that is known: of another kernel than Breenix nothing is."""
    if not found.is_breenix:
        return ""
    if one.mapping.va == found.pa and not one.mapping.effective.u:
        return "an identity map for the kernel alone, "
    return f"{address(one.kind)}, "


def _table(group: Sequence[FrameAsTable]) -> str:
    t = group[0].use
    entries = [one.use.entry_pa for one in group if one.use.entry_pa is not None]
    by = f"named by the entry at {_entries(entries, t.aliases)}" if entries else "the root itself"
    who = _names([(one.use.root, one.space) for one in group])
    return f"  a level {t.level} table of {who}, for {hex64(t.va)} on,\n    {by}"


def _entries(entries: Sequence[int], aliases: int) -> str:
    """The entry of the first space, and whether the others have it in common."""
    own = " (the others have their own)" if len(set(entries)) > 1 else ""
    others = counted(aliases - 1, "more address", "more addresses")
    more = f", and at {others}" if aliases > 1 else ""
    return f"{hex64(entries[0])}{own}{more}"


def _names(owners: Sequence[tuple[int, Space | None]]) -> str:
    names = [space.label if space else hex64(root) for root, space in owners[:MOST_NAMED]]
    more = len(owners) - MOST_NAMED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
