"""The load bias: found by three ways, accepted only when the guest's .text says the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.errors import InputError, NotMapped, ReadError
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.bias import find_bias, find_loaded
from breenix_gdbagent.x86.cpu import Cpu
from tests.writers.elf import ET_EXEC, OBJECT, SHF_ALLOC, SHF_WRITE, Elf, Sec, Sym, text

BASE = 0x8000000000
NAMES = {
    0: "divide_by_zero_handler",
    6: "invalid_opcode_handler",
    8: "double_fault_handler",
    13: "general_protection_fault_handler",
    14: "page_fault_handler",
}


def kernel(seed: int = 1, shift: int = 0, **changes: object) -> Elf:
    code = random.Random(seed).randbytes(0x3000)
    symbols = [
        Sym(f"_ZN6kernel10interrupts{len(n)}{n}17h{i:016x}E", 0x1000 + 0x123 * i + shift * i, 0x40)
        for i, n in enumerate(NAMES.values())
    ]
    symbols.append(Sym("_ZN6kernel7per_cpu9CPU0_DATAE", 0x9040, 128, OBJECT, ".bss"))
    bss = Sec(".bss", address=0x9000, flags=SHF_ALLOC | SHF_WRITE, nobits=0x200)
    elf = Elf([text(code), bss], symbols, header_loaded=True, entry=0x1000 + shift)
    for name, value in changes.items():
        setattr(elf, name, value)
    return elf


class Guest:
    """Kernel `elf` at `base`, read by virtual address; pages in `holes` are not mapped."""

    def __init__(self, data: bytes, image: Image, base: int, holes: tuple[int, ...] = ()) -> None:
        self.pages: dict[int, bytearray] = {}
        for seg in image.segments:
            for i, byte in enumerate(data[seg.offset : seg.offset + seg.filesz]):
                va = base + seg.vaddr + i
                self.pages.setdefault(va & ~0xFFF, bytearray(0x1000))[va & 0xFFF] = byte
        for hole in holes:
            del self.pages[hole]

    def __call__(self, va: int, length: int) -> bytes:
        out = b""
        while len(out) < length:
            page = self.pages.get(va & ~0xFFF)
            if page is None:
                raise NotMapped(VirtAddr(va), PhysAddr(0), 1, "not-present")
            piece = bytes(page[va & 0xFFF :][: length - len(out)])
            out += piece
            va += len(piece)
        return out

    def leaves(self) -> Iterator[int]:
        yield 0x5000
        yield from sorted(self.pages)


@pytest.fixture
def build(tmp_path: Path) -> Callable[[Elf], tuple[Image, bytes]]:
    def make(elf: Elf) -> tuple[Image, bytes]:
        path = tmp_path / f"kernel{len(list(tmp_path.iterdir()))}"
        path.write_bytes(elf.build())
        return Image.open(path), path.read_bytes()

    return make


Build = Callable[[Elf], tuple[Image, bytes]]
CPU = Cpu(0, {"rip": 0, "rsp": 0, "gs_base": 0})


def gates(image: Image, base: int = BASE) -> dict[int, int]:
    return {v: base + image.address_of(n) for v, n in NAMES.items()}


def test_gates_vote_and_text_proves(build: Build) -> None:
    image, data = build(kernel())
    loaded, bias = find_loaded(image, CPU, Guest(data, image, BASE), idt_gates=gates(image))
    assert (bias.value, bias.how, bias.proved) == (BASE, "gates", True)
    assert "5 of 5 gates agree" in bias.proof
    assert loaded.va_of("page_fault_handler") == gates(image)[14]


def test_one_gate_suffices_when_text_is_equal(build: Build) -> None:
    image, data = build(kernel())
    votes = gates(image)
    for vector in (0, 6, 8, 13):
        votes[vector] = 0x7F00000 + vector * 0x10
    bias = find_bias(image, CPU, Guest(data, image, BASE), idt_gates=votes)
    assert bias.value == BASE and "1 of 5 gates" in bias.proof


def test_gs_base(build: Build) -> None:
    image, data = build(kernel())
    cpu = Cpu(0, {"gs_base": BASE + 0x9040})
    bias = find_bias(image, cpu, Guest(data, image, BASE))
    assert (bias.value, bias.how, bias.proved) == (BASE, "gs-base", True)


def test_elf_header_scan_without_symbols(build: Build) -> None:
    image, data = build(kernel(symbols=[]))
    guest = Guest(data, image, BASE)
    bias = find_bias(image, CPU, guest, leaves=guest.leaves())
    assert (bias.value, bias.how, bias.proved) == (BASE, "elf-header", True)


def test_a_stripped_copy_of_the_program_is_found_too(build: Build) -> None:
    """Early boot: no gate can vote, and stripping has moved the section headers."""
    whole, data = build(kernel())
    stripped, other = build(kernel(symbols=[]))
    assert data[0x28:0x30] != other[0x28:0x30]
    guest = Guest(data, whole, BASE)
    bias = find_bias(stripped, CPU, guest, leaves=guest.leaves())
    assert (bias.value, bias.how, bias.proved) == (BASE, "elf-header", True)
    changed, _ = build(kernel(2, symbols=[]))
    with pytest.raises(InputError, match=r"its \.text differs"):
        find_bias(changed, CPU, guest, leaves=guest.leaves())


def test_leaves_are_not_consumed_when_the_gates_answer(build: Build) -> None:
    image, data = build(kernel())

    def leaves() -> Iterator[int]:
        pytest.fail("scanned without need")
        yield 0

    find_bias(image, CPU, Guest(data, image, BASE), leaves(), gates(image))


def test_linked_to_run_where_it_is(build: Build) -> None:
    image, data = build(kernel(type=ET_EXEC))
    bias = find_bias(image, CPU, Guest(data, image, 0))
    assert (bias.value, bias.how, bias.proved) == (0, "fixed", True)


def test_breakpoints_in_guest_memory_are_tolerated(build: Build) -> None:
    image, data = build(kernel())
    guest = Guest(data, image, BASE)
    guest.pages[BASE + 0x1000][0x10] = 0xCC
    assert find_bias(image, CPU, guest, idt_gates=gates(image)).proved


def test_another_build_is_refused(build: Build) -> None:
    image, data = build(kernel())
    other, other_data = build(kernel(seed=2))
    guest = Guest(other_data, other, BASE)
    with pytest.raises(InputError, match="differs from link address 0x1000 on"):
        find_bias(image, CPU, guest, idt_gates=gates(image))
    shifted, _ = build(kernel(seed=3, shift=0x10))
    with pytest.raises(InputError, match="the ELF loaded at 0x8000000000 has entry 0x1000"):
        find_bias(
            shifted, CPU, Guest(data, image, BASE), Guest(data, image, BASE).leaves(), gates(image)
        )
    up = Cpu(0, {"gs_base": BASE + 0x9100})
    with pytest.raises(InputError, match="1 of 5 IDT gates agree with its symbols, on a load"):
        find_bias(shifted, up, Guest(data, image, BASE), None, gates(image))


def test_one_changed_byte_far_inside_is_seen_when_a_window_covers_it(build: Build) -> None:
    image, data = build(kernel())
    guest = Guest(data, image, BASE)
    guest.pages[BASE + 0x3000][0xFFF] ^= 1
    with pytest.raises(InputError, match="differs from link address 0x3fff on"):
        find_bias(image, CPU, guest, idt_gates=gates(image))


def test_unaligned_votes_are_never_accepted(build: Build) -> None:
    image, data = build(kernel())
    with pytest.raises(ReadError, match="is not known"):
        find_bias(
            image,
            CPU,
            Guest(data, image, BASE),
            None,
            {v: va + 0x10 for v, va in gates(image).items()},
        )


def test_without_kernel_code_three_gates_carry_it_unproved(build: Build) -> None:
    image, data = build(kernel())
    empty = Guest(data, image, BASE, holes=tuple(BASE + i for i in (0x1000, 0x2000, 0x3000)))
    bias = find_bias(image, CPU, empty, idt_gates=gates(image))
    assert (bias.value, bias.proved) == (BASE, False) and "unproved" in bias.proof
    moved = {**gates(image), 14: BASE + 0x7000}
    with pytest.raises(ReadError, match="is not known"):
        find_bias(image, CPU, empty, idt_gates=moved)
    two = {v: va for v, va in gates(image).items() if v in (8, 14)}
    with pytest.raises(ReadError, match="is not known"):
        find_bias(image, CPU, empty, idt_gates=two)


def test_nothing_to_go_on(build: Build) -> None:
    image, data = build(kernel())
    with pytest.raises(ReadError, match="is not known") as caught:
        find_bias(image, CPU, Guest(data, image, BASE))
    assert not isinstance(caught.value, InputError)
    stripped, _ = build(kernel(symbols=[]))
    with pytest.raises(ReadError, match="stripped"):
        find_bias(stripped, CPU, Guest(data, image, BASE), leaves=[0x5000])
