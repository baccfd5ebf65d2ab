"""Page tables in words and in JSON: the contract's `pt walk` and `pt roots`."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.paging import LEVEL, Walk

REASONS = {
    "not-present": "P is clear",
    "reserved-bits": "a reserved bit is set",
    "unreadable": "the table lies in no memory that we have",
    "non-canonical": "the address is not canonical",
}


def walk_json(walk: Walk) -> dict[str, Json]:
    """One answer of `pt walk --json` (contract, "Page tables")."""
    return {
        "va": hex64(walk.va),
        "root": hex64(walk.root),
        "pa": None if walk.pa is None else hex64(walk.pa),
        "size": walk.size,
        "levels": [
            {
                "level": e.level,
                "entry_pa": hex64(e.entry_pa),
                "entry": hex64(e.raw),
                "flags": list(e.flags),
            }
            for e in walk.entries
        ],
        "effective": None
        if walk.effective is None
        else {"w": walk.effective.w, "u": walk.effective.u, "nx": walk.effective.nx},
        "stopped_at": walk.stopped_at,
        "reason": walk.reason,
    }


def walk_text(kernel: Kernel, walk: Walk) -> str:
    """The walk drawn level by level, the entry that stopped it marked."""
    space = kernel.space_of(walk.root) if kernel.reference_root is not None else None
    owner = f" ({space.label})" if space is not None else ""
    lines = [f"{kernel.describe(walk.va)}  under root {hex64(walk.root)}{owner}"]
    for entry in walk.entries:
        stopped = entry.level == walk.stopped_at
        lines.append(
            f"  {LEVEL[entry.level].name:<4} [{walk.va >> LEVEL[entry.level].shift & 0x1FF:3}]"
            f"  {hex64(entry.entry_pa):>14}: {entry.raw:#018x}  {' '.join(entry.flags)}"
            + (f"   <- stops here: {REASONS[walk.reason or '']}" if stopped else "")
        )
    if walk.effective is not None and walk.pa is not None:
        rights = f"{'W' if walk.effective.w else 'read-only'} {'U' if walk.effective.u else 'supervisor'} {'NX' if walk.effective.nx else 'executable'}"
        lines.append(f"  = physical {hex64(walk.pa)}, {page_size(walk.size)} page, {rights}")
    elif walk.stopped_at is not None and walk.reason == "unreadable":
        lines.append(
            f"  = not known: the {LEVEL[walk.stopped_at].name} cannot be read, {REASONS['unreadable']}"
        )
    else:
        at = f" at the {LEVEL[walk.stopped_at].name}" if walk.stopped_at else ""
        lines.append(f"  = not mapped: {REASONS[walk.reason or '']}{at}")
    return "\n".join(lines)


def page_size(size: int | None) -> str:
    """``4 KiB``, ``2 MiB`` or ``1 GiB``."""
    return {0x1000: "4 KiB", 0x200000: "2 MiB", 0x40000000: "1 GiB"}.get(size or 0, "?")


def spaces_text(kernel: Kernel) -> str:
    """`pt roots` as a table."""
    lines = [f"{'root':<14} {'role':<8} {'live':<8} {'pid':>4}  {'name':<24} found by"]
    for s in kernel.spaces:
        live = {True: "yes", False: "no", None: "unknown"}[s.live]
        pid = "" if s.pid is None else str(s.pid)
        lines.append(
            f"{hex64(s.root):<14} {s.role:<8} {live:<8} {pid:>4}  {s.name or '-':<24} {s.source}"
        )
    return "\n".join(lines)
