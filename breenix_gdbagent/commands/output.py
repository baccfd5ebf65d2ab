"""Where answers go: standard output, or files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TextIO

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.wholefile import appearing


def print_json(value: Json) -> None:
    """One JSON document on stdout, and nothing else."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def aside(text: str) -> None:
    """A line on stderr, behind all that was answered so far: both may go into one file."""
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` at once or not at all. Raises `OutputError`."""
    with appearing(path) as out:
        out.write(text.encode())


def writable(path: Path | None) -> None:
    """Refuse a target that cannot be written before a long run, not after it."""
    if path is None:
        return
    if str(path) == "-":
        raise InputError("- is no file, and this does not go to stdout", fix="name a file")
    if not path.is_dir() and not path.is_file() and path.exists():
        return  # a device or a FIFO: it is written as it is
    parent = path.parent
    if not parent.is_dir():
        raise InputError(f"cannot write {path}: no directory {parent}", fix="make it first")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a directory", fix="name a file in it")
    if not os.access(parent, os.W_OK):
        raise InputError(
            f"cannot write {path}: no permission in {parent}",
            fix="choose a directory that you may write to",
        )


def coloured(stream: TextIO) -> bool:
    """Whether what goes there has colour: on a terminal that is not dumb, and where FORCE_COLOR is
    set; never where NO_COLOR is. Either counts where it is not empty."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"
