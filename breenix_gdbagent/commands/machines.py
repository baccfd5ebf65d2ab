"""From target options to a machine that runs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.commands.target import Target
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json

if TYPE_CHECKING:
    from breenix_gdbagent.configs import Config
    from breenix_gdbagent.live import LiveVm
    from breenix_gdbagent.symbols import Image

LINGER = {"lab": 0.0}
DEFAULT_LINGER = 3.0


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest in our hands, the ELF of its kernel where one is given, seconds to stay after its
    own marker, and the disk images it boots from."""

    vm: LiveVm
    image: Image | None
    linger: float
    files: tuple[Path, ...] = ()


def open_machine(target: Target) -> Machine:
    """Launch or attach. The caller closes `vm`. Raises `InputError`, `QemuError`, `LinkError`."""
    options = target.options
    if target.kind == "gdb":
        return _attach(options)
    if target.kind == "lab":
        return _lab(options)
    from breenix_gdbagent import configs
    from breenix_gdbagent.live import launch
    from breenix_gdbagent.symbols import Image

    image, kernel = options.image, options.kernel
    if options.breenix is not None:
        from breenix_gdbagent.commands.checkout import find_build

        image, kernel = find_build(options.breenix, options.kernel)
    else:
        from breenix_gdbagent.commands.checkout import verify

        verify(image, kernel)
    elf = Image.open(kernel)
    config = _overridden(configs.load(options.config or "breenix"), options)
    vm = launch(config, image=image, disks=options.disk)
    return Machine(vm, elf, DEFAULT_LINGER, (image, *options.disk))


def _lab(options: argparse.Namespace) -> Machine:
    from breenix_gdbagent import configs, guest
    from breenix_gdbagent.live import launch
    from breenix_gdbagent.symbols import Image

    scenario = guest.scenario(options.lab)
    elf = guest.elf(options.stripped)
    config = _overridden(configs.load(options.config or "lab"), options)
    vm = launch(config, kernel=elf, append=scenario.append, cpu=scenario.cpu)
    return Machine(vm, Image.open(elf), LINGER["lab"])


def _overridden(config: Config, options: argparse.Namespace) -> Config:
    """The machine with the settings that the command line overrides."""
    return config.with_settings(
        **getattr(options, "settings", {}),
        accel=options.accel,
        deterministic=True if options.deterministic else None,
    )


def _attach(options: argparse.Namespace) -> Machine:
    ram_map = None
    if options.ram_size:
        from breenix_gdbagent.memory.ramfile import parse_ram_size

        ram_map = parse_ram_size(options.ram_size)
    if options.ram is not None and not Path(options.ram).is_file():
        raise InputError(f"there is no RAM file {options.ram}")
    image = None
    if options.kernel is not None:
        from breenix_gdbagent.symbols import Image

        image = Image.open(options.kernel)
    from breenix_gdbagent.live import attach

    vm = attach(options.gdb, _address(options.qmp), options.ram, options.serial, ram_map=ram_map)
    return Machine(vm, image, 0.0)


def _address(path: str | None) -> str | None:
    """A QMP socket may be named by its bare path."""
    if path is None or path.startswith("unix:") or (":" in path and "/" not in path):
        return path
    return f"unix:{path}"


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
