"""``init machine``: it fits how the kernel boots, and reads as the machine it is made from."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from breenix_gdbagent import configs, lab
from breenix_gdbagent.commands import init
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.targets.booting import MACHINES, machine_of_image, machine_of_kernel

SECTOR, ISO_SECTOR = 512, 2048


def iso(platform: int, boots: bool = True) -> bytes:
    """An ISO with a boot catalog for that platform (ECMA-119, El Torito)."""
    data = bytearray(20 * ISO_SECTOR)
    data[16 * ISO_SECTOR : 16 * ISO_SECTOR + 6] = b"\1CD001"
    if boots:
        data[17 * ISO_SECTOR : 17 * ISO_SECTOR + 30] = b"\0CD001\1EL TORITO SPECIFICATION"
        data[17 * ISO_SECTOR + 0x47] = 19
        data[19 * ISO_SECTOR : 19 * ISO_SECTOR + 2] = bytes([1, platform])
    return bytes(data)


def disk(code: bytes = b"", partition: int = 0x83) -> bytes:
    """A disk with an MBR: code, and the type of its first partition."""
    data = bytearray(4 * SECTOR)
    data[: len(code)] = code
    data[450] = partition
    data[510:512] = b"\x55\xaa"
    return bytes(data)


def fat(name: bytes) -> bytes:
    """A bare FAT file system whose root directory has a directory of that name."""
    data = bytearray(disk(b"\xeb\x3c\x90"))
    data[54:62] = b"FAT16   "
    data[2 * SECTOR : 2 * SECTOR + 12] = name + b"\x10"
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "machine"),
    [
        (iso(0), "iso"),
        (iso(0xEF), "iso-uefi"),
        (disk(b"\xfa\x31\xc0"), "disk"),
        (disk(b"\xfa\x31\xc0", 0xEF), "disk"),
        (disk(b"", 0xEF), "disk-uefi"),
        (fat(b"EFI        "), "disk-uefi"),
        (fat(b"DOS        "), "disk"),
    ],
)
def test_the_machine_is_seen_in_the_image(tmp_path: Path, content: bytes, machine: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    assert machine_of_image(image) == machine


@pytest.mark.parametrize("content", [b"", b"no disk" * 1000, iso(0, boots=False)])
def test_what_does_not_boot_is_said(tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    with pytest.raises(InputError, match=r"nothing that boots|does not boot"):
        machine_of_image(image)


def test_a_kernel_that_qemu_loads_is_seen_in_its_elf(tmp_path: Path) -> None:
    assert machine_of_kernel(lab.elf(False)) == "kernel"
    other = tmp_path / "other.elf"
    other.write_bytes(lab.elf(False).read_bytes().replace(b"Xen\0", b"Zen\0"))
    assert machine_of_kernel(other) is None

    def header(flags: int, wrong: int) -> bytes:
        return struct.pack("<3I", 0x1BADB002, flags, (wrong - 0x1BADB002 - flags) & 0xFFFFFFFF)

    for bits, flags, wrong, seen in (
        (1, 0, 0, "kernel"),
        (1, 0, 1, None),
        (2, 0, 0, None),
        (2, 1 << 16, 0, "kernel"),  # an ELF of 64 bits that says where its parts go: lk
    ):
        other.write_bytes(b"\x7fELF" + bytes([bits, 1]) + bytes(58) + header(flags, wrong))
        assert machine_of_kernel(other) == seen


@pytest.mark.parametrize("boot", MACHINES)
def test_the_file_reads_as_the_machine_that_it_is_made_from(boot: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(init.machine_text(boot, "own", r"all '\d+' \"ok\"", "64M", 2), "utf-8")
    ours, theirs = configs.load(str(path)), configs.load(boot)
    assert (ours.name, ours.success) == ("own", r"all '\d+' \"ok\"")
    assert (ours.settings.memory, ours.settings.smp) == ("64M", 2)
    arguments = tuple(a.replace("gdbagent-own", f"gdbagent-{boot}") for a in ours.arguments)
    assert theirs == replace(
        ours, name=boot, success=None, settings=theirs.settings, arguments=arguments
    )


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, kernel = tmp_path / "m.toml", str(lab.elf(False))
    assert init.run("init", ["machine", "--kernel", kernel, "-o", str(path)]) == 0
    assert f"ci --config {path} --kernel {kernel}" in capsys.readouterr().out
    before = path.read_text()
    with pytest.raises(InputError, match="is there already"):
        init.run("init", ["machine", "--boot", "iso", "-o", str(path)])
    assert path.read_text() == before


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--success", "("),
        ("--name", "a b"),
        ("--boot", "floppy"),
        ("--boot", "iso", "--memory", "much"),
    ],
)
def test_what_is_no_machine_is_refused_and_nothing_written(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "m.toml"
    with pytest.raises((InputError, SystemExit)):
        init.run("init", ["machine", *words, "-o", str(path)])
    assert not path.exists()
