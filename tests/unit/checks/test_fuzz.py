"""Stops of the real kernel with random things broken: the audit ends, and never with a traceback.

A guest's defect is a finding; what cannot be looked at is not checked. Nothing raises.
"""

from __future__ import annotations

import random

import pytest

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.x86.cpu import DescriptorTable, SystemSegment
from tests.unit.captures import BREENIX, LINUX
from tests.unit.checks.mutation import P, U, W, saved
from tests.writers.overlay import OverlayMemory, overlaid, with_registers

ROUNDS = 25
"""Far above what one takes (0.05 s): a bound that holds on a loaded machine."""


def frames_of(memory: OverlayMemory) -> list[int]:
    return [
        int(start) + at
        for start, piece in memory.base.filled()
        for at in range(0, len(piece), 0x1000)
    ]


def garbage(dice: random.Random, frames: list[int]) -> int:
    """An entry: random, or one that leads back into what is there."""
    return dice.choice(
        (
            dice.getrandbits(64),
            dice.choice(frames) | P | W | U,
            dice.choice(frames) | P | W,
            dice.choice(frames) | P | W | 0x80,
            0x20_0000_0000 | P | W,
            0xFEE0_0000 | P | W,
            0,
        )
    )


def number(dice: random.Random) -> int:
    return dice.choice((0, dice.getrandbits(64), dice.getrandbits(47), 0xFFFF_C900_0000_1000))


def broken(name: str, seed: int):  # type: ignore[no-untyped-def]
    """A stop of `name` with up to forty things broken."""
    dice = random.Random(f"{name} {seed}")
    stop, memory = overlaid(saved(name))
    frames = frames_of(memory)
    for _ in range(dice.randrange(1, 40)):
        memory.set_entry(dice.choice(frames) + 8 * dice.randrange(512), garbage(dice, frames))
    if dice.random() < 0.3:
        memory.frame(dice.choice(frames))[:] = dice.randbytes(0x1000)
    if dice.random() < 0.3:
        register = dice.choice(("cr3", "rsp", "rip", "cs", "gs_base", "cr4", "cr0", "eflags"))
        value = dice.choice(frames) if register == "cr3" else number(dice)
        stop = with_registers(stop, **{register: value})
    if dice.random() < 0.3:
        where = VirtAddr(number(dice))
        field = dice.choice(("idtr", "gdtr", "tr"))
        place = (
            SystemSegment(0x18, where, 0x67)
            if field == "tr"
            else DescriptorTable(where, dice.choice((0, 0xFFF, 0xFFFF)))
        )
        cpu = stop.cpus[0]._replace(**{field: place})  # type: ignore[arg-type]
        stop = stop._replace(cpus=(cpu, *stop.cpus[1:]))
    return stop


@pytest.mark.parametrize("name", (*BREENIX, *LINUX))
def test_nothing_raises_and_everything_ends(name: str) -> None:
    for seed in range(ROUNDS):
        stop = broken(name, seed)
        found = examine(stop)
        assert len(found.findings) < 2000, seed
        assert all(c.reason for c in found.checks if c.status == "not_checked"), seed
        assert len({f.fingerprint for f in found.findings}) <= len(found.findings)


def test_all_of_memory_random() -> None:
    """Not one table that is right: whatever the registers name is garbage."""
    stop, memory = overlaid(saved("breenix-seed-syscall"))
    dice = random.Random(1)
    for frame in frames_of(memory):
        memory.frame(frame)[:] = dice.randbytes(0x1000)
    found = examine(stop)
    assert all(c.status in ("passed", "not_checked", "failed") for c in found.checks)
    assert memory.read(PhysAddr(frames_of(memory)[0]), 8)
