"""What every output format tells of a report, in which order and in which words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

from breenix_gdbagent.checks.finding import KINDS
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.model import (
    Object,
    Report,
    ShownCpu,
    ShownFinding,
    ShownLine,
    ShownStop,
)
from breenix_gdbagent.report.shown_walk import ShownLevel, ShownWalk
from breenix_gdbagent.x86.paging import index_at
from breenix_gdbagent.x86.vectors import VECTOR_NAMES
from breenix_gdbagent.x86.words import privilege

SEVERITIES = ("error", "warning", "info")
_TERMINAL = r"\x1b(?:\[[0-9;?=]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B])"
"""Colours and cursor moves that firmware and kernels send to a serial terminal."""

ROLES = {"process": "a process", "unknown": "not known whose"}
"""How a space without a name is called."""

REASONS = {
    "core": "a core, and why it stands still is not known",
    "shutdown": "the CPU shut down",
    "deadline": "the deadline passed",
}
"""Reasons that read better in words."""

LEVELS = {1: "PT", 2: "PD", 3: "PDPT", 4: "PML4", 5: "PML5"}
ENDS = {
    "not-present": "not present (P is clear)",
    "reserved-bits": "a reserved bit is set",
    "unreadable": "this table lies in no memory that we have",
    "non-canonical": "the address is not canonical",
}


def end_of_way(walk: ShownWalk) -> str:
    """Why a walk ends, in the words of its architecture's manual."""
    if walk.format and walk.reason == "not-present":
        return "not valid (bit 0 is clear)"
    return ENDS.get(str(walk.reason), str(walk.reason))


def objects(value: Json) -> list[Object]:
    """The list of objects that a field of the document holds."""
    return [cast(Object, v) for v in cast(Sequence[Json], value or [])]


def record(value: Json) -> Object:
    """The object that a field of the document holds."""
    return cast(Object, value)


def texts(value: Json) -> list[str]:
    """The list of strings that a field of the document holds."""
    return [str(v) for v in cast(Sequence[Json], value or [])]


def ordered(report: Report) -> list[ShownFinding]:
    """The findings as they are best told: by severity; what happened before how the run ended, and
    both before what was found; what rests on others before those; the last stop first, for it
    decided; and after each what it rests on."""
    findings = report.findings
    bases = {(f.stop, base) for f in findings for base in f.because}
    numbered = sorted(enumerate(findings), key=lambda item: (*_rank(item[1], bases), item[0]))
    told: list[ShownFinding] = []

    def tell(finding: ShownFinding) -> None:
        if any(f is finding for f in told):
            return
        told.append(finding)
        for base in finding.because:
            for _, other in numbered:
                if other.fingerprint == base and other.stop == finding.stop:
                    tell(other)

    for _, finding in numbered:
        tell(finding)
    return told


def _rank(finding: ShownFinding, bases: Collection[tuple[int, str]]) -> tuple[int, int, bool, int]:
    return (
        SEVERITIES.index(finding.severity),
        KINDS.index(finding.kind),
        (finding.stop, finding.fingerprint) in bases,
        -finding.stop,
    )


def target_words(report: Report) -> str:
    """``lab guest, scenario clean``: what was examined."""
    target = report.target
    kind = target.get("kind")
    words = {
        "lab": "lab guest", "breenix": "Breenix", "kernel": "QEMU's -kernel",
        "gdb": "a running QEMU", "snapshot": "an ELF core",
    }.get(str(kind), str(kind))  # fmt: skip
    ours = str(target.get("config")).startswith("breenix") and report.adapter is None
    if kind == "breenix" and not ours:
        words = "a disk image"
    for key, form in (
        ("scenario", "scenario {}"), ("kernel", "kernel {}"), ("config", "machine {}"),
    ):  # fmt: skip
        value = target.get(key)
        if value and value != "breenix":
            words += ", " + form.format(value)
    words += f", {target['arch']}" if target.get("arch") else ""
    return words + (", without DWARF" if target.get("stripped") else "")


