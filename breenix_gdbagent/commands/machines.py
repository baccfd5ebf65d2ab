"""From target options to a machine that runs."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent import targets
from breenix_gdbagent.commands.target import Target
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.targets import Machine


def open_machine(target: Target) -> Machine:
    """Launch or attach. The caller closes `vm`. Raises `InputError`, `QemuError`, `LinkError`."""
    options = target.options
    if target.kind == "gdb":
        from breenix_gdbagent.commands.progress import SlowRead

        machine = targets.running(
            options.gdb,
            qmp=options.qmp,
            ram=options.ram,
            serial=options.serial,
            kernel=options.kernel,
            ram_size=options.ram_size,
        )
        machine.vm.reading = SlowRead()
        return machine
    settings = {
        **getattr(options, "settings", {}),
        "accel": options.accel,
        "deterministic": True if options.deterministic else None,
    }
    if target.kind == "lab":
        return targets.lab(
            options.lab, stripped=options.stripped, config=options.config, **settings
        )
    return targets.breenix(
        options.breenix,
        image=options.image,
        kernel=options.kernel,
        disks=options.disk,
        config=options.config,
        **settings,
    )


SETTINGS = ("deterministic", "memory", "cpu", "smp", "accel")


def machine_facts(machine: Machine) -> dict[str, Json]:
    """What boots the same again: configuration, clock mode, hashes of ELF and images."""
    config, image = machine.vm.config, machine.image
    settings: dict[str, Json] = {}
    if config is not None:
        settings = {name: getattr(config.settings, name) for name in SETTINGS}
    return {
        "config": config.name if config is not None else None,
        "settings": settings,
        "kernel": image.sha256 if image is not None else None,
        "images": [sha256(file) for file in machine.files],
    }


def sha256(file: Path) -> str:
    """Of a whole file, hexadecimal. Raises `InputError`."""
    try:
        with file.open("rb") as stream:
            import hashlib

            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
