"""The small kernel of fixtures/small, which is not Breenix's: assembled, booted, and looked at."""

from __future__ import annotations

import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from breenix_gdbagent import configs
from tests.guest.live_support import Logged, logged_exceptions

LOADER = "fixtures/small/loader.s"
SOURCE = Path(__file__).parents[2] / "fixtures" / "small" / "small.s"
IDLES, READS, PIC, RESETS, WAITS, PANICS, DEAD, NO_NXE, UNALIGNED, GDT_READ_ONLY = range(10)
NO_RAM, EMPTY, NO_TABLE, TOO_HIGH, CPU_1_DIES, CPU_1_HALTS, SHORT_IDT, DATA_GATE = range(10, 18)
CODE_32, ERROR_CODE_LEFT = 18, 19
TICK_FIRST, UPPER_LEVELS = 23, 24
OVERFLOWS, OVERFLOWS_TOLD, PUSHES_NOWHERE, CLEARS_CODE, OVER_TABLES = range(40, 45)
NO_RSP0, NO_IST, ON_USERS_STACK, DOWNWARDS, NARROW = range(45, 50)
MENDED, NOT_MENDED, NO_EOI, JUMPS_NOWHERE, SHORT_GDT = range(50, 55)
CODES = {"pic.not-remapped": PIC, "tables.nx-without-nxe": NO_NXE, "loader-fault": LOADER,
         "kernel-code.overwritten": CLEARS_CODE}  # fmt: skip
"""Codes that no scenario of the lab guest has, and the case of this one, or the loader, that has
them."""

needs_small_guest = pytest.mark.skipif(
    None in map(shutil.which, ("as", "ld", "qemu-system-x86_64")),
    reason="no as, ld or qemu-system-x86_64",
)


def assembled(case: int, room: Path) -> Path:
    """The ELF of one case (they are listed at the top of its source)."""
    kernel, object_ = room / f"small{case}.elf", room / f"small{case}.o"
    subprocess.run(["as", "--64", "--defsym", f"CASE={case}", "-o", object_, SOURCE], check=True)
    subprocess.run(
        ["ld", "-m", "elf_x86_64", "-Ttext", "0x100000", "-z", "max-page-size=4096",
         "-z", "noexecstack", "--build-id=none", "-e", "start", "-o", kernel, object_],
        check=True,
    )  # fmt: skip
    return kernel


@dataclass(frozen=True)
class Booted:
    """A QEMU that a user started, with what the agent is told of it."""

    process: subprocess.Popen[bytes]
    room: Path

    @property
    def options(self) -> list[str]:
        """The target, with QMP and without the kernel."""
        return ["--gdb", f"unix:{self.room}/gdb", "--qmp", f"{self.room}/qmp"]

    @property
    def serial(self) -> str:
        return f"unix:{self.room}/serial"

    @property
    def exceptions(self) -> list[Logged]:
        """The judge: what QEMU itself delivered."""
        return logged_exceptions((self.room / "int.log").read_text())

    def until_logged(self, count: int, seconds: float = 60.0) -> None:
        """Until QEMU has delivered so many, on whichever CPU. Raises `TimeoutError`."""
        end = time.monotonic() + seconds
        while len(self.exceptions) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(self.exceptions)} exceptions")
            select.select([], [], [], 0.01)


def qemu_version() -> tuple[int, ...]:
    """Of the QEMU that `booted` starts."""
    told = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"version (\d+(?:\.\d+)+)", told)
    assert found is not None, told
    return tuple(int(part) for part in found[1].split("."))


@contextmanager
def booted(
    kernel: Path, room: Path, *more: str, until: bytes = b"\n", told: str = "beside"
) -> Iterator[Booted]:
    """`kernel` in a QEMU of its own, up to `until` in what it says: on COM2, ``beside`` COM1 which
    the agent may have, or on COM1 itself (``serial``)."""
    agents = ("-serial", f"unix:{room}/serial,server=on,wait=off") if told == "beside" else ()
    line = [
        "qemu-system-x86_64", "-display", "none", "-nodefaults", "-no-user-config",
        "-machine", "pc", "-m", "64M",
        *agents, "-serial", "stdio",
        "-gdb", f"unix:{room}/gdb,server=on,wait=off",
        "-qmp", f"unix:{room}/qmp,server=on,wait=off",
        "-d", "int", "-D", f"{room}/int.log", "-kernel", str(kernel), *more,
    ]  # fmt: skip
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        said = b""
        while until not in said:
            byte = process.stdout.read(1)
            if not byte:
                raise EOFError("QEMU has ended")
            said += byte
        yield Booted(process, room)
    finally:
        process.kill()
        process.communicate()


def loader_disk(case: int, room: Path) -> Path:
    """A directory that QEMU shows as a FAT disk, with the loader on it where UEFI looks for one."""
    program = room / "fat" / "EFI" / "BOOT" / "BOOTX64.EFI"
    program.parent.mkdir(parents=True)
    source, object_ = SOURCE.with_name("loader.s"), room / "loader.o"
    subprocess.run(["as", "--64", "--defsym", f"CASE={case}", "-o", object_, source], check=True)
    subprocess.run(
        ["ld", "-m", "elf_x86_64", "-Ttext", "0", "--oformat", "binary", "-e", "0", "-o", program,
         object_], check=True,
    )  # fmt: skip
    return room / "fat"


def uefi_machine(disk: Path, room: Path) -> Path:
    """The machine `disk-uefi` with that directory for its disk, and no image."""
    text = (configs.directory() / "disk-uefi.toml").read_text("utf-8")
    text = text.replace('needs = ["image"]', 'needs = ["kernel"]')
    text = text.replace(
        '"if=ide,format=raw,snapshot=on,file={image}"', f'"if=ide,format=raw,file=fat:rw:{disk}"'
    )
    path = room / "uefi.toml"
    path.write_text(text, "utf-8")
    return path
