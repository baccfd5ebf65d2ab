"""Which Breenix machine a kernel wants, and the disks it boots with, seen in what was built.

Each machine's file says by which bytes of the kernel's ELF it is known (``kernel_has``) and which
disks of a checkout it boots with (``disks``, in the order in which the kernel numbers them).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent import configs
from breenix_gdbagent.configs import CheckoutDisk, Config
from breenix_gdbagent.errors import InputError

USUAL = "breenix"
"""The machine of a Breenix that none of the others is for."""


@dataclass(frozen=True, slots=True)
class MachineChoice:
    """The machine by name, why it and no other (None where the user named it), and its disks.

    `found` are the disks that were looked for and found, `lacking` those that are not there and
    that the kernel boots without.
    """

    config: str
    why: str | None
    disks: tuple[Path, ...] = ()
    found: tuple[Path, ...] = ()
    lacking: tuple[CheckoutDisk, ...] = ()


def choose(
    kernel: Path, image: Path, directory: Path | None, config: str | None, disks: Sequence[Path]
) -> MachineChoice:
    """The machine for `kernel` and its disks: `config` and `disks` where the user names them
    (``none``: boots without any), else what the ELF and the checkout show.

    Raises `InputError` for a disk that the kernel does not boot without and that is not there.
    """
    name, why = (config, None) if config is not None else _known_by(kernel)
    if [str(disk) for disk in disks] == ["none"]:
        return MachineChoice(name, why)
    if disks:
        return MachineChoice(name, why, tuple(disks))
    machine = configs.load(name)
    found: list[Path] = []
    lacking: list[CheckoutDisk] = []
    for disk in machine.disks:
        path = _where(disk, image, directory)
        if path is not None:
            found.append(path)
        elif disk.needed:
            raise _missing(machine, disk, image, directory)
        else:
            lacking.append(disk)
    return MachineChoice(name, why, tuple(found), tuple(found), tuple(lacking))


def _known_by(kernel: Path) -> tuple[str, str]:
    """The machine whose mark is in the ELF, and the reason in words."""
    machines = [configs.load(name) for name in configs.names()]
    marked = [machine for machine in machines if machine.kernel_has]
    with kernel.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        for machine in marked:
            for mark, meaning in machine.kernel_has.items():
                if whole.find(mark.encode()) >= 0:
                    return machine.name, f"{meaning} ({mark!r} is in {kernel.name})"
    marks = ", ".join(repr(mark) for machine in marked for mark in machine.kernel_has)
    return USUAL, f"{kernel.name} has none of {marks}"


def _where(disk: CheckoutDisk, image: Path, directory: Path | None) -> Path | None:
    """The disk's image in the checkout; without one, in the directory tree that `image` is in."""
    for root in _roots(image, directory):
        for place in (disk.path, *disk.instead):
            path = root / place
            if path.is_file() and path.stat().st_size:
                return path
    return None


def _roots(image: Path, directory: Path | None) -> list[Path]:
    """Where a checkout's ``target/`` may lie."""
    if directory is not None:
        return [directory]
    above = [parent.parent for parent in image.absolute().parents if parent.name == "target"]
    return [*above[:1], image.parent]


def _missing(
    machine: Config, disk: CheckoutDisk, image: Path, directory: Path | None
) -> InputError:
    root = _roots(image, directory)[0]
    return InputError(
        f"machine {machine.name} boots with {disk.path}, and {root} has none",
        disk.about,
        f"build it: {disk.build}; or give --disk FILE in the kernel's order, or --disk none",
    )
