"""One boot: a run as ``ci`` makes it, with settings drawn, and what came of it as a value."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from breenix_gdbagent import run_report, targets
from breenix_gdbagent.configs import Config
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.guarded_run import GuardedRun, Orders
from breenix_gdbagent.errors import (
    AgentError,
    InputError,
    LinkError,
    OutputError,
    QemuDied,
    QemuGaveUp,
    QemuMissing,
)
from breenix_gdbagent.fleet.disturbing import DisturbedVm, disturbed
from breenix_gdbagent.fleet.result import Evidence, Found, Result, findings_of
from breenix_gdbagent.fleet.settings import Settings
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.live import LiveVm, launch
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.report.text import render
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.targets import Machine
from breenix_gdbagent.targets.facts import machine_facts

TEXT_WIDTH = 100
_NUMBERS = re.compile(r"0x[0-9a-fA-F_]+|\d+")
COUNTED = ("-icount", "shift={shift},sleep=off", "-rtc", "base=2025-01-01,clock=vm")


@dataclass(frozen=True, slots=True)
class Boots:
    """What is booted, as a worker needs it. `kind` as in the options: lab, breenix, kernel.
    `linger` is None where the machine's own holds; `memory` is what a snapshot keeps."""

    kind: str
    orders: Orders
    described: dict[str, Json]
    lab: str = "clean"
    stripped: bool = False
    breenix: Path | None = None
    image: Path | None = None
    kernel: Path | None = None
    disks: tuple[Path, ...] = ()
    config: str | None = None
    accel: str | None = None
    adapter: str | None = None
    arch: str | None = None
    smp: int | None = None
    deterministic: bool = False
    linger: float | None = None
    memory: str = "kernel"


ORDERS = ("until", "timeout", "fatal_only", "audit_every", "strict")
_PATHS = ("breenix", "image", "kernel")


def boots_json(boots: Boots) -> dict[str, Json]:
    """What is booted, so that a hunt can be gone on with: paths absolute."""
    made: dict[str, Any] = {f.name: getattr(boots, f.name) for f in fields(boots)}
    made["orders"] = {name: getattr(boots.orders, name) for name in ORDERS}
    for name in _PATHS:
        made[name] = None if made[name] is None else str(made[name].absolute())
    made["disks"] = [str(disk.absolute()) for disk in boots.disks]
    return made


def boots_of(kept: Mapping[str, Any]) -> Boots:
    """What `boots_json` has written."""
    made = dict(kept)
    made["orders"] = Orders(**made["orders"])
    for name in _PATHS:
        made[name] = None if made[name] is None else Path(made[name])
    made["disks"] = tuple(map(Path, made["disks"]))
    return Boots(**made)


@dataclass(frozen=True, slots=True)
class Job:
    """One boot to make; what is `known` already needs no snapshot any more."""

    number: int
    boots: Boots
    settings: Settings
    known: frozenset[str] = frozenset()


class Stopped(AgentError):
    """The boot was told to stop before it ended: nothing is known of it."""


