"""A firmware or a loader that goes no further, by what the real ones print."""

from __future__ import annotations

from typing import cast

import pytest

from breenix_gdbagent.checks import loader
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop, StopReason
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.x86.cpu import Cpu
from tests.said import summary
from tests.writers.machine import Machine

GRUB = """
error: no multiboot header found.
error: you need to load the kernel first.

Press any key to continue...

  Failed to boot both default and fallback entries.
"""
SHELL = "\x1b[2J\x1b[01;01H\x1b[01;01HUEFI Interactive Shell v2.2\r\nEDK II\r\nShell>"


def early(text: str) -> Kernel:
    """A CPU without paging, an ELF that is nowhere, and this on COM1."""
    cpu = Cpu(0, {"rip": 0xE9F3, "cs": 0x10, "cr0": 0x11, "cr3": 0, "cr4": 0, "efer": 0})
    return Kernel(
        Stop(
            (cpu,),
            Machine().memory(),
            StopReason("deadline"),
            serial=SerialText((SerialChunk(0, 0.0, text.encode()),)),
            unplaced=cast(Image, object()),
        )
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GRUB, "error: no multiboot header found."),
        ("error: file `/boot/k.elf' not found.\n", "error: file `/boot/k.elf' not found."),
        (SHELL, "it said 'UEFI Interactive Shell v2.2'"),
        ("No bootable device.\n", "No bootable device."),
    ],
    ids=["grub gave up", "grub, a file", "uefi shell", "seabios"],
)
def test_a_loader_that_gave_up_is_told_by_its_words(text: str, said: str) -> None:
    found = loader.fault(early(text), still=False)
    assert found is not None and found.code.name == "loader-fault"
    assert said in summary(found)


def test_of_a_loader_that_stands_still_the_last_error_is_told() -> None:
    text = "error: unknown filesystem\nPress any key to continue...\n"
    assert loader.fault(early("booting\n"), still=False) is None
    found = loader.fault(early(text.replace("unknown filesystem", "premature end")), still=True)
    assert found is not None and "it said 'error: premature end'" in summary(found)


def test_a_kernel_that_has_not_started_does_not_run_still() -> None:
    assert loader.never_started(early("booting\n")) == "ring 0, paging off"
    assert not loader.never_started(Kernel(early("").stop._replace(unplaced=None)))