def run_words(report: Report) -> str:
    """How long the guest ran and how often we stopped it; empty where nothing was run."""
    run = report.run
    if not run.seconds:
        return ""
    stops = run.agent_stops
    times = {0: "never stopped by us", 1: "stopped once by us"}.get(
        stops, f"stopped {stops} times by us"
    )
    benign = run.benign_faults
    passed = f", {benign} benign fault{'s' * (benign != 1)} passed" if benign else ""
    watched = f", watched for {run.watched:g} s after its marker" if run.watched else ""
    seen = run.interrupts
    compared = (
        f", {seen.returns} returns of {seen.entries} interrupts and exceptions compared"
        if seen is not None
        else ""
    )
    return f"the guest ran {run.seconds} s{watched}, {times}{passed}{compared}"


MANY_STOPS = 10
"""Stops by us from which on they may have changed when things happen."""


def effect_words(report: Report) -> str:
    """What our own stops may have done to a run that failed, and how to see it without them; empty
    where they were few, or the guest's clock stood still at them."""
    run = report.run
    seen = run.interrupts
    if seen is not None and not run.counted and seen.stops:
        return (
            f"comparing registers stopped the guest {seen.stops} times, at every interrupt and "
            "every return, while its timer and devices went on: it came less far in its time, and "
            "threads were preempted elsewhere than in a bare run"
        )
    failed = any(
        f.severity == "error" and (f.kind == "event" or f.code in ("hang", "panic", "reboot"))
        for f in report.findings
    )
    if run.counted or run.agent_stops < MANY_STOPS or not failed:
        return ""
    return (
        f"we stopped the guest {run.agent_stops} times while its timer and devices went on: a "
        "failure that a bare run does not have may come of that. Without it: --deterministic (the "
        "clock stands still at a stop), or --faults fatal (fewer stops)"
    )


def tests_words(document: Report) -> str:
    """What the kernel's own tests came to, by its own word; empty where it said nothing."""
    said = [
        f"{t.suite} {t.passed} passed"
        + (f", {t.failed} failed" if t.failed else "")
        + (f", {t.skipped} skipped" if t.skipped else "")
        + (f", {len(t.unfinished)} not ended" if t.unfinished else "")
        for t in document.run.tests
    ]
    return f"the kernel's own word: {'; '.join(said)}" if said else ""


def last_lines(report: Report) -> Iterator[tuple[int, list[ShownLine]]]:
    """The last lines of each port that has some, less those in which the lab guest tells its tests
    the truth: nothing that a person reads."""
    tail = report.serial.tail
    for port in sorted({line.port for line in tail}):
        lines = [n for n in tail if n.port == port and not n.text.startswith("@{")]
        if lines:
            yield port, lines


def labels(report: Report) -> dict[str, str]:
    """Root -> how people call that space: ``init (pid 1)``, ``master``."""
    named: dict[str, str] = {}
    for space in report.spaces:
        if space.name is not None and space.pid is not None:
            named[space.root] = f"{space.name} (pid {space.pid})"
        else:
            named[space.root] = ROLES.get(space.role, space.role)
    return named


def inside(cpu: ShownCpu) -> str:
    """Whose space a CPU is in and which thread it runs: ``process init (pid 1), thread init``."""
    label, thread = cpu.process, cpu.thread
    said = []
    if label is None and cpu.space is not None:
        said.append(f"in the space of {cpu.space}")
    elif label is None:
        unpaged = place_words(cpu).endswith(("real mode", "paging off"))
        root = None if unpaged else cpu.cr3
        said += [f"the space of CR3 {root}"] if root is not None else []
    else:
        kernel = {"master": "the master space", "boot": "the bootloader's tables"}
        said.append(kernel.get(str(label), f"process {label}"))
    if thread is not None and not str(label).startswith(f"{thread} (pid "):
        said.append(f"thread {thread}")
    return ", ".join(said)


