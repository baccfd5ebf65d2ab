"""The plugin that tells every store: the one that comes with the package, else one built here.

It is C (`stores.c`) against declarations of our own, so that gcc is all that building it takes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("stores.c")
PREBUILT = Path(__file__).with_name("stores-x86_64.so")
FLAGS = ("-O2", "-shared", "-fPIC", "-Wl,--build-id=none")
BUILD_SECONDS = 60


def build(target: Path, compiler: str = "gcc") -> bool:
    """Compile the plugin; False where that cannot be done here."""
    try:
        done = subprocess.run(
            [compiler, *FLAGS, "-o", str(target), SOURCE.name],
            cwd=SOURCE.parent,
            capture_output=True,
            check=False,
            timeout=BUILD_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and target.is_file()


def candidates() -> list[Path]:
    """Plugins to try, best first: ours where this machine is what it was built for, then one of
    this machine's own compiler, built once. Empty where neither is there."""
    found = []
    if sys.platform == "linux" and platform.machine() == "x86_64" and PREBUILT.is_file():
        found.append(PREBUILT)
    own = _built_here()
    return [*found, own] if own is not None else found


def _built_here() -> Path | None:
    cache = _cache()
    target = cache / f"stores-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if target.is_file():
        return target
    if shutil.which("gcc") is None:
        return None
    draft = cache / f"{target.name}.{os.getpid()}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not build(draft):
            return None
        draft.replace(target)
    except OSError:
        return None
    finally:
        draft.unlink(missing_ok=True)
    return target


def _cache() -> Path:
    """Where what is built once is kept (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "breenix-gdbagent"
