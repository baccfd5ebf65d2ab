"""Chooses what of a run is kept in the tree: ``python -m tests.fuzz.keep NAME...``.

The shortest inputs that together reach every line of the package that the run has reached.
"""

from __future__ import annotations

import argparse
import sys
import threading
from base64 import b64encode
from pathlib import Path
from types import FrameType
from typing import Any

import breenix_gdbagent
from tests.fuzz.target import Target, bounded
from tests.fuzz.targets import TARGETS

PACKAGE = str(Path(breenix_gdbagent.__file__).parent)
MOST = 40
LONGEST = 400
Line = tuple[str, int]


def lines_of(target: Target, data: bytes) -> set[Line]:
    """The lines of the package that an input reaches."""
    reached: set[Line] = set()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    try:
        with bounded():
            target.give(data)
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    return reached


def chosen(target: Target, inputs: list[bytes]) -> list[bytes]:
    """Those of `inputs` that reach what neither the seeds nor a shorter one do."""
    reached: set[Line] = set()
    for seed in target.seeds():
        reached |= lines_of(target, seed)
    kept = []
    for data in sorted(inputs, key=lambda one: (len(one), one)):
        new = lines_of(target, data) - reached
        if new and len(data) <= LONGEST:
            kept.append(data)
            reached |= new
    return kept[:MOST]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.keep", description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(TARGETS))
    parser.add_argument("--into", type=Path, default=Path("build/fuzz"))
    told = parser.parse_args()
    for name in told.names:
        target = TARGETS[name]
        folder = told.into / name / "corpus"
        kept = chosen(target, [path.read_bytes() for path in folder.iterdir()])
        target.corpus.parent.mkdir(exist_ok=True)
        target.corpus.unlink(missing_ok=True)
        if kept:
            target.corpus.write_text("".join(f"{b64encode(data).decode()}\n" for data in kept))


if __name__ == "__main__":
    main()
