"""Guests by the names that clients have for them, taken hold of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent import targets
from breenix_gdbagent.debugger.debugger import Debugger
from breenix_gdbagent.debugger.held import HeldGuest
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json


@dataclass(frozen=True, slots=True)
class Started:
    """What a client names to be started: `lab`, `breenix`, `image` with `kernel`, or `kernel` with
    `config`. `smp` None is what the machine has."""

    lab: str | None = None
    breenix: str | None = None
    image: str | None = None
    kernel: str | None = None
    config: str | None = None
    disks: tuple[str, ...] = ()
    smp: int | None = None
    deterministic: bool = False

    def check(self) -> None:
        """Raises `InputError` unless one guest is named."""
        given = (("lab", self.lab), ("breenix", self.breenix), ("image", self.image))
        named = [name for name, value in given if value]
        if len(named) > 1:
            raise InputError(f"two guests at once: {' and '.join(named)}", fix="name one")
        if not named and not (self.kernel and self.config):
            raise InputError(
                "no guest named",
                fix="name one: lab (a scenario), breenix (a built checkout), image and kernel, or "
                "kernel and config",
            )


def launched(started: Started) -> HeldGuest:
    """Start it; it stands before its first instruction. Raises `InputError`, `QemuError`."""
    started.check()
    clock = True if started.deterministic else None
    files = [Path(one) for one in started.disks]
    kernel = Path(started.kernel) if started.kernel else None
    if started.lab:
        machine = targets.lab(
            started.lab, config=started.config, smp=started.smp, deterministic=clock
        )
        return _held(machine, {"kind": "lab", "scenario": started.lab, "stripped": False})
    if started.breenix or started.image:
        machine = targets.breenix(
            Path(started.breenix) if started.breenix else None,
            image=Path(started.image) if started.image else None,
            kernel=kernel,
            disks=files,
            config=started.config,
            smp=started.smp,
            deterministic=clock,
        )
        return _held(machine, _named("breenix", started.config or "breenix", kernel))
    assert kernel is not None and started.config is not None
    machine = targets.kernel(
        kernel, config=started.config, disks=files, smp=started.smp, deterministic=clock
    )
    return _held(machine, _named("kernel", started.config, kernel))


def attached(
    gdb: str,
    *,
    qmp: str | None,
    ram: str | None,
    serial: str | None,
    kernel: str | None,
) -> HeldGuest:
    """Take hold of a QEMU that runs, which stops it; let go, it goes on as it was found. Raises
    `InputError`, `LinkError`."""
    elf = Path(kernel) if kernel else None
    machine = targets.running(
        gdb, qmp=qmp, ram=Path(ram) if ram else None, serial=serial, kernel=elf
    )
    return _held(machine, {"kind": "gdb", "kernel": None if elf is None else elf.name})


def _held(machine: targets.Machine, target: Mapping[str, Json]) -> HeldGuest:
    """Faults are caught from here on; what could not be taken hold of is closed."""
    debugger = Debugger(machine.vm, machine.image)
    try:
        debugger.start()
    except BaseException:
        machine.vm.close()
        raise
    return HeldGuest(debugger, target, machine.linger)


def _named(kind: str, config: str, kernel: Path | None) -> dict[str, Json]:
    name = None if kernel is None else kernel.name
    return {"kind": kind, "config": Path(config).name, "kernel": name}