def called(root: Json, named: Mapping[str, str]) -> str:
    """A root with its name: ``0x283000, init (pid 1)``."""
    name = named.get(str(root))
    return f"{root}, {name}" if name else str(root)


def chain_of(finding: ShownFinding) -> list[str]:
    """The steps that led there, where there is more than one to tell."""
    return list(finding.chain) if len(finding.chain) > 1 else []


def drawn_by_check(finding: ShownFinding) -> list[str]:
    """A walk that is told in characters, where the evidence has none as data."""
    evidence = finding.evidence
    return evidence.walk_text.splitlines() if evidence.walk is None else []


def facts(finding: ShownFinding) -> Iterator[tuple[str, Json]]:
    """The evidence that is neither a walk nor told as text already, less what says nothing."""
    sentences = f"{finding.summary} {paragraph(finding)}".lower()
    for fact in finding.evidence.facts:
        if fact.label and not (fact.repeated and str(fact.value).lower() in sentences):
            yield fact.label, fact.shown
    yield from finding.evidence.fate()


def source_words(finding: ShownFinding) -> str:
    """``kernel/src/serial.rs:12 in write, inlined in log (kernel/src/log.rs:80)``; empty where no
    line is known."""
    said = ""
    for spot in finding.source:
        place = f"{spot.file}:{spot.line}" if spot.file and spot.line else ""
        if not said:
            said = f"{place} in {spot.function}" if place else ""
        else:
            said += f", inlined in {spot.function}" + (f" ({place})" if place else "")
    return said


def paragraph(finding: ShownFinding) -> str:
    """The paragraph that explains, empty where the summary is all there is."""
    return finding.evidence.explanation


def end_of_walk(walk: ShownWalk) -> str:
    """The last line of a walk: where it leads and what is permitted, or why it ends."""
    if walk.pa is not None and walk.effective is not None:
        rights = walk.effective
        if rights.el1:
            return (
                f"physical {walk.pa}, {size_words(walk.size or 0)}, "
                f"EL1 {rights.el1}, EL0 {rights.el0}"
            )
        return (
            f"physical {walk.pa}, {size_words(walk.size or 0)} page, "
            f"{'writable' if rights.w else 'read-only'}, "
            f"{'user' if rights.u else 'supervisor'}, "
            f"{'no-execute' if rights.nx else 'executable'}"
        )
    level = walk.stopped_at
    at = f" at the {_table(walk, level)}" if level is not None else ""
    if walk.reason == "unreadable":
        return f"not known: {ENDS['unreadable']}{at}"
    return f"not mapped: {end_of_way(walk)}{at}"


def entry_name(walk: ShownWalk, level: ShownLevel) -> tuple[str, int]:
    """Table name and index of one entry of a walk: (``PML4``, 402)."""
    if level.index is not None:
        return f"L{level.level}", level.index
    return LEVELS[level.level], index_at(int(walk.va, 16), level.level)


def _table(walk: ShownWalk, level: int) -> str:
    return f"level {level} table" if walk.format else LEVELS[level]


