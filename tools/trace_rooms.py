"""How far five inputs travel through the package: calls, changes of file, changes of room.

``python tools/trace_rooms.py [--package DIR] [--json]``. DIR holds a ``breenix_gdbagent`` (default:
this checkout's), so that one commit can be held against another. A call counts when the called
function's code lies in the package; it changes file (room) when its caller inside the package lies
in another one. A room is a top-level module or package.

Each input is measured as the difference of two runs of the same command: one with the input and
one with as little as the command takes, each after a first run that has imported everything.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "fixtures" / "snapshots" / "version-1-tables.core"
LAB = ("shell", "--lab", "clean", "--deterministic")


class Counter:
    """Counts calls of one package; a profile function for every thread.

    :param package: the folder of the package's code.
    """

    def __init__(self, package: Path) -> None:
        self.prefix = f"{package}/"
        self.calls = self.files = self.rooms = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(self.prefix):
            return
        self.calls += 1
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(self.prefix):
            caller = caller.f_back
        if caller is None:
            return
        mine, theirs = (f.f_code.co_filename[len(self.prefix) :] for f in (frame, caller))
        self.files += mine != theirs
        self.rooms += self._room(mine) != self._room(theirs)

    @staticmethod
    def _room(path: str) -> str:
        return path.split("/")[0].removesuffix(".py")

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.calls, self.files, self.rooms


def counted(package: Path, run: Callable[[list[str]], int], command: list[str]) -> tuple[int, ...]:
    """Calls, changes of file and changes of room of one command, warmed by a first run."""
    for warm in (True, False):
        counter = Counter(package)
        with contextlib.redirect_stdout(io.StringIO()):
            if not warm:
                threading.setprofile(counter)
                sys.setprofile(counter)
            try:
                code = run(command)
            finally:
                sys.setprofile(None)
                threading.setprofile(None)  # type: ignore[arg-type]
        if code not in (0, 1):
            sys.exit(f"{' '.join(command)} ended with exit code {code}")
    return counter.counts


def inputs(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Name of each input: the command with it, and the same command with next to nothing.

    :param folder: where the two serial texts are written.
    """
    short, long = folder / "none.txt", folder / "one.txt"
    short.write_text("", encoding="utf-8")
    long.write_text("[ERROR] kernel::memory: out of frames\n", encoding="utf-8")
    kept = str(SNAPSHOT)
    address = ["pt", "walk", "--snapshot", kept]
    return {
        "a virtual address of pt walk": (
            [*address, "0x40000010", "0x40001010"], [*address, "0x40000010"],
        ),
        "a fault to the terminal": (["report", "--anew", kept], ["audit", "--help"]),
        "a finding to JSON": (["report", "--anew", "--json", kept], ["audit", "--help"]),
        "a serial line": (["log", str(long)], ["log", str(short)]),
        "a typed break": ([*LAB, "-c", "break syscall_entry"], [*LAB, "-c", "help quit"]),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, default=ROOT, help="the checkout to measure")
    parser.add_argument("--json", action="store_true", help="one JSON object, for a comparison")
    chosen = parser.parse_args()
    top = chosen.package.resolve()
    sys.path.insert(0, str(top))
    from breenix_gdbagent.commands import run

    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (with_it, without) in inputs(Path(folder)).items():
            much = counted(top / "breenix_gdbagent", run, with_it)
            little = counted(top / "breenix_gdbagent", run, without)
            rows[name] = [a - b for a, b in zip(much, little, strict=True)]
    if chosen.json:
        print(json.dumps(rows))
        return 0
    print(f"{'':<30} {'calls':>8} {'files':>8} {'rooms':>8}")
    for name, row in rows.items():
        print(f"{name:<30} " + " ".join(f"{n:>8}" for n in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
