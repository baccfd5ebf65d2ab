"""The run directory is gone when its owner is, however that went."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from breenix_gdbagent.errors import OutputError
from breenix_gdbagent.link.rundir import PREFIX, RunDir, sweep


def dirs(place: Path) -> list[Path]:
    return sorted(place.glob(f"{PREFIX}*"))


def test_private_and_gone_when_closed(tmp_path: Path) -> None:
    run = RunDir(1, [tmp_path])
    assert run.path.stat().st_mode & 0o777 == 0o700
    (run.path / "deep").mkdir()
    (run.path / "deep" / "file").write_text("x")
    run.close()
    assert dirs(tmp_path) == []
    run.close()


OWNER = """
import sys, subprocess
from pathlib import Path
from breenix_gdbagent.link.rundir import RunDir
run = RunDir(1, [Path(sys.argv[1])])
child = subprocess.Popen(["sleep", "100"], start_new_session=True)
run.watch(child.pid)
print(run._janitor.pid, child.pid, flush=True)
sys.stdin.read()
"""


def ended(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process that is no child of ours ends in time (waited for by its descriptor)."""
    import select

    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd on this system")
def test_sigkill_of_the_owner_leaves_nothing(tmp_path: Path) -> None:
    """Also the way QEMU ends where there is no parent-death signal: the janitor kills it."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    janitor, child = map(int, owner.stdout.readline().split())
    assert len(dirs(tmp_path)) == 1
    owner.kill()
    owner.communicate()
    assert ended(janitor)
    assert ended(child)
    assert dirs(tmp_path) == []


def test_a_directory_whose_owner_and_janitor_are_dead_is_swept(tmp_path: Path) -> None:
    stale = tmp_path / f"{PREFIX}dead"
    stale.mkdir()
    (stale / "lock").write_text("")
    (stale / "ram").write_text("x")
    alive = RunDir(1, [tmp_path])
    assert dirs(tmp_path) == [alive.path]
    sweep(tmp_path)
    assert dirs(tmp_path) == [alive.path]
    alive.close()


def test_no_room_says_where_and_how_much(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as raised:
        RunDir(1 << 62, [tmp_path])
    assert str(tmp_path) in raised.value.why
    assert "MiB" in raised.value.what
    with pytest.raises(OutputError):
        RunDir(1, [])
    assert dirs(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(OutputError, match="cannot make"):
        RunDir(1, [place])
