"""Files that appear when they are complete, or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from breenix_gdbagent.errors import OutputError

_FIXES = {
    errno.ENOSPC: "make room there or choose another place",
    errno.EDQUOT: "make room there or choose another place",
    errno.ENOENT: "make the directory first",
    errno.EACCES: "choose a directory that you may write to",
    errno.EROFS: "choose a directory that can be written to",
}


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` when the block ends well, and else vanishes.

    A symbolic link stays one: what it points at is written. What is no regular file (/dev/null,
    /dev/stdout, a FIFO) is never put aside for one: it is written as it is, in the block's order.
    Where the system can (Linux, O_TMPFILE) the file has no name until the end, so that nothing
    remains even of an agent that is killed. Raises `OutputError`.
    """
    try:
        if _is_device(path):
            with path.open("wb") as out:
                yield cast(BinaryIO, out)
            return
        with _replacing(Path(os.path.realpath(path))) as out:
            yield out
    except OSError as refused:
        why = refused.strerror or str(refused)
        fix = _FIXES.get(refused.errno or 0, "choose another place for it")
        raise OutputError(f"{path} cannot be written", why, fix) from refused


def _is_device(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode) and not path.is_dir()
    except FileNotFoundError:
        return False


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    hidden = path.parent / f".{path.name}.{os.urandom(6).hex()}"
    try:
        descriptor, nameless = _opened(hidden)
        with os.fdopen(descriptor, "wb") as out:
            yield cast(BinaryIO, out)
            # Without fsync(): it keeps a CI job waiting for a disk, and what it guards against
            # is a power cut. A full disk shows in write(), flush() or close().
            out.flush()
            if nameless:
                _name(out.fileno(), hidden)
        hidden.replace(path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def _opened(hidden: Path) -> tuple[int, bool]:
    """A descriptor of a new file, and whether it has no name yet."""
    nameless = getattr(os, "O_TMPFILE", 0)
    if nameless:
        try:
            return os.open(hidden.parent, os.O_RDWR | nameless, 0o666), True
        except OSError as refused:
            # File systems without it answer one of these; what else is wrong shows again below.
            if refused.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
    return os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), False


def _name(descriptor: int, name: Path) -> None:
    """Gives a file opened with O_TMPFILE a name (open(2))."""
    folder = os.open(name.parent, os.O_RDONLY)
    try:
        # With a directory descriptor Python uses linkat(), which follows the link in /proc.
        os.link(f"/proc/self/fd/{descriptor}", name.name, dst_dir_fd=folder)
    finally:
        os.close(folder)
