"""Source files at hand: below the directories that the user named, else where DWARF says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

MOST = 1 << 22  # bytes of a source file


def text_of(directories: Sequence[Path], file: str) -> tuple[str, ...]:
    """The lines of a source file, () when it is not at hand."""
    return _text(tuple(directories), file)


def path_of(directories: Sequence[Path], file: str) -> Path | None:
    """Where a source file lies, None when it is not at hand."""
    for path in _candidates(directories, file):
        try:
            if path.is_file():
                return path.absolute()
        except OSError:
            continue
    return None


@lru_cache(maxsize=64)
def _text(directories: tuple[Path, ...], file: str) -> tuple[str, ...]:
    for path in _candidates(directories, file):
        try:
            if path.is_file() and path.stat().st_size <= MOST:
                return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())
        except OSError:
            continue
    return ()


def _candidates(directories: Sequence[Path], file: str) -> list[Path]:
    """DWARF's path below each directory, then shorter ends of it (of two components at least: every
    crate has a lib.rs); last as it stands. A relative path is never taken from where we happen to
    be, and the standard library's never from a directory of the kernel's."""
    parts = [p for p in Path(file).parts if p != "/"]
    found: list[Path] = []
    if not file.startswith("/rustc/"):
        for directory in directories:
            # A file alone only below the very directory that it is in.
            alone = len(parts) < 2 or directory.absolute().name == parts[-2]
            last = len(parts) if alone else len(parts) - 1
            found += [directory.joinpath(*parts[cut:]) for cut in range(last)]
    if Path(file).is_absolute():
        found.append(Path(file))
    return found
