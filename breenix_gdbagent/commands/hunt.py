"""``hunt``: many boots of one kernel, and what came of them."""

from __future__ import annotations

import argparse
import importlib
import random
import shutil
import time
from pathlib import Path
from typing import cast

from breenix_gdbagent.commands import Parser, seconds
from breenix_gdbagent.commands.ci import add_run_end_options
from breenix_gdbagent.commands.hunt_faces import add_face_options, check_faces, write_faces
from breenix_gdbagent.commands.hunt_progress import HuntProgress
from breenix_gdbagent.commands.output import aside
from breenix_gdbagent.commands.target import (
    Target,
    add_target_options,
    cpus,
    description,
    target_of,
)
from breenix_gdbagent.debugger.guarded_run import Orders
from breenix_gdbagent.errors import InputError, Note
from breenix_gdbagent.fleet.boot import Boots, boots_json, boots_of, composed
from breenix_gdbagent.fleet.engines import Engine, Threads, fitting
from breenix_gdbagent.fleet.hunting import Plan, hunt
from breenix_gdbagent.fleet.settings import draw, parse_vary
from breenix_gdbagent.fleet.store import Store
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.patterns import compiled

VARIED = "seed,delay"
BOOTS = 100
PARTS = {
    "report": "a hunt that was made, told again: terminal, JSON, HTML, JUnit, GitHub",
    "compare": "two hunts: what is new, gone, more or less frequent",
}


def run(name: str, argv: list[str]) -> int:
    """``hunt`` itself, or one of its parts."""
    if argv and argv[0] in PARTS:
        module = importlib.import_module(f"breenix_gdbagent.commands.hunt_{argv[0]}")
        code: int = module.run(f"hunt {argv[0]}", argv[1:])
        return code
    options = build(name).parse_args(argv)
    check_faces(options)
    if options.resume is not None:
        return _resume(options)
    return _begin(options)


def _begin(options: argparse.Namespace) -> int:
    """A new hunt."""
    target = target_of(options, default_lab=False, must_run=True)
    if not target.boots:
        raise InputError(
            "a hunt boots a kernel many times, and a QEMU that runs already was booted once",
            fix="name what to boot: --lab, --breenix DIR, --image IMG --kernel ELF, --config NAME",
        )
    if options.output is None:
        raise InputError("hunt needs -o DIR", "what comes of each boot is kept there")
    if options.until is not None:
        compiled(options.until, "--until")
    vary = parse_vary(options.vary)
    boots = boots_from(target)
    memory = checked(boots, vary)
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    plan = Plan(
        boots, options.boots or BOOTS, seed, vary, memory, options.until_found, _limit(options)
    )
    about: dict[str, Json] = {
        "target": boots.described,
        "shown": shown(boots.described),
        "boots": plan.number,
        "seed": seed,
        "vary": list(vary),
        "memory": memory,
        "until_found": plan.until_found,
        "plan": boots_json(boots),
        "seconds": 0.0,
        "engine": None,
    }
    engine = engine_of(options, boots, memory)
    try:
        with Store.create(options.output, about) as store:
            return _hunted(store, plan, engine, options)
    finally:
        engine.close()
        _remove_if_empty(options.output)


def _resume(options: argparse.Namespace) -> int:
    """Go on with one that is there, as it says."""
    with Store.open(options.resume) as store:
        about = store.about()
        boots = boots_of(cast("dict[str, Json]", about["plan"]))
        vary = tuple(cast("list[str]", about["vary"]))
        memory = checked(boots, vary)
        plan = Plan(
            boots,
            options.boots or cast(int, about["boots"]),
            cast(int, about["seed"]),
            vary,
            memory,
            options.until_found or cast("str | None", about["until_found"]),
            _limit(options),
        )
        store.note(boots=plan.number)
        engine = engine_of(options, boots, memory)
        try:
            return _hunted(store, plan, engine, options)
        finally:
            engine.close()


def _hunted(store: Store, plan: Plan, engine: Engine, options: argparse.Namespace) -> int:
    before = cast(float, store.about()["seconds"])
    began = time.monotonic()
    store.note(engine=engine.name)
    try:
        with HuntProgress(store, plan.number) as progress:
            ended = hunt(store, plan, engine, progress.told)
    except (KeyboardInterrupt, SystemExit) as ended_by_signal:
        for words in _left_words(store):
            ended_by_signal.add_note(Note(words))
        raise
    finally:
        store.note(seconds=round(before + time.monotonic() - began, 3))
    if ended == "time":
        aside(f"breenix-gdbagent: --max-minutes is over; {'; '.join(_left_words(store))}")
    return write_faces(store, options)


def _left_words(store: Store) -> tuple[str, str]:
    """What is kept, and how to go on."""
    kept = store.count()
    if not kept:
        return "no boot had ended, so nothing is kept", "begin again"
    return (
        f"{kept} boot{'s are' if kept != 1 else ' is'} kept in {store.directory}",
        f"go on with: breenix-gdbagent hunt --resume {store.directory}",
    )


