"""What boots the same again: hashes, settings and versions of a machine that we booted."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.targets import Machine

SETTINGS = ("deterministic", "memory", "cpu", "smp", "accel")


def machine_facts(machine: Machine) -> dict[str, Json]:
    """What boots the same again: configuration, clock mode, hashes of ELF, images and firmware,
    QEMU's version. None where we did not boot it."""
    config, image = machine.vm.config, machine.image
    settings: dict[str, Json] = {}
    firmware: list[Json] | None = None
    if config is not None:
        settings = {name: getattr(config.settings, name) for name in SETTINGS}
        pair = config.find_firmware()
        firmware = [] if pair is None else [sha256(pair.code), sha256(pair.vars)]
    return {
        "config": config.name if config is not None else None,
        "settings": settings,
        "kernel": image.sha256 if image is not None else None,
        "images": [sha256(file) for file in machine.files],
        "firmware": firmware,
        "qemu": machine.vm.qemu_version,
    }


def sha256(file: Path) -> str:
    """Of a whole file, hexadecimal. Raises `InputError`."""
    try:
        with file.open("rb") as stream:
            import hashlib

            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
