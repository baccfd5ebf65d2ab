"""Looks for inputs that break a parser, by coverage: ``python -m tests.fuzz NAME --runs N``.

libFuzzer (through atheris) changes what is kept, keeps what reaches new branches, and ends with a
status other than 0 at the first input that breaks the parser: it is then in ``--into``. An input
over `MOST_MEMORY` ends it too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

MOST_MEMORY = 1024
"""MiB, of the whole process: the instrumented package and what libFuzzer remembers take 200."""
WALL_SECONDS = 120
"""Where processor time is not counted: inside of a library that does not return."""

SILENCE = 0.05
"""Seconds: of thousands of peers many are silent, and to be given up is an answer too."""

with atheris.instrument_imports(include=["breenix_gdbagent"]):
    from tests.fuzz.target import Target, bounded
    from tests.fuzz.targets import TARGETS, link


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", choices=sorted(TARGETS))
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--into", type=Path, default=Path("build/fuzz"))
    chosen = parser.parse_args()
    target = TARGETS[chosen.name]
    link.SILENCE = SILENCE
    folder = chosen.into / target.name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    _write_seeds(target, corpus)

    def give(data: bytes) -> None:
        with bounded():
            target.give(data)

    options = {
        "runs": chosen.runs, "seed": chosen.seed, "max_len": target.longest,
        "timeout": WALL_SECONDS, "rss_limit_mb": MOST_MEMORY,
        "print_final_stats": 1,
        "verbosity": 0,
    }  # fmt: skip
    told = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *told, f"-artifact_prefix={folder}/", str(corpus)], give)
    atheris.Fuzz()


def _write_seeds(target: Target, corpus: Path) -> None:
    """The honest inputs, and those that are kept. What they import on their way is instrumented."""
    with atheris.instrument_imports(include=["breenix_gdbagent"]):
        for number, data in enumerate([*target.seeds(), *(data for _, data in target.kept())]):
            (corpus / f"seed-{number:03}").write_bytes(data)
            with bounded():
                target.give(data)


if __name__ == "__main__":
    main()
