"""The arithmetic of the frame allocator: ordinals, states, what is gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from breenix_gdbagent.addresses import PAGE, PhysAddr
from breenix_gdbagent.kernel.allocators import ALLOCATED, FREE, NEVER, FrameAllocator, Ledger

REGIONS = ((0x10_0000, 0x18_0000), (0x80_0000, 0x90_0000), (0x30_0000, 0x34_0000))
"""Not in order of address: the firmware's map need not be."""


def allocator(
    frontier: int, free: tuple[int, ...] = (), states: dict[int, int] | None = None
) -> FrameAllocator:
    regions = tuple((PhysAddr(a), PhysAddr(b)) for a, b in REGIONS)
    total = sum((b - a) // PAGE for a, b in REGIONS)
    ledger = None
    if states is not None:
        raw = bytearray()
        for ordinal in range(total):
            state = states.get(ordinal, ALLOCATED if ordinal < frontier else NEVER)
            raw += (3 << 2 | state).to_bytes(4, "little") + bytes(4)
        ledger = Ledger((bytes(raw[:1024]), bytes(raw[1024:])), 128)
    listed = tuple(PhysAddr(f) for f in free)
    return FrameAllocator(regions, frontier, listed, states is not None, ledger, False)


def frames_in_order() -> list[int]:
    return [frame for start, end in REGIONS for frame in range(start, end, PAGE)]


def test_ordinals_are_in_the_order_of_the_regions() -> None:
    made = allocator(0)
    order = frames_in_order()
    assert made.total == len(order)
    assert [made.ordinal(frame) for frame in order] == list(range(len(order)))
    assert [made._nth(n) for n in range(len(order))] == order
    assert all(made.ordinal(f) is None for f in (0, 0xF_F000, 0x18_0000, 0x34_0000, 0x90_0000))


@given(st.integers(0, 448), st.sets(st.integers(0, 447), max_size=40))
def test_what_is_gone_is_what_each_frames_state_says(frontier: int, freed: set[int]) -> None:
    order = frames_in_order()
    given_back = {n for n in freed if n < frontier}
    for states in (None, dict.fromkeys(given_back, FREE)):
        made = allocator(frontier, tuple(order[n] for n in sorted(given_back)), states)
        outside = {0x5000, 0x40_0000}
        gone = dict(made.gone(set(order) | outside))
        wanted = {f: s for f in order if (s := made.state(f)) in ("free", "never")}
        assert gone == wanted
        assert made.used == min(frontier, made.total) - len(given_back)
        assert len(wanted) == made.total - made.used


def test_a_frame_mapped_for_an_owner_elsewhere() -> None:
    made = allocator(10, states={})
    assert made.ledger is not None
    raw = bytearray(made.ledger.chunks[0] or b"")
    raw[8 * 3 + 4 : 8 * 3 + 8] = b"\xff" * 4
    external = FrameAllocator(made.regions, 10, (), True, Ledger((bytes(raw), None), 128), False)
    order = frames_in_order()
    assert [n for n in range(6) if external.external(order[n])] == [3]
    assert not external.external(order[200]), "a chunk that was never needed"
    assert external.state(order[200]) == "never"
