"""``--breenix DIR``: the newest image of a built checkout, and the kernel ELF that is in it."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf_header import is_elf
from breenix_gdbagent.symbols import Image

IMAGES = "target/*/build/breenix-*/out/breenix-uefi.img"
KERNELS = "target/x86_64-*/*/deps/artifact/kernel-*/bin/kernel-*"
AARCH64 = "target/aarch64-*"
SECTOR = 512
ISO_9660 = 16 * 2048 + 1
"""Where an ISO image says what it is (ECMA-119, 8.1)."""
BUILD_LINE = "build it for x86-64 first: cargo build --release (its own README has the features)"


@dataclass(frozen=True, slots=True)
class Build:
    """What was chosen in a checkout, and out of what.

    `images` and `kernels` count all that lie there; `passed_over` are images newer than the chosen
    one that hold none of the ELFs: their own was overwritten or removed.
    """

    image: Path
    kernel: Path
    images: int = 1
    kernels: int = 1
    passed_over: tuple[Path, ...] = ()

    @property
    def only(self) -> bool:
        """Whether there was nothing to choose."""
        return self.images == self.kernels == 1


def find_build(directory: Path, kernel: Path | None) -> Build:
    """The newest image that holds one of the ELFs, and the ELF whose bytes are in it.

    The bootloader packs the ELF as it is, so the right one is proved and not guessed by date.
    Raises `InputError`: no checkout, not built, only aarch64, no ELF that matches.
    """
    images = _images(directory)
    if kernel is not None:
        if not kernel.is_file():
            raise InputError(f"there is no kernel ELF {kernel}")
        elves = [kernel]
    else:
        elves = _newest_first(p for p in directory.glob(KERNELS) if _is_elf(p))
    if not elves:
        raise InputError(f"{directory} has an image but no kernel ELF in target/", fix=BUILD_LINE)
    for number, image in enumerate(images):
        for elf in elves:
            if _packed(image, elf):
                return Build(image, elf, len(images), len(elves), tuple(images[:number]))
    raise InputError(
        f"none of the {len(elves)} kernel ELFs in {directory} is the one packed in an image"
        if kernel is None
        else f"{kernel.name} is packed in none of the {len(images)} images in {directory}",
        f"the newest image is {images[0].relative_to(directory)}",
        "build again, so that both come from one build, or give --image and --kernel",
    )


def _images(directory: Path) -> list[Path]:
    """Newest first, at least one. Raises `InputError`."""
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}", fix="name a Breenix checkout")
    if not (directory / "kernel").is_dir() and not (directory / "target").is_dir():
        raise InputError(
            f"{directory} is no Breenix checkout", "it has neither kernel/ nor target/"
        )
    images = _newest_first(directory.glob(IMAGES))
    if not images:
        if any(directory.glob(AARCH64)):
            raise InputError(
                f"{directory} is built for aarch64 only, and the agent reads x86-64",
                fix=BUILD_LINE,
            )
        raise InputError(f"{directory} has no built UEFI image in target/", fix=BUILD_LINE)
    return images


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    """Files that are there and not empty (a build that was cut off, a link to nothing)."""
    found = [p for p in paths if p.is_file() and p.stat().st_size]
    return sorted(found, key=lambda p: (-p.stat().st_mtime, p))


def _is_elf(path: Path) -> bool:
    if not path.is_file() or path.suffix == ".d":
        return False
    with path.open("rb") as file:
        return is_elf(file.read(4))


def _packed(image: Path, elf: Path) -> bool:
    """Whether the ELF's bytes lie in the image in one piece (FAT keeps a fresh file together)."""
    data = elf.read_bytes()
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return whole.find(data) >= 0


def verify(image: Path, elf: Path) -> None:
    """Refuse an image that is no disk, or that does not hold this ELF's code.

    Sectors are looked for, so a file in fragments is found too, and so is the code of an ELF whose
    debug information was stripped before it was packed. Raises `InputError`.
    """
    if not image.is_file():
        raise InputError(f"there is no image {image}", fix="is it built?")
    if image.stat().st_size < 2 * SECTOR:
        raise InputError(f"{image} is no disk image: it has {image.stat().st_size} bytes")
    pieces = _code_sectors(elf)
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        iso = whole[ISO_9660 : ISO_9660 + 5] == b"CD001"
        if whole[SECTOR - 2 : SECTOR] != b"\x55\xaa" and not iso:
            raise InputError(
                f"{image} is no disk image",
                "its first sector has no boot signature, and it is no ISO 9660",
                "give the image that the build wrote (Breenix: breenix-uefi.img)",
            )
        if not all(whole.find(piece) >= 0 for piece in pieces):
            raise InputError(
                f"{elf.name} is not the kernel in {image.name}",
                "its code is not found in the image",
                "give the image and the ELF of one build (or --breenix DIR, which matches them)",
            )


def _code_sectors(elf: Path) -> list[bytes]:
    """Whole sectors of the file that hold .text: the first, a middle one, the last."""
    text = Image.open(elf).text
    if text is None:
        return []
    first, end = -(-text.offset // SECTOR), (text.offset + text.size) // SECTOR
    data = elf.read_bytes()
    wanted = sorted({first, (first + end) // 2, end - 1}) if end > first else []
    return [data[i * SECTOR : (i + 1) * SECTOR] for i in wanted]
