"""How a kernel of somebody else's boots, seen in its image or its ELF: which machine fits it."""

from __future__ import annotations

import struct
from pathlib import Path

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf_header import EM_AARCH64, SIZE, is_elf, read_header

MACHINES = ("kernel", "kernel-aarch64", "iso", "iso-uefi", "disk", "disk-uefi")
"""The machines that come with the package and are nobody's own."""

SECTOR = 512
ISO_SECTOR = 2048
_CATALOG_AT = 17 * ISO_SECTOR + 0x47
_EL_TORITO = b"EL TORITO SPECIFICATION"
_EFI = 0xEF
"""A platform id of El Torito (UEFI specification, 13.3.2.1)."""
_ESP = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")
"""The type of an EFI system partition, as it lies in a GPT (UEFI specification, 5.3.3)."""
_PVH_NOTE = struct.pack("<III", 4, 4, 18) + b"Xen\0"
"""XEN_ELFNOTE_PHYS32_ENTRY, by which QEMU boots a 64-bit ELF (Xen docs/misc/pvh.pandoc)."""
_PVH_NOTE_64 = struct.pack("<III", 4, 8, 18) + b"Xen\0"
_MULTIBOOT = struct.pack("<I", 0x1BADB002)
_MULTIBOOT_REACH = 8192
_SAYS_ITS_ADDRESSES = 1 << 16
_BOOT_CODE = 440
"""So long is the code of an MBR, which a protective one leaves empty."""
FIRST = 1 << 20


def machine_of_image(image: Path) -> str:
    """The machine that boots `image`. Where both kinds of firmware would, BIOS: it is quicker.
    Raises `InputError` for what no firmware boots."""
    head = _read(image, FIRST)
    if head[16 * ISO_SECTOR + 1 : 16 * ISO_SECTOR + 6] == b"CD001":
        return _iso(image, head)
    if head[SECTOR - 2 : SECTOR] != b"\x55\xaa":
        raise InputError(
            f"{image} is nothing that boots",
            "its first sector has no boot signature, and it is no ISO 9660",
        )
    efi = _ESP in head[SECTOR : 34 * SECTOR] or _has_efi_partition(head)
    if _is_efi_fat(image, head) or (efi and not any(head[:_BOOT_CODE])):
        return "disk-uefi"
    return "disk"


def machine_of_kernel(kernel: Path) -> str | None:
    """``kernel`` for an ELF that QEMU's -kernel loads, ``kernel-aarch64`` for any of that
    architecture, None for one that needs a boot loader. Raises `InputError` for what is no ELF."""
    data = _read(kernel, None)
    header = read_header(data[:SIZE])
    if not is_elf(data):
        raise InputError(f"{kernel.name} is no ELF file", fix="give the kernel's ELF")
    if header is not None and header.machine == EM_AARCH64:
        return "kernel-aarch64"
    if _PVH_NOTE in data or _PVH_NOTE_64 in data:
        return "kernel"
    flags = _multiboot_flags(data[:_MULTIBOOT_REACH])
    thirty_two = header is not None and header.bits == 32
    loads = flags is not None and (thirty_two or bool(flags & _SAYS_ITS_ADDRESSES))
    return "kernel" if loads else None


def _multiboot_flags(head: bytes) -> int | None:
    """Of a multiboot header, None where there is none (Multiboot 0.6.96, 3.1.1; QEMU
    hw/i386/multiboot.c). With bit 16 it has the addresses itself, and the ELF does not matter."""
    for at in range(0, len(head) - 11, 4):
        if head.startswith(_MULTIBOOT, at):
            magic, flags, checksum = struct.unpack_from("<3I", head, at)
            if not magic + flags + checksum & 0xFFFFFFFF:
                return int(flags)
    return None


def _read(path: Path, most: int | None) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read() if most is None else file.read(most)
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or "") from error


def _iso(image: Path, head: bytes) -> str:
    """An ISO by its El Torito boot catalog: the validation entry has the default's platform."""
    if _EL_TORITO not in head[17 * ISO_SECTOR : 18 * ISO_SECTOR]:
        raise InputError(f"{image} is an ISO that does not boot", "it has no El Torito catalog")
    sector = int.from_bytes(head[_CATALOG_AT : _CATALOG_AT + 4], "little")
    with image.open("rb") as file:
        file.seek(sector * ISO_SECTOR)
        catalog = file.read(32)
    return "iso-uefi" if len(catalog) == 32 and catalog[1] == _EFI else "iso"


def _has_efi_partition(head: bytes) -> bool:
    """Whether the MBR names an EFI system partition (type 0xef)."""
    return any(head[446 + 16 * i + 4] == _EFI for i in range(4))


def _is_efi_fat(image: Path, head: bytes) -> bool:
    """Whether it is a bare FAT file system with a directory EFI: what UEFI boots without any
    partition."""
    if not (head[54:57] == b"FAT" or head[82:85] == b"FAT"):
        return False
    return b"EFI        \x10" in head or b"BOOTX64 EFI" in _read(image, 64 << 20)
