"""The kernel's ELF placed in whole address spaces."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from breenix_gdbagent.kernel.image import with_image
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.x86.cpu import Cpu
from tests.writers.elf import Elf, text
from tests.writers.memory import FrameMemory, ram_of
from tests.writers.tables import NX, P, TableWriter, W

PAGES = 3


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("base", [9 << 39, 0x7FC0_0000_0000, 0xFFFF_9000_4000_0000])
def test_a_kernel_at_any_slot_in_pages_of_any_size(
    base: int, large: bool, tmp_path: Path
) -> None:
    """A copy that is mapped without execution, lower down, is passed over."""
    code = random.Random(5).randbytes(PAGES * 0x1000)
    (tmp_path / "kernel").write_bytes(Elf([text(code)]).build())
    writer = TableWriter()
    root = writer.new_table()
    place = 0x60_0000
    for page in range(PAGES):
        data = bytearray(code[page * 0x1000 : (page + 1) * 0x1000])
        writer.frames[place + 0x1000 + page * 0x1000] = data
    for number in range(PAGES + 1):
        at = number * 0x1000
        writer.map(root, 0x1000_0000 + at, place + at, P | W | NX)
        if not large:
            writer.map(root, base + at, place + at, P)
    if large:
        writer.map(root, base, place, P | W, level=2)
    memory = FrameMemory(writer.frames, ram_of((0, 0x100_0000)))
    # Ring 3, and no IDTR known: nothing but the tables tells.
    registers = {"rip": 0x40_0000, "cs": 0x33, "cr0": 0x8001_0001, "cr3": root, "cr4": 0x20,
                 "efer": 0xD00}  # fmt: skip
    cpus = (Cpu(0, registers),)
    stop = Stop(cpus, memory, StopReason("core"))
    placed, bias = with_image(stop, Image.open(tmp_path / "kernel"))
    assert bias is not None, placed.unplaced_why
    assert (bias.value, bias.proved) == (base, True)
