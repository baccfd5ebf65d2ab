"""The target options (``--lab``, ``--gdb``, ``--snapshot``, ...), and the session that they open.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json

if TYPE_CHECKING:
    from breenix_gdbagent.stop import Stop


def add_target_options(
    parser: argparse.ArgumentParser, *, runs: bool = True, saved: bool = True
) -> None:
    """The contract's target: one of lab, breenix, image, config with a kernel, gdb, snapshot. What
    a command refuses it does not offer: without `runs` targets that run, without `saved` a
    snapshot. It is understood all the same, and refused in words of its own."""
    group = parser.add_argument_group("target (one of)" if runs else "target")

    def running(text: str) -> str:
        return text if runs else argparse.SUPPRESS

    add = group.add_argument
    add("--lab", nargs="?", const="clean", metavar="SCENARIO", help=running("our own lab guest"))
    add("--stripped", action="store_true", help=running("with --lab: the ELF without DWARF"))
    archs = running("with --lab: whose lab guest")
    add("--arch", choices=("x86-64", "aarch64"), help=archs)
    add("--breenix", type=Path, metavar="DIR", help=running("a Breenix checkout, built"))
    add("--image", type=Path, metavar="IMG", help=running("a bootable disk image"))
    add("--kernel", type=Path, metavar="ELF", help="the kernel's ELF; with --config alone: boot it")
    disks = running("a further disk; none: boot without any")
    add("--disk", type=Path, action="append", default=[], metavar="FILE", help=disks)
    add("--gdb", metavar="ADDR", help=running("a running QEMU: unix:PATH or HOST:PORT"))
    add("--qmp", metavar="PATH", help=running("with --gdb: its QMP socket"))
    add("--ram", type=Path, metavar="FILE", help=running("with --gdb: its RAM file"))
    add("--serial", metavar="ADDR|FILE", help=running("with --gdb: its serial line"))
    ours = "an ELF core, ours or QEMU's" if saved else argparse.SUPPRESS
    add("--snapshot", type=Path, metavar="FILE", help=ours)
    if saved:
        add("--replay", type=Path, metavar="DIR", help="a recording (record -o DIR)")
        when = "with --replay: which moment (end; text that the guest wrote; 1.5s)"
        add("--at", metavar="ICOUNT|MARKER|end", help=when)
    else:
        add("--replay", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    whose = " or ".join(("a bare core",) * saved + ("a QEMU without QMP",) * runs)
    add("--ram-size", metavar="SIZE|RANGES", help=f"RAM of {whose}")
    add("--config", metavar="NAME|FILE", help=running("the machine (qemu_configs/)"))
    add("--adapter", metavar="NAME|FILE", help="the kernel: breenix, none, a .toml of it")
    add("--accel", metavar="NAME", help=running("tcg (default), kvm, hvf"))
    add("--smp", type=cpus, metavar="N", help=running("how many CPUs the machine that we boot has"))
    add("--deterministic", action="store_true", help=running("QEMU's instruction counter"))


def cpus(text: str) -> int:
    """A number of CPUs, for `argparse`."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of CPUs: 1 or more")
    return int(text)


class Target(NamedTuple):
    """What the options name. `kind`: lab, breenix (an image), kernel (an ELF that QEMU loads by
    -kernel), gdb, replay, snapshot."""

    kind: str
    options: argparse.Namespace

    @property
    def runs(self) -> bool:
        return self.kind not in ("snapshot", "replay")

    @property
    def boots(self) -> bool:
        """Whether we start QEMU ourselves."""
        return self.kind in ("lab", "breenix", "kernel")


