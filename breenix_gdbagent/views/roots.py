"""Which page tables (CR3) a question about addresses is asked of: ``--root``, ``--pid``, the CPU's.
"""

from __future__ import annotations

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number

MOST_NAMED = 12


def root_of(kernel: Kernel, root: str | None, pid: str | None = None) -> int:
    """The root that --root or --pid names, else CR3 of the stop's CPU. Raises `InputError`."""
    if root is not None and pid is not None:
        raise InputError("--root and --pid at once", fix="give one")
    if root is not None:
        value = parse_number(root)
        if value is None:
            raise InputError(f"{root!r} is no number", fix="write the CR3 value as 0x...")
        return value
    if pid is not None:
        return root_of_pid(kernel, pid)
    stop = kernel.stop
    found = stop.cpu.root if stop.cpu.paging is not None else kernel.reference_root
    if found is None:
        raise InputError(
            "there is no root to walk from",
            stop.no_paging,
            "name a root (a CR3 value), or let it run further",
        )
    return found


def root_of_pid(kernel: Kernel, text: str) -> int:
    """The root of a process by its pid or name as text. Raises `InputError`."""
    pid = parse_number(text)
    spaces = [s for s in kernel.spaces if s.pid is not None]
    found = {s.root: s for s in spaces if (s.pid == pid if pid is not None else s.name == text)}
    if len(found) == 1:
        return next(iter(found))
    known = ", ".join(f"{s.pid} {s.name or ''}".strip() for s in spaces[:MOST_NAMED])
    if len(found) > 1:
        pids = ", ".join(str(s.pid) for s in found.values())
        raise InputError(f"{len(found)} processes are called {text}", fix=f"give one's pid: {pids}")
    raise InputError(
        f"no address space is known as that of process {text}",
        f"known: {known}{', ...' if len(spaces) > MOST_NAMED else ''}"
        if known
        else "neither the kernel's types nor its serial text name any pid here",
        "list the roots with `pt roots` and give --root 0x...",
    )
