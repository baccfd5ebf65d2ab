"""One physical frame in words and in JSON: who maps it, as what, and what the allocator says."""

from __future__ import annotations

from collections.abc import Sequence

from breenix_gdbagent.addresses import counted, hex64, page_base
from breenix_gdbagent.checks.faults.address_kind import kind_of
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.mappings import rights
from breenix_gdbagent.report.wording.addresses import address
from breenix_gdbagent.x86.mapped_space import Range
from breenix_gdbagent.x86.reverse import Mapping, TableUse, Who

MOST_NAMED = 4
STATES = {
    "allocated": "the allocator gave it out",
    "free": "the allocator has it as free",
    "never": "the allocator never gave it out",
    None: "it is none of the allocator's",
}


def who_json(kernel: Kernel, who: Who) -> dict[str, Json]:
    """`pt who --json`: every mapping and every use as a table; `ram` and `allocator` null where
    that is not known, `reason` then says why the allocator's word is missing."""
    state, reason = _allocator(kernel, who.pa)
    return {
        "pa": hex64(who.pa),
        "mappings": [
            {
                **_owner(kernel, m.root),
                "va": hex64(m.va),
                "size": m.size,
                "effective": {"w": m.effective.w, "u": m.effective.u, "nx": m.effective.nx},
                "entry_pa": hex64(m.entry_pa),
                "level": m.level,
                "aliases": m.aliases,
                "kind": kind_of(kernel, m.va, m.root).name,
            }
            for m in who.mappings
        ],
        "tables": [
            {
                **_owner(kernel, t.root),
                "level": t.level,
                "va": hex64(t.va),
                "entry_pa": None if t.entry_pa is None else hex64(t.entry_pa),
                "aliases": t.aliases,
            }
            for t in who.tables
        ],
        "ram": None if kernel.stop.memory.ram is None else kernel.stop.memory.ram.holds(who.pa),
        "allocator": state,
        "reason": reason,
    }


def _owner(kernel: Kernel, root: int) -> dict[str, Json]:
    space = kernel.space_of(root)
    return {
        "root": hex64(root),
        "pid": space.pid if space is not None else None,
        "name": space.name if space is not None else None,
        "role": space.role if space is not None else "unknown",
    }


def _allocator(kernel: Kernel, pa: int) -> tuple[str | None, str | None]:
    """The allocator's word on a frame, and why there is none."""
    try:
        state = kernel.structures.frames.state(page_base(pa))
    except ReadError as lacking:
        return None, lacking.what
    return (state, None) if state is not None else ("not its own", None)


def who_text(kernel: Kernel, who: Who) -> str:
    """Who maps a physical address and as what, and who uses its frame as a page table; spaces that
    do the same are told together."""
    lines = [f"physical {hex64(who.pa)}: {_state(kernel, who.pa)}"]
    alike: dict[tuple[object, ...], list[Mapping]] = {}
    for m in who.mappings:
        alike.setdefault((m.va, m.effective, m.level, m.aliases), []).append(m)
    lines += [_mapped(kernel, who.pa, group) for group in alike.values()]
    uses: dict[tuple[object, ...], list[TableUse]] = {}
    for t in who.tables:
        uses.setdefault((t.level, t.va, t.aliases), []).append(t)
    lines += [_table(kernel, group) for group in uses.values()]
    if len(lines) == 1:
        lines.append("  no known space maps it or uses it as a table")
        lines += _as_virtual(kernel, who.pa)
    return "\n".join(lines)


def _as_virtual(kernel: Kernel, address: int) -> list[str]:
    """Where an address that nobody maps leads as a virtual one, which may be what was meant."""
    root = kernel.stop.cpu.root if kernel.stop.cpu.paging is not None else kernel.reference_root
    pa = None if root is None else kernel.walk(root, address).pa
    if pa is None:
        return []
    return [f"  as a virtual address it leads to physical {hex64(pa)}: who {hex64(pa)}"]


def _state(kernel: Kernel, pa: int) -> str:
    ram = kernel.stop.memory.ram
    if ram is not None and not ram.holds(pa):
        return "no RAM, a device's or a hole"
    place = "RAM" if ram is not None else "whether it is RAM is not known"
    state, reason = _allocator(kernel, pa)
    if reason is not None:
        return f"{place}; the allocator's word is not known: {reason}"
    return f"{place}; {STATES.get(state, STATES[None])}"


def _mapped(kernel: Kernel, pa: int, group: Sequence[Mapping]) -> str:
    m = group[0]
    right = Range(m.va, m.va, m.effective.w, m.effective.u, m.effective.nx)
    return (
        f"  mapped at {hex64(m.va)} {rights(right)} in {_names(kernel, [g.root for g in group])}\n"
        f"    {_kind(kernel, pa, m)}level {m.level} entry at "
        f"{_entries([g.entry_pa for g in group], m.aliases)}"
    )


def _kind(kernel: Kernel, pa: int, m: Mapping) -> str:
    """What lies there, where that is known: of another kernel than Breenix nothing is."""
    if not kernel.is_breenix:
        return ""
    if m.va == pa and not m.effective.u:
        return "an identity map for the kernel alone, "
    return f"{address(kind_of(kernel, m.va, m.root))}, "


def _table(kernel: Kernel, group: Sequence[TableUse]) -> str:
    t = group[0]
    entries = [g.entry_pa for g in group if g.entry_pa is not None]
    by = f"named by the entry at {_entries(entries, t.aliases)}" if entries else "the root itself"
    who = _names(kernel, [g.root for g in group])
    return f"  a level {t.level} table of {who}, for {hex64(t.va)} on,\n    {by}"


def _entries(entries: Sequence[int], aliases: int) -> str:
    """The entry of the first space, and whether the others have it in common."""
    own = " (the others have their own)" if len(set(entries)) > 1 else ""
    others = counted(aliases - 1, "more address", "more addresses")
    more = f", and at {others}" if aliases > 1 else ""
    return f"{hex64(entries[0])}{own}{more}"


def _names(kernel: Kernel, roots: Sequence[int]) -> str:
    names = []
    for root in roots[:MOST_NAMED]:
        space = kernel.space_of(root)
        names.append(space.label if space is not None else hex64(root))
    more = len(roots) - MOST_NAMED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
