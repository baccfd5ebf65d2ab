"""Random bytes as page tables: everything ends, in bounded time, without an exception."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from breenix_gdbagent.x86.mapped_space import MOST_RANGES, Spaces
from breenix_gdbagent.x86.paging import Tables, walk
from breenix_gdbagent.x86.reverse import FrameIndex
from breenix_gdbagent.x86.roots import scan_roots
from breenix_gdbagent.x86.runs import mapped_runs
from tests.writers.memory import FrameMemory
from tests.writers.tables import model_lookup

ROOT = 0x1000
FRAMES = 6


def _random_frame(rng: random.Random) -> bytes:
    """Noise, a few entries, one entry 512 times, or entries that name the frames there are."""
    kind = rng.randrange(16)
    if kind == 0:
        return rng.randbytes(0x1000)
    if kind == 1:
        return rng.randbytes(8) * 512
    near = (rng.randrange(FRAMES + 2) << 12 | 7).to_bytes(8, "little")
    if kind == 2:
        return near * rng.choice([1, 2, 512])
    frame = bytearray(0x1000)
    for _ in range(rng.randrange(12)):
        slot = rng.choice([0, 1, 2, 255, 256, 511, rng.randrange(512)])
        target = rng.randrange(FRAMES + 2) << 12
        raw = rng.choice([rng.getrandbits(64), target | rng.getrandbits(9) | 1, target | 7])
        frame[slot * 8 : slot * 8 + 8] = raw.to_bytes(8, "little")
    return bytes(frame)


def _memory(rng: random.Random) -> FrameMemory:
    return FrameMemory({n << 12: _random_frame(rng) for n in range(1, FRAMES)})


@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_random_memories(part: int) -> None:
    for seed in range(part * 2500, (part + 1) * 2500):
        rng = random.Random(seed)
        levels = rng.choice([4, 5])
        memory = _memory(rng)
        tables = Tables(memory)
        for _ in range(3):
            va = rng.choice([rng.getrandbits(64), rng.getrandbits(47), rng.getrandbits(21)])
            found = walk(tables, ROOT, va, levels)
            met, reason, level = model_lookup(memory.frames, ROOT, va, levels)
            assert [e.raw for e in found.entries] == met
            assert (found.reason or "mapped") == reason
            assert (found.stopped_at or found.entries[-1].level if met else found.stopped_at) == (
                level
            )
        if seed % 20:
            continue
        space = Spaces(tables, levels).space(ROOT)
        assert len(space.ranges) <= MOST_RANGES
        index = FrameIndex(tables, [ROOT], levels)
        for leaf in list(index.leaves())[:3]:
            assert index.who(leaf.pa).mappings
        if not space.gaps:
            for one in space.ranges[:3]:
                assert walk(tables, ROOT, one.start, levels).effective is not None


def test_the_memory_that_noise_takes_is_bounded() -> None:
    for seed in range(0, 3000, 20):
        memory = _memory(random.Random(seed))
        tracemalloc.start()
        try:
            tables = Tables(memory)
            Spaces(tables, 4).space(ROOT)
            next(iter(FrameIndex(tables, [ROOT], 4).leaves()), None)
            assert tracemalloc.get_traced_memory()[1] < 32 << 20, seed
        finally:
            tracemalloc.stop()


def test_the_slow_readers_of_noise_end_too() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        memory = _memory(rng)
        for candidate in scan_roots(memory, ROOT):
            assert candidate.root in memory.frames
        for va, pa, length in mapped_runs(Tables(memory), ROOT)[:50]:
            assert length >= 0x1000
            found = walk(Tables(memory), ROOT, va)
            assert found.pa == pa
