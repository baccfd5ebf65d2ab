"""floor.c, compiled: whole address spaces by the plainest means there are."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.harness import Timed

SOURCE = Path(__file__).with_name("floor.c")
NAME = "C floor (mmap, subtree memo)"


@contextmanager
def c_floor() -> Iterator[Path | None]:
    """The program; None where no C compiler is."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "floor"
        subprocess.run([compiler, "-O2", str(SOURCE), "-o", str(program)], check=True)
        yield program


def floor_ms(program: Path, ram: Path, roots: Sequence[int], rounds: int) -> Timed:
    """Milliseconds of CPU time for the spaces of all `roots` together."""
    wanted = "".join(f"{root:#x}\n" for root in roots)

    def once() -> float:
        done = subprocess.run(
            [str(program), str(ram), str(rounds)],
            input=wanted, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(done.stdout.split()[0]) / 1e6

    return once