def size_words(size: int) -> str:
    """``4 KiB``, ``1.5 MiB``: three digits at most."""
    value = float(size)
    units = iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024 and unit != "TiB":
        value /= 1024
        unit = next(units)
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def value_words(value: Json, most: int = 6) -> str:
    """A fact in words: null is ``not known``, lists are cut after `most` with their length."""
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        if {"root", "pid", "name"} <= value.keys():
            return _space_words(value)
        return ", ".join(
            f"{k.replace('_', ' ')} {value_words(v)}" for k, v in value.items() if v is not None
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            return "none"
        shown = "; ".join(value_words(v) for v in value[:most])
        return shown + (f"; ... {len(value)} in all" if len(value) > most else "")
    return str(value)


def table_rows(value: Json) -> list[Object]:
    """A fact that is a list of objects with the same keys, so that it can be a table; else none.
    Address spaces are better read as a list of their names."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return []
    if not all(isinstance(v, Mapping) for v in value):
        return []
    rows = objects(value)
    same = all(r.keys() == rows[0].keys() for r in rows)
    return rows if same and not {"root", "pid", "name"} <= rows[0].keys() else []


def _space_words(space: Object) -> str:
    """An address space among the evidence: ``init (pid 1)``, else its role, with its root."""
    if space["name"] is not None and space["pid"] is not None:
        return f"{space['name']} (pid {space['pid']})"
    return f"{space.get('role') or 'root'} {space['root']}"


def heading(finding: ShownFinding) -> str:
    """The finding's title, empty where its summary begins with it anyhow."""
    title, summary = finding.title, finding.summary
    return "" if summary.startswith(title) else title


def place_words(cpu: ShownCpu) -> str:
    """``ring 3``, ``real mode``: see `x86.words.privilege`."""
    if cpu.privilege:
        return cpu.privilege
    return privilege(int(cpu.cr0, 16) if cpu.cr0 is not None else None, cpu.cpl)


TELLING = ("ttbr0_el1", "ttbr1_el1", "esr_el1", "far_el1", "elr_el1", "spsr_el1", "vbar_el1")
"""System registers that a report names."""


def pointer_names(cpu: ShownCpu) -> tuple[str, str]:
    """What the program counter and the stack pointer of a CPU are called."""
    return ("RIP", "RSP") if cpu.system is None else ("PC", "SP")


def system_words(cpu: ShownCpu) -> list[str]:
    """``ESR_EL1 0x96000045``, of a CPU that has such registers."""
    known = cpu.system or {}
    return [f"{name.upper()} {known[name]}" for name in TELLING if name in known]


def stop_words(stop: ShownStop) -> str:
    """Why the guest was stopped: ``fault, vector 14 (#PF), error code 0x2, CR2 0x...``."""
    said = REASONS.get(stop.reason, stop.reason)
    if stop.vector is not None:
        name = stop.vector_name or VECTOR_NAMES.get(stop.vector, "")
        said += f", vector {stop.vector}" + (f" ({name})" if name else "")
    if stop.error_code is not None:
        said += f", error code {stop.error_code}"
    if stop.cr2 is not None:
        said += f", CR2 {stop.cr2}"
    return said + (f": {stop.text}" if stop.text else "")


def printable(text: str) -> str:
    """Text of the guest's as a terminal may show it: control characters as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)


def log_text(text: str) -> str:
    """A line of the serial log as people read it: terminal codes gone, the rest printable."""
    return printable(re.sub(_TERMINAL, "", text) if "\x1b" in text else text)


def matrix_classes(maps: Object) -> list[tuple[str, list[int]]]:
    """Columns of the stack matrix that are alike: (the column's cells, its spaces)."""
    rows = [str(row["cells"]) for row in objects(maps["stacks"])]
    classes: dict[str, list[int]] = {}
    for number in range(len(texts(maps["spaces"]))):
        classes.setdefault("".join(cells[number] for cells in rows), []).append(number)
    return list(classes.items())


def matrix_rows(maps: Object) -> list[tuple[list[str], str, list[str]]]:
    """Rows of the stack matrix, neighbours that are alike as one: (stacks, cells, users)."""
    found: list[tuple[list[str], str, list[str]]] = []
    for row in objects(maps["stacks"]):
        cells, users = str(row["cells"]), texts(row["users"])
        if found and found[-1][1] == cells and not users and not found[-1][2] and not row["ist"]:
            found[-1][0].append(str(row["stack"]))
        else:
            found.append(([str(row["stack"])], cells, users))
    return found


def stack_names(names: Sequence[str]) -> str:
    """``slots 0-5, 7``: names of stacks, runs of slots drawn together."""
    numbers = [int(n[5:]) for n in names if n.startswith("slot ") and n[5:].isdigit()]
    if len(numbers) != len(names) or len(names) < 2:
        return ", ".join(names)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return "slots " + ", ".join("-".join(map(str, run)) for run in runs)
