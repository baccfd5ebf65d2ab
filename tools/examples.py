"""Real examples of the finding codes, one a file: ``python tools/examples.py DIR [CODE...]``.

Each is what `ci` says of a lab scenario that shows the code, on QEMU's instruction counter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.lab import ARCHITECTURES, X86_64, scenarios

MOST = 48
END = re.compile(r"(?m)^Stopped ")
FINDING = re.compile(r"(?m)^(?:ERROR|WARNING|INFO) +([a-z0-9-]+(?:\.[a-z0-9-]+)?)\b")


def scenario_of(code: str) -> tuple[str, str] | None:
    """(scenario, architecture) that shows a code: as its error, else under --strict."""
    for arch in ARCHITECTURES:
        table = scenarios(arch).values()
        for one in table:
            if code in one.codes:
                return one.name, arch
        for one in table:
            if code in one.strict:
                return one.name, arch
    return None


def command_of(code: str) -> list[str] | None:
    """The words after ``breenix-gdbagent`` that show a code; None where no scenario does."""
    found = scenario_of(code)
    if found is None:
        return None
    name, arch = found
    strict = ["--strict"] if code in scenarios(arch)[name].strict else []
    other = [] if arch == X86_64 else ["--arch", arch]
    return ["ci", "--lab", name, *other, "--deterministic", *strict, "-v"]


def example(code: str) -> str | None:
    """The command and what it says of the code; None where no scenario shows it."""
    words = command_of(code)
    if words is None:
        return None
    done = subprocess.run(
        [sys.executable, "-m", "breenix_gdbagent", *words, "--timeout", "30"],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"}, check=False,
    )  # fmt: skip
    told = part(done.stdout, code)
    return None if told is None else f"$ breenix-gdbagent {' '.join(words)}\n{told}\n"


def part(report: str, code: str) -> str | None:
    """The finding of that code out of a report's text, at most `MOST` lines."""
    heads = list(FINDING.finditer(report))
    for number, head in enumerate(heads):
        if head[1] == code:
            ends = [heads[number + 1].start()] if number + 1 < len(heads) else []
            ends += [found.start() for found in [END.search(report, head.end())] if found]
            lines = report[head.start() : min(ends, default=len(report))].rstrip().splitlines()
            more = ["..."] if len(lines) > MOST else []
            return "\n".join([*lines[:MOST], *more])
    return None


def main(directory: Path, wanted: list[str]) -> int:
    """Write them; 1 where one that should be there is not."""
    directory.mkdir(parents=True, exist_ok=True)
    lacking = []
    for code in wanted or sorted(all_codes()):
        text = example(code)
        if text is not None:
            (directory / f"{code}.txt").write_text(text, encoding="utf-8")
        elif scenario_of(code) is not None:
            lacking.append(code)
    print(f"no example: {', '.join(lacking) or 'none lacks one'}")
    return int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
