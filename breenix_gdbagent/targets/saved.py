"""A stop out of a file: a snapshot of ours or a bare core, with the kernel's ELF where it ran."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.snapshot.opening import read_snapshot
from breenix_gdbagent.stop import Stop

if TYPE_CHECKING:
    from breenix_gdbagent.snapshot.note import ImageRecord


def saved(
    path: Path,
    kernel: Path | None = None,
    ram_size: str | None = None,
    adapter: str | None = None,
) -> tuple[Stop, Mapping[str, Json] | None]:
    """The Stop a snapshot holds, with the kernel's ELF where one is given or is our own, and what
    the run left beside it (None in a bare core). `ram_size` is the RAM map that a bare core lacks
    (``512M``, or ranges). `adapter` is the word for what is known of the kernel. Raises
    `InputError`."""
    ram = None
    if ram_size:
        from breenix_gdbagent.memory.ramfile import parse_ram_size

        ram = parse_ram_size(ram_size)
    opened = read_snapshot(path, ram)
    at = opened.stop
    if adapter is not None:
        from breenix_gdbagent.kernel.adapters import source_of

        at = at._replace(adapter=source_of(adapter))
    if kernel is None and opened.image is not None:
        from breenix_gdbagent import lab

        kernel = lab.elf_of(opened.image.sha256) or _remembered(opened.extra, opened.image)
    stop = at if kernel is None else _with_elf(at, kernel, opened.image)
    return stop, opened.extra


def _remembered(extra: Mapping[str, Json] | None, record: ImageRecord) -> Path | None:
    """The ELF where the snapshot says that it was, if that very file is still there."""
    path = (extra or {}).get("kernel")
    if not isinstance(path, str) or not Path(path).is_file():
        return None
    from breenix_gdbagent.symbols import Image

    try:
        return Path(path) if Image.open(path).sha256 == record.sha256 else None
    except InputError:
        return None


def _with_elf(stop: Stop, path: Path, record: ImageRecord | None) -> Stop:
    """`stop` with the ELF where the snapshot says it ran; proved by its code when the file is
    another one than `record` names. Raises `InputError`."""
    from breenix_gdbagent.kernel.image import with_image
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.symbols import Image

    image = Image.open(path)
    if record is not None and record.bias is not None and record.sha256 == image.sha256:
        return stop._replace(image=image.loaded(record.bias))
    placed, bias = with_image(stop, image)
    if record is None and bias is None and Kernel(stop).percpus:
        raise InputError(
            f"{path.name} is not the kernel that runs: nothing in memory agrees with it",
            fix="give the ELF of the very build that booted, or none",
        )
    if record is not None and record.sha256 is not None and (bias is None or not bias.proved):
        raise InputError(
            f"{path.name} is not the ELF that ran: its SHA-256 differs, and its code cannot be "
            "compared",
            fix=f"give the ELF with SHA-256 {record.sha256[:16]}...",
        )
    return placed