def boots_from(target: Target) -> Boots:
    """What the options name, as a value that travels."""
    options = target.options
    return Boots(
        kind=target.kind,
        orders=Orders(
            until=options.until, timeout=options.timeout, fatal_only=options.faults == "fatal"
        ),
        described=description(target),
        lab=options.lab or "clean",
        stripped=options.stripped,
        breenix=options.breenix,
        image=options.image,
        kernel=options.kernel,
        disks=tuple(options.disk),
        config=options.config,
        accel=options.accel,
        adapter=options.adapter,
        arch=options.arch,
        smp=options.smp,
        deterministic=options.deterministic,
        linger=options.linger,
        memory=options.memory,
    )


def checked(boots: Boots, vary: tuple[str, ...]) -> int:
    """The machine's RAM in bytes. Raises `InputError` where it cannot be composed, or has no place
    for what is varied."""
    config, _ = composed(boots, {})
    memory = config.settings.memory_bytes
    fixed = {"smp": boots.smp, "clock": boots.deterministic or None}
    for name in vary:
        if fixed.get(name) is not None:
            option = "--smp" if name == "smp" else "--deterministic"
            raise InputError(f"{option} and --vary {name} contradict each other", fix="drop one")
    for number in range(8):
        composed(boots, draw(0, number, vary, memory))
    return memory


def shown(described: dict[str, Json]) -> str:
    """A target in a few words."""
    if described["kind"] == "lab":
        return f"the lab guest's {described['scenario']}"
    return f"{described['kernel'] or 'a checkout'} on {described['config']}"


def engine_of(options: argparse.Namespace, boots: Boots, memory: int) -> Engine:
    """What the options name. Raises `InputError`, `ConnectError`."""
    if options.scheduler is None:
        return Threads(options.jobs or fitting(memory))
    if options.jobs is not None:
        raise InputError(
            "--jobs does not go with --scheduler",
            "each worker runs as many boots as its cores and its memory allow",
        )
    from breenix_gdbagent.fleet.cluster_engine import DaskCluster

    return DaskCluster(
        options.scheduler, boots, memory, lambda line: aside(f"breenix-gdbagent: {line}")
    )


def _limit(options: argparse.Namespace) -> float | None:
    return None if options.max_minutes is None else 60 * cast(float, options.max_minutes)


def _remove_if_empty(directory: Path) -> None:
    """A hunt without one result leaves nothing behind."""
    if not (directory / "hunt.sqlite").is_file():
        return
    with Store.open(directory) as store:
        empty = store.count() == 0
    if empty:
        shutil.rmtree(directory)


def number(text: str) -> int:
    """1 or more, for `argparse`."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 10,000,000")
    return int(text)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def add_boot_options(parser: argparse.ArgumentParser) -> None:
    """What is booted, how a boot ends, who runs it."""
    add_target_options(parser, saved=False)
    add_run_end_options(parser)
    parser.add_argument(
        "--faults", choices=("all", "fatal"), default="all",
        help="fatal: look only at faults that end the machine (all)",
    )  # fmt: skip
    parser.add_argument(
        "--memory", choices=("tables", "kernel", "all"), default="kernel",
        help="how much memory a snapshot holds (kernel)",
    )  # fmt: skip
    add_engine_options(parser)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """--jobs, --scheduler."""
    parser.add_argument("--jobs", type=cpus, metavar="J", help="boots at once (cores and memory)")
    parser.add_argument("--scheduler", metavar="ADDR", help="a Dask cluster: tcp://HOST:PORT")


def build(name: str) -> Parser:
    """The options of `hunt` itself."""
    parts = "; ".join(f"`hunt {name}`: {what}" for name, what in PARTS.items())
    parser = Parser("breenix-gdbagent hunt", epilog=f"Parts, see `help hunt PART`. {parts}.")
    add_boot_options(parser)
    add = parser.add_argument
    add("-o", "--output", type=Path, metavar="DIR", help="a new directory for all that comes")
    add("--boots", type=number, metavar="N", help=f"how many ({BOOTS})")
    add("--vary", default=VARIED, metavar="WHAT,...", help=f"of {_dimensions()} ({VARIED})")
    add("--seed", type=_whole, metavar="N", help="the same settings again")
    add("--until-found", metavar="CODE", help="end at the first boot with it")
    add("--max-minutes", type=seconds, metavar="M", help="end after so long")
    add("--resume", type=Path, metavar="DIR", help="go on with a hunt, as it says")
    add_face_options(parser)
    return parser


def _dimensions() -> str:
    from breenix_gdbagent.fleet.settings import DIMENSIONS

    return ",".join(DIMENSIONS)
