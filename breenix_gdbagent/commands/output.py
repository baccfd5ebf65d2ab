"""Where answers go: stdout, whole files, one JSON document."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from breenix_gdbagent.errors import InputError, OutputError
from breenix_gdbagent.jsonvalue import Json


def print_json(value: Json) -> None:
    """One JSON document on stdout, and nothing else."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` at once or not at all. Raises `OutputError`."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(
                f"cannot write {path}: {error.strerror}", fix="free space or choose another place"
            ) from error
        raise


def writable(path: Path | None) -> None:
    """Refuse a target that cannot be written before a long run, not after it."""
    if path is None:
        return
    parent = path.parent
    if not parent.is_dir():
        raise InputError(f"cannot write {path}: no directory {parent}")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a directory")
    if not os.access(parent, os.W_OK):
        raise InputError(f"cannot write {path}: no permission in {parent}")
