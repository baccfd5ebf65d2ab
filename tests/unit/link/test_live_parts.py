"""The pure parts of run control: the ELF's lidt sites, the gates, memory of one stop."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import InputError, Unreadable
from breenix_gdbagent.live.arming import gates_of
from breenix_gdbagent.live.elfcode import KernelCode
from breenix_gdbagent.live.frozen import FrozenMemory, NoMemory
from breenix_gdbagent.x86.paging import slot_start


def elf(code: bytes, *, kind: int = 3, machine: int = 62, vaddr: int = 0x1000) -> bytes:
    """An ELF file of one executable and one other segment, both with the same bytes."""
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", kind, machine, 1, vaddr, 64,
                         0, 0, 64, 56, 2, 0, 0, 0)  # fmt: skip
    start = 64 + 2 * 56
    segment = struct.pack("<IIQQQQQQ", 1, 5, start, vaddr, 0x200000, len(code), len(code), 4096)
    other = struct.pack("<IIQQQQQQ", 1, 4, start, 0x90000, 0x90000, len(code), len(code), 4096)
    return header + segment + other + code


def read(tmp_path: Path, data: bytes) -> KernelCode:
    path = tmp_path / "kernel"
    path.write_bytes(data)
    return KernelCode.read(path)


def test_lidt_with_memory_operands_and_prefixes(tmp_path: Path) -> None:
    code = (
        b"\x90" * 4
        + b"\x0f\x01\x18"  # lidt (%rax)
        + b"\x90\x41\x0f\x01\x5f\x08"  # lidt 8(%r15)
        + b"\x90\x0f\x01\xd8"  # vmrun: ModRM.mod 3, no memory operand
        + b"\x0f\x01\x10"  # lgdt (%rax)
        + b"\x90\x0f\x01\x9c\x24\0\0\0\0"  # lidt 0(%rsp), 32-bit displacement
    )
    kernel = read(tmp_path, elf(code))
    at = [0x1000 + code.index(b) for b in (b"\x0f\x01\x18", b"\x0f\x01\x5f", b"\x0f\x01\x9c")]
    assert kernel.lidt_sites() == [at[0], at[1], at[1] - 1, at[2]]
    assert kernel.entry == 0x1000


def test_bases_by_kind_of_elf(tmp_path: Path) -> None:
    pie = read(tmp_path, elf(b"\x90"))
    assert pie.bases(identity=False) == [slot * slot_start(1) for slot in range(1, 9)]
    assert pie.bases(identity=True)[-1] == 0x200000 - 0x1000
    assert read(tmp_path, elf(b"\x90", kind=2)).bases(identity=True) == [0]


def test_samples_are_what_the_file_has(tmp_path: Path) -> None:
    code = bytes(i * 7 & 0xFF for i in range(5000))
    kernel = read(tmp_path, elf(code))
    for at, data in kernel.samples(0x1000 + 2500):
        assert data == code[at - 0x1000 :][:256] and len(data) == 256
    assert [at for at, _ in kernel.samples(0x1000 + 2500)] == [0x1000, 0x1000 + 2372, 0x1000 + 4744]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no 64-bit ELF"),
        (b"MZ" + bytes(100), "no 64-bit ELF"),
        (elf(b"\x90")[:70], "damaged"),
        (elf(b"\x90", machine=243), "no kernel of x86-64 or aarch64"),
        (elf(b"\x90", kind=1), "no kernel of x86-64"),
    ],
)
def test_what_is_no_kernel(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path, data)
    with pytest.raises(InputError, match="cannot read"):
        KernelCode.read(tmp_path / "none")


def gate(handler: int, flags: int = 0x8E) -> bytes:
    return struct.pack("<HHBBHII", handler & 0xFFFF, 8, 0, flags, handler >> 16 & 0xFFFF,
                       handler >> 32, 0)  # fmt: skip


def test_gates_of_faults_only_and_shared_handlers_once() -> None:
    table = bytearray(512)
    handlers = {0: 0x8000001000, 1: 0x8000002000, 3: 0x8000003000, 8: 0xFFFFC90000000010,
                13: 0x8000001000, 14: 0x8000005000}  # fmt: skip
    for vector, handler in handlers.items():
        table[vector * 16 : vector * 16 + 16] = gate(handler)
    table[6 * 16 : 7 * 16] = gate(0x8000006000, flags=0x0E)  # not present
    table[7 * 16 : 8 * 16] = gate(0x8000007000, flags=0x85)  # a task gate
    assert gates_of(bytes(table)) == {
        0x8000001000: (0, 13),
        0xFFFFC90000000010: (8,),
        0x8000005000: (14,),
    }
    assert gates_of(bytes(table[: 14 * 16])) == {0x8000001000: (0, 13), 0xFFFFC90000000010: (8,)}
    assert gates_of(b"") == {}


class Bytes:
    ram = None

    def read(self, pa: PhysAddr, length: int) -> bytes:
        return bytes(length)

    def table(self, pa: PhysAddr) -> memoryview:
        return memoryview(bytes(4096)).cast("Q")

    def filled(self) -> Iterator[tuple[PhysAddr, memoryview]]:
        for pa in (0, 4096):
            yield PhysAddr(pa), memoryview(bytes(4096))


def test_memory_of_a_stop_is_refused_once_the_guest_ran() -> None:
    epoch = [3]
    memory = FrozenMemory(Bytes(), lambda: epoch[0])
    assert memory.read(PhysAddr(0), 4) == bytes(4)
    pieces = memory.filled()
    next(pieces)
    epoch[0] += 1
    for look in (lambda: memory.read(PhysAddr(0), 4), lambda: memory.table(PhysAddr(0)),
                 lambda: next(pieces)):  # fmt: skip
        with pytest.raises(Unreadable, match="has run since"):
            look()


def test_memory_of_a_guest_that_is_gone() -> None:
    memory = NoMemory("QEMU has ended")
    for look in (lambda: memory.read(PhysAddr(0), 4), lambda: memory.table(PhysAddr(0))):
        with pytest.raises(Unreadable, match="QEMU has ended"):
            look()
    assert list(memory.filled()) == []
