"""``--breenix DIR``: the newest image of a built checkout, and the kernel ELF that is in it."""

from __future__ import annotations

import mmap
from pathlib import Path

from breenix_gdbagent.errors import InputError

IMAGES = "target/*/build/breenix-*/out/breenix-uefi.img"
KERNELS = "target/x86_64-*/*/deps/artifact/kernel-*/bin/kernel-*"
AARCH64 = "target/aarch64-*"
BUILD_LINE = "build it for x86-64 first: cargo build --release (its own README has the features)"


def find_build(directory: Path, kernel: Path | None) -> tuple[Path, Path]:
    """(image, kernel ELF): the newest image, and the ELF whose bytes are in it.

    The bootloader packs the ELF as it is, so the right one is proved and not guessed by date.
    Raises `InputError`: no checkout, not built, only aarch64, no ELF that matches.
    """
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}", fix="name a Breenix checkout")
    if not (directory / "kernel").is_dir() and not (directory / "target").is_dir():
        raise InputError(
            f"{directory} is no Breenix checkout", "it has neither kernel/ nor target/"
        )
    images = sorted(directory.glob(IMAGES), key=_age)
    if not images:
        if any(directory.glob(AARCH64)):
            raise InputError(
                f"{directory} is built for aarch64 only, and the agent reads x86-64",
                fix=BUILD_LINE,
            )
        raise InputError(f"{directory} has no built UEFI image in target/", fix=BUILD_LINE)
    elves = sorted((p for p in directory.glob(KERNELS) if _is_elf(p)), key=_age)
    if kernel is not None:
        elves = [kernel]
    if not elves:
        raise InputError(f"{directory} has an image but no kernel ELF in target/", fix=BUILD_LINE)
    for image in images:
        for elf in elves:
            if _packed(image, elf):
                return image, elf
    raise InputError(
        f"none of the {len(elves)} kernel ELFs in {directory} is the one packed in an image",
        f"the newest image is {images[0].relative_to(directory)}",
        "build again, so that both come from one build, or give --image and --kernel",
    )


def _age(path: Path) -> float:
    """Newest first."""
    return -path.stat().st_mtime


def _is_elf(path: Path) -> bool:
    if not path.is_file() or path.suffix == ".d":
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _packed(image: Path, elf: Path) -> bool:
    """Whether the ELF's bytes lie in the image in one piece (FAT keeps a fresh file together)."""
    data = elf.read_bytes()
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return whole.find(data) >= 0
