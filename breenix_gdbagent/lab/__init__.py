"""The lab guest: a small kernel of ours that breaks in a known way, its ELFs and its scenarios.
There is one for each architecture."""

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
X86_64 = "x86-64"
_SUFFIXES = {X86_64: "", "aarch64": "-aarch64"}
"""What the names of files and machines of each architecture's guest end in."""
ARCHITECTURES = tuple(_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One planned run: what it shows, the exit code of `ci`, and every code of severity error or
    warning that `ci` must report, no more and no fewer; `strict` those that --strict adds; `smp`
    the CPUs that it needs. `sometimes`: in how many of 100 boots it shows that at all; 0 for in
    all."""

    name: str
    shows: str
    exit: int
    codes: tuple[str, ...]
    strict: tuple[str, ...]
    cpu: str
    append: str
    smp: int = 1
    sometimes: int = 0


def machine(arch: str) -> str:
    """The name of the machine that boots the guest of an architecture."""
    return f"lab{_SUFFIXES[arch]}"


def elf(stripped: bool, arch: str = X86_64) -> Path:
    """The kernel's ELF, with DWARF or with .symtab only."""
    return HERE / f"labguest{_SUFFIXES[arch]}{'-stripped' if stripped else ''}.elf"


def elfs() -> tuple[Path, ...]:
    """All of them."""
    return tuple(elf(stripped, arch) for arch in ARCHITECTURES for stripped in (False, True))


def sources() -> list[Path]:
    """Where the guest's source lies, in a checkout of this project; [] elsewhere."""
    fixtures = HERE.parents[1] / "fixtures"
    return [fixtures] if (fixtures / "labguest" / "src").is_dir() else []


def elf_of(sha256: str | None) -> Path | None:
    """Our own ELF of that hash: a snapshot of the lab guest needs no --kernel."""
    for path in elfs():
        if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path
    return None


def scenarios(arch: str = X86_64) -> dict[str, Scenario]:
    """The scenarios that show the same in every boot, by name, in the table's order."""
    return {name: one for name, one in _table(arch).items() if not one.sometimes}


def sometimes(arch: str = X86_64) -> dict[str, Scenario]:
    """Those that show what they are there for only in some boots."""
    return {name: one for name, one in _table(arch).items() if one.sometimes}


@cache
def _table(arch: str) -> dict[str, Scenario]:
    table = HERE / f"scenarios{_SUFFIXES[arch]}.json"
    rows = json.loads(table.read_text(encoding="utf-8"))
    return {
        row["name"]: Scenario(
            row["name"],
            row["shows"],
            int(row["exit"]),
            tuple(row["codes"]),
            tuple(row.get("strict", ())),
            row.get("cpu", "qemu64"),
            row.get("append", f"scenario={row['name']} era={row.get('era', 2025)}"),
            int(row.get("smp", 1)),
            int(row.get("sometimes", 0)),
        )
        for row in rows
    }


def listing(arch: str) -> str:
    """The command that lists the scenarios."""
    return "breenix-gdbagent lab" + ("" if arch == X86_64 else f" --arch {arch}")


def scenario(name: str, arch: str = X86_64) -> Scenario:
    """The scenario of that name; raises `InputError` with the nearest name."""
    table = _table(arch)
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1)
    raise InputError(
        f"the lab guest{'' if arch == X86_64 else f' on {arch}'} has no scenario {name!r}",
        fix=f"did you mean {near[0]}?" if near else f"list them with: {listing(arch)}",
    )
