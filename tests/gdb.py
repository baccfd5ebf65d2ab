"""A real gdb as tests, benchmarks and fixtures start it: one that leaves no core where it ends."""

from __future__ import annotations

import re
import shutil
import subprocess

from breenix_gdbagent.link.mi import NO_CORE


def gdb_command(*arguments: str) -> list[str]:
    """The command line: `arguments` after what every gdb of ours gets. It reads no settings of the
    user's (``-nx``)."""
    return ["gdb", "-q", "-nx", *NO_CORE, *arguments]


def gdb_version() -> int:
    """The major version of the gdb on PATH, 0 where there is none."""
    if shutil.which("gdb") is None:
        return 0
    said = subprocess.run(gdb_command("--version"), capture_output=True, text=True, check=True)
    found = re.search(r"(\d+)\.\d+", said.stdout)
    return int(found[1]) if found is not None else 0