class Running:
    """The guests that this process runs for a hunt; from any thread they are told to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vms: list[LiveVm] = []
        self.over = False

    @contextmanager
    def holding(self, vm: LiveVm) -> Iterator[None]:
        """While it runs. Raises `Stopped` where all were told to."""
        with self._lock:
            if self.over:
                raise Stopped("told to stop")
            self._vms.append(vm)
        try:
            yield
        finally:
            with self._lock:
                self._vms.remove(vm)

    def stop(self) -> None:
        """Those that run, and all that come."""
        with self._lock:
            self.over = True
            for vm in self._vms:
                vm.ask_to_stop()

    def again(self) -> None:
        """Boots are welcome again."""
        with self._lock:
            self.over = False


RUNNING = Running()
LOOK_SECONDS = 0.5


@contextmanager
def _watched(vm: LiveVm, unwanted: Callable[[], bool] | None) -> Iterator[None]:
    """While the block lasts the guest is told to stop as soon as nobody wants it any more."""
    if unwanted is None:
        yield
        return
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            if unwanted():
                vm.ask_to_stop()
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def boot(job: Job, unwanted: Callable[[], bool] | None = None) -> Result:
    """Run it; it ends early where it is `unwanted`, which is asked all the time. Raises `Stopped`,
    and `InputError`, `QemuMissing`, `OutputError` where no boot is possible here; every other end
    is a result."""
    began = time.monotonic()
    try:
        return _run(job, began, unwanted)
    except (InputError, QemuMissing, OutputError, Stopped):
        raise
    except AgentError as error:
        if RUNNING.over or (unwanted is not None and unwanted()):
            raise Stopped("told to stop") from error
        return _ended_badly(job, error, time.monotonic() - began)


def _run(job: Job, began: float, unwanted: Callable[[], bool] | None) -> Result:
    boots = job.boots
    machine = opened(boots, job.settings)
    with machine.vm as vm, RUNNING.holding(vm), _watched(vm, unwanted):
        linger = machine.linger if boots.linger is None else boots.linger
        asked = boots.linger is not None
        orders = replace(boots.orders, linger=linger, always_linger=asked, memory=boots.memory)
        guarded = GuardedRun(Debugger(vm, machine.image, _nothing), orders, time.monotonic)
        guarded.start()
        try:
            with disturbed(vm, job.settings):
                ended = guarded.go()
        except KeyboardInterrupt:
            raise Stopped("told to stop") from None
        report = run_report.finish(
            ended.kernel, boots.described, ended.record, ended.facts, ended.history, ended.examined
        )
        outcome, code = run_report.outcome_of(report.findings, "error", "passed")
        report = run_report.with_outcome(report, outcome, code)
        found = findings_of(report)
        evidence = None
        if any(f.root and f.fingerprint not in job.known for f in found):
            record = replace(ended.record, outcome=outcome, exit=code)
            evidence = _evidence(boots, machine, ended, record, report)
        return Result(
            job.number,
            job.settings,
            outcome,
            code,
            round(time.monotonic() - began, 3),
            round(ended.kernel.stop.seconds, 4) if found else None,
            _here(),
            vm.qemu_version,
            found,
            evidence,
        )


def _nothing(line: str) -> None:
    """What a run says in words: of a thousand nobody would read it."""


def opened(boots: Boots, settings: Settings) -> Machine:
    """The machine with the settings of one boot, started. The caller closes `vm`. Raises
    `InputError`, `QemuError`."""
    return _machine(boots, settings, _starter(settings))


def composed(boots: Boots, settings: Settings) -> tuple[Config, Machine]:
    """The machine as it would be started, and not started: `vm` of the second is none. Raises
    `InputError`."""
    seen: list[Config] = []

    def start(config: Config, **files: object) -> LiveVm:
        seen.append(config)
        return cast(LiveVm, None)

    machine = _machine(boots, settings, cast(targets.Start, start))
    return seen[0], machine


def _machine(boots: Boots, settings: Settings, start: targets.Start) -> Machine:
    memory = settings.get("memory")
    given: dict[str, Any] = {
        "smp": settings.get("smp", boots.smp),
        "memory": None if memory is None else f"{memory}M",
        "accel": boots.accel,
        "deterministic": True if boots.deterministic or "clock" in settings else None,
        "adapter": boots.adapter,
        "start": start,
    }
    if boots.kind == "lab":
        return targets.lab(
            boots.lab, stripped=boots.stripped, config=boots.config, arch=boots.arch, **given
        )
    if boots.kind == "kernel":
        assert boots.kernel is not None and boots.config is not None
        return targets.kernel(boots.kernel, config=boots.config, disks=boots.disks, **given)
    return targets.breenix(
        boots.breenix,
        image=boots.image,
        kernel=boots.kernel,
        disks=boots.disks,
        config=boots.config,
        **given,
    )


def _starter(settings: Settings) -> targets.Start:
    def start(
        config: Config,
        *,
        elf: Image,
        image: Path | None = None,
        kernel: Path | None = None,
        disks: Sequence[Path] = (),
        append: str | None = None,
    ) -> LiveVm:
        return launch(
            with_arguments(config, settings),
            image=image,
            kernel=kernel,
            disks=disks,
            append=append,
            vm_class=DisturbedVm,
        )

    return start


def with_arguments(config: Config, settings: Settings) -> Config:
    """The machine with what QEMU is told of the settings besides memory and CPUs."""
    arguments = config.arguments
    when = dict(config.when)
    if "seed" in settings:
        arguments = (*arguments, "-seed", str(settings["seed"]))
    if "clock" in settings:
        shift = str(settings["clock"])
        counted = when.get("deterministic") or COUNTED
        when["deterministic"] = tuple(
            re.sub(r"shift=(\d+|\{shift\})", f"shift={shift}", part) for part in counted
        )
    return replace(config, arguments=arguments, when=when)


def _evidence(
    boots: Boots, machine: Machine, ended: Any, record: Any, report: Report
) -> Evidence | None:
    """The stop as a snapshot, in memory; None where QEMU's RAM has gone with it."""
    with tempfile.TemporaryDirectory(prefix="breenix-hunt-") as place:
        path = Path(place) / "stop.core"
        try:
            run_report.save(
                path,
                ended.kernel,
                boots.memory,
                boots.described,
                record,
                ended.facts,
                ended.history,
                machine_facts(machine),
                report,
            )
        except OutputError:
            if not path.exists():
                return None
        core = path.read_bytes()
    import json

    return Evidence(core, render(report, TEXT_WIDTH), json.dumps(report.to_json(), indent=1))


def _ended_badly(job: Job, error: AgentError, seconds: float) -> Result:
    """QEMU died or the link was lost: a finding like any other, told by the error's own words."""
    name = (
        "qemu-died"
        if isinstance(error, QemuDied | QemuGaveUp)
        else ("link-lost" if isinstance(error, LinkError) else "agent-failed")
    )
    subject = " ".join(_NUMBERS.sub("N", error.why or error.what).split())[:80]
    found = Found(f"{name}@{subject}", name, "error", "ending", True, error.what)
    return Result(
        job.number, job.settings, name, 3, round(seconds, 3), None, _here(), None, (found,)
    )


def _here() -> str:
    """Which worker: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"
