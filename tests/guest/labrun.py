"""Run the agent on the lab guest as its user does, and read the guest's own truth lines."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

DEADLINE = 280


@dataclass(frozen=True)
class Result:
    """Exit code and streams of one command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.out))

    def codes(self, *severities: str) -> set[str]:
        return {f["code"] for f in self.document["findings"] if f["severity"] in severities}


def agent(*arguments: str, stdin: str = "") -> Result:
    """``breenix-gdbagent`` with these arguments."""
    done = subprocess.run(
        [sys.executable, "-m", "breenix_gdbagent", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def truth(serial: str, kind: str) -> list[dict[str, Any]]:
    """The guest's truth lines of one kind: ``@{"k": kind, ...}``."""
    found = [json.loads(line[1:]) for line in serial.splitlines() if line.startswith("@{")]
    return [line for line in found if line["k"] == kind]


def tail(document: dict[str, Any]) -> str:
    """The serial lines that the document carries."""
    return "\n".join(line["text"] for line in document["serial"]["tail"])
