"""Files that appear when they are complete, and what is no regular file."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from breenix_gdbagent.errors import OutputError
from breenix_gdbagent.wholefile import appearing


def test_it_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"before")
    with appearing(target) as out:
        out.write(b"after")
        assert target.read_bytes() == b"before"
    assert target.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), appearing(target) as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    with appearing(link) as out:
        out.write(b"text")
    assert link.is_symlink()
    assert target.read_bytes() == b"text"


def test_a_fifo_is_written_and_stays_one(tmp_path: Path) -> None:
    """As /dev/null and /dev/stdout are: another file in their place would break the machine."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    with appearing(fifo) as out:
        out.write(b"text")
    reader.join(10)
    assert got == [b"text"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), appearing(tmp_path / "no" / "out"):
        raise AssertionError("never reached")
