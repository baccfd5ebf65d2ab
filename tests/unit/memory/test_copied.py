"""Memory that was copied out of a guest stays as it was, and has nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from breenix_gdbagent.addresses import PAGE, PhysAddr
from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.memory import RamMap, RamRange
from breenix_gdbagent.memory.copied import CopiedMemory

PAGES = 4


class Guest:
    """RAM that changes."""

    ram: RamMap | None = RamMap((RamRange(0, PAGES * PAGE, 0),))

    def __init__(self) -> None:
        self.data = bytearray(PAGES * PAGE)
        self.data[PAGE : 3 * PAGE] = bytes(range(256)) * (2 * PAGE // 256)

    def read(self, pa: PhysAddr, length: int) -> bytes:
        if pa + length > len(self.data):
            raise Unreadable(pa, length, "outside RAM")
        return bytes(self.data[pa : pa + length])

    def table(self, pa: PhysAddr) -> memoryview:
        return memoryview(self.read(pa, PAGE)).cast("Q")

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        yield PhysAddr(PAGE), memoryview(self.data)[PAGE : 3 * PAGE]


@pytest.mark.parametrize("frames", [None, [PAGE, 2 * PAGE, 100 * PAGE]])
def test_it_is_as_it_was(frames: list[int] | None) -> None:
    guest = Guest()
    copied = CopiedMemory(guest, frames)
    before = guest.read(PhysAddr(PAGE + 7), PAGE)
    guest.data[:] = bytes(len(guest.data))
    assert copied.read(PhysAddr(PAGE + 7), PAGE) == before
    assert copied.table(PhysAddr(PAGE))[0] == int.from_bytes(bytes(range(8)), "little")
    assert [pa for pa, _ in copied.filled()] == [PAGE, 2 * PAGE]


def test_what_was_not_copied_is_not_made_up() -> None:
    some, everything = CopiedMemory(Guest(), [PAGE]), CopiedMemory(Guest(), None)
    with pytest.raises(Unreadable, match="not copied"):
        some.read(PhysAddr(2 * PAGE - 8), 16)
    assert everything.read(PhysAddr(0), 8) == bytes(8)
    with pytest.raises(Unreadable):
        everything.read(PhysAddr(PAGES * PAGE), 8)