def target_of(options: argparse.Namespace, *, default_lab: bool, must_run: bool = False) -> Target:
    """The one target that the options name.

    Raises `InputError` for none (unless `default_lab`), for two, and for an option that does not
    belong to the one chosen.
    """
    named = [
        kind
        for kind, given in (
            ("lab", options.lab is not None),
            ("breenix", options.breenix is not None or options.image is not None),
            ("gdb", options.gdb is not None),
            ("replay", options.replay is not None),
            ("snapshot", options.snapshot is not None),
        )
        if given
    ]
    if not named and options.kernel is not None and options.config is not None:
        named = ["kernel"]
    if len(named) > 1:
        raise InputError(
            f"two targets at once: {' and '.join('--' + n for n in named)}", fix="name one"
        )
    if not named:
        if options.kernel is not None:
            raise InputError(
                "--kernel alone is no target: nothing says what boots it",
                fix="add --config kernel (QEMU's -kernel), --image IMG or --gdb ADDR",
            )
        if not default_lab:
            raise InputError(
                "no target named",
                fix="name one: --lab [SCENARIO], --breenix DIR, --image IMG --kernel ELF, "
                "--config NAME --kernel ELF"
                + ("" if must_run else ", --snapshot FILE, --replay DIR")
                + " or --gdb ADDR",
            )
        options.lab = "clean"
        named = ["lab"]
    kind = named[0]
    _refuse_strays(kind, options)
    if must_run and kind == "replay":
        raise InputError(
            "this command needs a target that runs, and a recording has run",
            fix="look at it: audit --replay DIR, or shell --replay DIR",
        )
    if must_run and kind == "snapshot":
        raise InputError(
            "this command needs a target that runs",
            fix="a snapshot is examined by: breenix-gdbagent report FILE",
        )
    return Target(kind, options)


def _refuse_strays(kind: str, options: argparse.Namespace) -> None:
    allowed = {
        "lab": {"stripped", "arch", "config", "accel", "smp", "deterministic"},
        "breenix": {"kernel", "disk", "config", "accel", "smp", "deterministic"},
        "kernel": {"kernel", "disk", "config", "accel", "smp", "deterministic"},
        "gdb": {"qmp", "ram", "serial", "kernel", "ram_size"},
        "snapshot": {"kernel", "ram_size"},
        "replay": {"kernel", "at"},
    }[kind]
    for name in (
        "stripped", "arch", "kernel", "disk", "qmp", "ram", "serial", "ram_size", "config", "accel",
        "smp", "deterministic",
    ):  # fmt: skip
        if getattr(options, name, None) and name not in allowed:
            raise InputError(
                f"--{name.replace('_', '-')} does not go with --{kind}",
                _NOT_BOOTED.get(kind, "") if name in _BOOTING else "",
                fix="see: breenix-gdbagent COMMAND --help",
            )
    if kind == "breenix" and options.image is not None and options.kernel is None:
        raise InputError("--image needs --kernel ELF", fix="give the ELF that boots in the image")


_BOOTING = ("config", "accel", "smp", "deterministic")
_NOT_BOOTED = {
    "gdb": "it says how we boot a machine, and this one runs already",
    "snapshot": "it says how we boot a machine, and a snapshot is not booted",
    "replay": "it says how we boot a machine, and a recording was booted when it was made",
}


def description(target: Target) -> dict[str, Json]:
    """How reports name the target: no host paths, only what the file is called. A snapshot that
    was opened is named as what it was taken of."""
    options = target.options
    was = getattr(options, "was", None)
    if target.kind in ("snapshot", "replay") and isinstance(was, Mapping):
        return dict(was)
    if target.kind == "lab":
        named = {"kind": "lab", "scenario": options.lab, "stripped": options.stripped}
        return {**named, "arch": options.arch} if options.arch else named
    if target.kind in ("breenix", "kernel"):
        return {
            "kind": target.kind,
            "config": Path(options.config or "breenix").name,
            "kernel": options.kernel.name if options.kernel else None,
        }
    if target.kind == "gdb":
        return {"kind": "gdb", "kernel": options.kernel.name if options.kernel else None}
    return {"kind": "snapshot", "kernel": options.kernel.name if options.kernel else None}


def opened_snapshot(target: Target) -> tuple[Stop, Mapping[str, Json] | None]:
    """The Stop a snapshot holds, with the kernel's ELF where one is given or is our own, and what
    the run left beside it (None in a bare core). Raises `InputError`."""
    from breenix_gdbagent.targets.saved import saved

    options = target.options
    adapter = getattr(options, "adapter", None)
    stop, extra = saved(options.snapshot, options.kernel, options.ram_size, adapter)
    options.was = (extra or {}).get("target")
    options.beside = extra
    return stop, extra


def explained_snapshot(target: Target) -> tuple[Stop, Mapping[str, Json] | None]:
    """`opened_snapshot`; why a bare core is stopped is seen in its CPUs."""
    from breenix_gdbagent.kernel.reason import with_reason

    stop, extra = opened_snapshot(target)
    return with_reason(stop), extra
