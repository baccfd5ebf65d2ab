"""Questions about a whole table answer as those about each of its entries do."""

from __future__ import annotations

import random

import pytest

from breenix_gdbagent.x86.paging import (
    ADDRESS,
    NX,
    P,
    U,
    W,
    frame_of,
    index_at,
    indexes_by_frame,
    indexes_naming,
    indexes_present,
    present,
    same_table,
    slot_start,
    slot_starts,
    slots_of,
    tables_in_common,
)


def table(seed: int) -> list[int]:
    """512 entries over few frames, present or not, with any rights."""
    chosen = random.Random(seed)
    frames = [chosen.getrandbits(52) & ADDRESS for _ in range(7)]
    flags = (0, P, P | W, P | U | NX, W)
    return [chosen.choice(frames) | chosen.choice(flags) for _ in range(512)]


@pytest.mark.parametrize("seed", range(5))
def test_of_entries(seed: int) -> None:
    one, model = table(seed), table(seed)
    model[7], model[9] = 0, model[8] ^ 0x1000
    there = [index for index, raw in enumerate(one) if present(raw)]
    assert indexes_present(one) == there
    raw = one[there[0]]
    assert indexes_naming(raw, one) == [n for n, other in enumerate(one) if same_table(raw, other)]
    by_frame = indexes_by_frame(one)
    assert sorted(index for found in by_frame.values() for index in found) == there
    assert all({frame_of(one[n]) for n in found} == {frame} for frame, found in by_frame.items())
    pairs = list(zip(one, model, strict=True))
    counted = sum(present(its) for _, its in pairs), sum(same_table(*pair) for pair in pairs)
    assert tables_in_common(one, model) == counted and counted[1] not in (0, 512)


@pytest.mark.parametrize("levels", [4, 5])
def test_of_addresses(levels: int) -> None:
    slots = [0, 1, 255, 256, 402, 511]
    starts = [slot_start(slot, levels) for slot in slots]
    assert slot_starts(slots, levels) == starts
    assert slots_of(starts, levels) == slots == [index_at(va, levels) for va in starts]
