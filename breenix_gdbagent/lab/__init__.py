"""The lab guest: a small kernel of ours that breaks in a known way, its ELFs and its scenarios."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from breenix_gdbagent.errors import InputError

HERE = Path(__file__).parent
MARKER = "LAB COMPLETE"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One planned run: what it shows, the exit code of `ci`, and every code of severity error or
    warning that `ci` must report, no more and no fewer; `strict` those that --strict adds."""

    name: str
    shows: str
    exit: int
    codes: tuple[str, ...]
    strict: tuple[str, ...]
    cpu: str
    append: str


def elf(stripped: bool) -> Path:
    """The kernel's ELF, with DWARF or with .symtab only."""
    return HERE / ("labguest-stripped.elf" if stripped else "labguest.elf")


def sources() -> list[Path]:
    """Where the guest's source lies, in a checkout of this project; [] elsewhere."""
    fixtures = HERE.parents[1] / "fixtures"
    return [fixtures] if (fixtures / "labguest" / "src").is_dir() else []


def elf_of(sha256: str | None) -> Path | None:
    """Our own ELF of that hash: a snapshot of the lab guest needs no --kernel."""
    for path in (elf(False), elf(True)):
        if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path
    return None


@cache
def scenarios() -> dict[str, Scenario]:
    """All scenarios by name, in the table's order."""
    rows = json.loads((HERE / "scenarios.json").read_text(encoding="utf-8"))
    return {
        row["name"]: Scenario(
            row["name"],
            row["shows"],
            int(row["exit"]),
            tuple(row["codes"]),
            tuple(row.get("strict", ())),
            row.get("cpu", "qemu64"),
            row.get("append", f"scenario={row['name']} era={row.get('era', 2025)}"),
        )
        for row in rows
    }


def scenario(name: str) -> Scenario:
    """The scenario of that name; raises `InputError` with the nearest name."""
    table = scenarios()
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1)
    raise InputError(
        f"the lab guest has no scenario {name!r}",
        fix=f"did you mean {near[0]}?" if near else "list them with: breenix-gdbagent lab",
    )
