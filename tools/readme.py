"""Write the README's report, shell session and list of commands from real runs on the lab guest.

``python tools/readme.py README.md`` writes, ``--check`` only says whether it is current. The runs
are on QEMU's instruction counter, so that they say the same every time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPORT = ["ci", "--lab", "kernel-stack-unmapped", "--deterministic"]
SESSION = [
    "break syscall_entry process clock_gettime_test if rax != 39", "continue",
    "print SCHEDULER.current_thread", "delete", "continue", "walk cr2",
]  # fmt: skip
LINES = 26
RESUME_FLAG = 1 << 16
COLUMNS = "100"


def agent(*arguments: str) -> str:
    """What the agent prints, the times of this machine cut out."""
    done = subprocess.run(
        [sys.executable, "-m", "breenix_gdbagent", *arguments],
        capture_output=True, text=True, check=False, timeout=100,
        env={**os.environ, "COLUMNS": COLUMNS},
    )  # fmt: skip
    return re.sub(r"( after|,) \d+\.\d+ s\b", "", done.stdout)


def report() -> str:
    """The beginning of a report: its times change with the machine and are left out."""
    lines = agent(*REPORT).splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("ERROR"))
    shown = "\n".join(lines[first : first + LINES]).rstrip()
    return f"```\n$ breenix-gdbagent {' '.join(REPORT)}\n{shown}\n...\n```"


def session() -> str:
    """A short debugging session, command by command."""
    parts = []
    for number, command in enumerate(SESSION):
        given = [word for line in SESSION[: number + 1] for word in ("-c", line)]
        before = [word for line in SESSION[:number] for word in ("-c", line)]
        said = agent("shell", "--lab", "guard-page", "--deterministic", *given)
        known = agent("shell", "--lab", "guard-page", "--deterministic", *before) if before else ""
        parts.append(f"> {command}\n{said[len(known):]}".rstrip())
    return "```\n$ breenix-gdbagent shell --lab guard-page\n" + "\n".join(parts) + "\n```"


def commands() -> str:
    """Every command with a line, as `help` lists them."""
    return f"```\n{agent('help').rstrip()}\n```"


def alike(text: str) -> str:
    """`text` without the one thing that differs from QEMU to QEMU: RF in an RFLAGS that the CPU
    pushed, which QEMU sets for a fault only from 8.0 on (its seg_helper.c; SDM 3A 17.3.1.1)."""
    return re.sub(
        r"(?m)^(  \+1[08] +)(0x[0-9a-f]+)$",
        lambda found: f"{found[1]}{int(found[2], 16) & ~RESUME_FLAG:#x}",
        text,
    )


def filled(text: str) -> str:
    """The README with what stands between its markers made anew."""
    for name, make in (("report", report), ("session", session), ("commands", commands)):
        begin, end = f"<!-- {name}: begin (make readme) -->\n", f"<!-- {name}: end -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}{make()}\n{end}{tail}"
    return text


def main() -> int:
    path = Path(sys.argv[1])
    text = path.read_text(encoding="utf-8")
    current = filled(text)
    if "--check" in sys.argv:
        return int(alike(current) != alike(text))
    path.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
