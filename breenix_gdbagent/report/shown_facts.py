"""The facts of a finding in the report document, read once into what output formats ask of them.

The document holds facts by their names, of a live stop and of an old file alike. What a name means
to a reader is known here alone: the formats see the fields of `Fact` and `Named`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from breenix_gdbagent.jsonvalue import Json

_IN_WORDS = ("cr2_is", "error_says", "address_is", "message", "text_at_rip")
_SAY_NOTHING: tuple[tuple[str, Json], ...] = (
    ("implicit", False), ("printed", False), ("owners", []), ("master_pa", None),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact by its `name` in the document. `label` and `shown` are name and value as people read
    them, `label` empty where the value says nothing to them; `repeated` tells of words that the
    finding's sentences mostly hold already."""

    name: str
    value: Json
    label: str
    shown: Json
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """What a finding names that formats look for: `panic_at` is ``file:line`` where a panic says
    it is, `rips` the instructions it is about (``0x...``), `processes` every way to write the
    process that it strikes: label, name, PID."""

    panic_at: str = ""
    rips: tuple[str, ...] = ()
    processes: frozenset[str] = frozenset()


def facts_of(columns: Mapping[str, Json]) -> tuple[Fact, ...]:
    """The columns of a finding's facts, in their order."""
    return tuple(_fact(name, value, columns) for name, value in columns.items())


def _fact(name: str, value: Json, columns: Mapping[str, Json]) -> Fact:
    if name == "process" and isinstance(value, str):
        return Fact(name, value, *_whose(value))
    silent = (
        (name, value) in _SAY_NOTHING
        or (name == "symbol" and value is None and columns.get("ring") == 3)  # user code has none
        or (name == "spaces_count" and bool(columns.get("spaces")))  # counted where listed
    )
    return Fact(name, value, "" if silent else name.replace("_", " "), value, name in _IN_WORDS)


def _whose(label: str) -> tuple[str, str]:
    """(``process`` or ``space``, its name): not every address space is one of a process."""
    process = label.startswith("process ") or "(pid " in label
    return "process" if process else "space", label.removeprefix("process ")


def named_in(columns: Mapping[str, Json]) -> Named:
    """What the columns of a finding's facts name."""
    at = columns.get("at")
    return Named(
        at if isinstance(at, str) else "",
        tuple(str(rip) for rip in _rips(columns) if rip),
        frozenset(_processes(columns.get("process"))),
    )


def _rips(columns: Mapping[str, Json]) -> Iterator[Json]:
    yield columns.get("rip")
    cpus = columns.get("cpus")
    for cpu in cpus if isinstance(cpus, list) else ():
        yield cpu["rip"] if isinstance(cpu, Mapping) else None


def _processes(process: Json) -> Iterator[str]:
    if isinstance(process, Mapping):
        yield from (str(process[key]) for key in ("name", "pid") if process.get(key) is not None)
    elif process is not None:
        label = str(process)
        name, _, pid = label.rstrip(")").partition(" (pid ")
        yield from (label, name, *([pid] if pid else []))
