"""A real gdb as tests, benchmarks and fixtures start it: one that leaves no core where it ends."""

from __future__ import annotations

from breenix_gdbagent.link.mi import NO_CORE


def gdb_command(*arguments: str) -> list[str]:
    """The command line: `arguments` after what every gdb of ours gets. It reads no settings of the
    user's (``-nx``)."""
    return ["gdb", "-q", "-nx", *NO_CORE, *arguments]
