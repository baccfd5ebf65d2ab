"""``snapshot --reproduce FILE``: boot the same again and say whether it stops at the same fault."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from breenix_gdbagent import run_report
from breenix_gdbagent.commands.ci import check_options, lingering
from breenix_gdbagent.commands.machines import open_machine
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.commands.progress import Progress
from breenix_gdbagent.commands.target import Target, explained_snapshot, target_of
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.model import Object, Report
from breenix_gdbagent.targets import Machine
from breenix_gdbagent.targets.facts import machine_facts, sha256

COMPARED = ("reason", "vector", "error_code", "cr2")


def reproduce(options: argparse.Namespace) -> int:
    """0 when the run stops at the same fault, 1 when it does not. Raises `InputError` when the
    snapshot does not say what booted, or the files are others."""
    extra, before = _kept(options)
    machine_was = cast(Object, extra["machine"])
    target = _target(options, cast(Object, extra["target"]), machine_was)
    options.write_baseline = None
    check_options(options)
    facts = cast(Object, extra["facts"])
    machine = open_machine(target)
    with machine.vm as vm:
        _same_kernel(machine, machine_was)
        other = _other_tools(machine_was, machine_facts(machine))
        fault = facts["ended"] == "fault"
        orders = Orders(
            until=None if fault else cast("str | None", facts["until"]),
            timeout=options.timeout,
            first_fault=fault and len(before.stops) == 1,
        )
        watching = _as_then(lingering(orders, options, machine), before)
        run = GuardedRun(Debugger(vm, machine.image), watching)
        with Progress(vm):
            run.start()
            ended = run.go()
        after = run_report.finish(
            ended.kernel,
            cast(Object, extra["target"]),
            ended.record,
            ended.facts,
            ended.history,
            ended.examined,
        )
    return compare(before, after, other, options.json)


def _as_then(orders: Orders, before: Report) -> Orders:
    """The orders with the guest watched after its marker for as long as the fault took to come
    then, twice: no two boots take the same time."""
    run = before.run
    if not run.succeeded:
        return orders
    return replace(orders, linger=max(orders.linger, 2 * run.watched), always_linger=True)


def _kept(options: argparse.Namespace) -> tuple[Object, Report]:
    """What the snapshot's run left beside the stop, and its report."""
    reading = argparse.Namespace(**{**vars(options), "snapshot": options.reproduce})
    reading.kernel = options.kernel
    stop, extra = explained_snapshot(Target("snapshot", reading))
    if extra is None or "machine" not in extra:
        raise InputError(
            f"{options.reproduce.name} does not say what booted", "it is no snapshot of ours"
        )
    return extra, run_report.document_of(stop, extra, {})


def _target(options: argparse.Namespace, named: Object, was: Object) -> Target:
    """The target that booted, from what the snapshot says and the files given now."""
    if was["config"] is None:
        raise InputError(
            f"{options.reproduce.name} was taken from a QEMU that we did not boot",
            fix="boot it as it was booted then, and compare with: diff",
        )
    if named["kind"] == "lab":
        options.lab, options.stripped = str(named["scenario"]), bool(named["stripped"])
        options.arch = named.get("arch")
    elif named["kind"] == "kernel":
        if options.kernel is None:
            raise InputError("--reproduce needs the kernel that booted", fix="give --kernel ELF")
    elif options.image is None or options.kernel is None:
        raise InputError(
            "--reproduce needs the files that booted", fix="give --image IMG --kernel ELF"
        )
    if options.smp is not None:
        raise InputError(
            "--smp does not go with --reproduce", "the same boots again, with the CPUs of then"
        )
    options.config = options.config or str(was["config"])
    options.settings = dict(cast(Mapping[str, Json], was["settings"]))
    options.settings.pop("accel", None)
    options.settings.pop("deterministic", None)
    options.deterministic = bool(cast(Object, was["settings"])["deterministic"])
    images = cast("list[str]", was["images"])
    boots = [] if options.image is None else [options.image]
    given: list[Path] = [*boots, *options.disk]
    if [sha256(file) for file in given] != images:
        raise InputError(
            "the images are not those that booted: their SHA-256 differ",
            f"the snapshot's: {', '.join(i[:16] for i in images) or 'none'}",
            "give the same --image and --disk, in the same order",
        )
    return target_of(options, default_lab=False, must_run=True)


def _same_kernel(machine: Machine, was: Object) -> None:
    if machine.image is not None and machine.image.sha256 != was["kernel"]:
        raise InputError(
            f"{machine.image.path.name} is not the kernel of the snapshot: its SHA-256 differs"
        )


def _other_tools(was: Object, now: Object) -> dict[str, str]:
    """What booted it besides the files that are given, where it is another than then (older
    snapshots do not say): no reason to refuse, and one to know when the fault is another."""
    said = {"firmware": "another OVMF than then", "qemu": f"QEMU {was.get('qemu')} then"}
    return {k: text for k, text in said.items() if was.get(k) is not None and was[k] != now[k]}


def _causes(report: Report) -> list[str]:
    """What led to each exception that is an error: all that tells one triple fault from another,
    at which nothing was pushed."""
    found = [f for f in report.findings if f.kind == "event" and f.severity == "error"]
    return sorted({f"{f.cause or 'no known cause'} ({f.code})" for f in found})


def _said(value: Json) -> str:
    return "none" if value is None else str(value)


def compare(before: Report, after: Report, other: Mapping[str, str], as_json: bool) -> int:
    """Say whether the deciding stop and the errors found are the same."""
    one, two = before.stops[-1], after.stops[-1]
    differ = [name for name in COMPARED if getattr(one, name) != getattr(two, name)]
    causes = _causes(before), _causes(after)
    if causes[0] != causes[1]:
        differ.append("cause")
    prints = [{f.fingerprint for f in d.findings if f.severity == "error"} for d in (before, after)]
    same = not differ and prints[0] == prints[1]
    if as_json:
        print_json(
            {
                "same": same,
                "before": {**{n: getattr(one, n) for n in COMPARED}, "causes": list(causes[0])},
                "after": {**{n: getattr(two, n) for n in COMPARED}, "causes": list(causes[1])},
                "gone": sorted(prints[0] - prints[1]),
                "new": sorted(prints[1] - prints[0]),
                "other": sorted(other),
            }
        )
        return int(not same)
    print("the same fault again" if same else "not the same fault")
    for name in COMPARED:
        if getattr(one, name) is None and getattr(two, name) is None:
            continue  # a panic has no vector, then or now
        mark = "" if name not in differ else "   <- differs"
        then, now = (_said(getattr(stop, name)) for stop in (one, two))
        print(f"  {name.replace('_', ' '):<11} then {then}, now {now}{mark}")
    if one.vector is None and any(causes):
        mark = "   <- differs" if "cause" in differ else ""
        then, now = (", ".join(cause) or "not known" for cause in causes)
        print(f"  cause       then {then}, now {now}{mark}")
    for text, words in ((prints[0] - prints[1], "then only"), (prints[1] - prints[0], "now only")):
        for fingerprint in sorted(text):
            print(f"  {words}: {fingerprint}")
    for said in other.values():
        print(f"  booted with something else: {said}")
    return int(not same)
