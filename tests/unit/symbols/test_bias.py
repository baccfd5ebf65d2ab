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
from tests.writers.elf import ET_EXEC, OBJECT, SHF_ALLOC, SHF_WRITE, Elf, Sec, Sym, note, text

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
            Guest(data, image, BASE, holes=tuple(BASE + i for i in (0x1000, 0x2000, 0x3000))),
            None,
            {v: va + 0x10 for v, va in gates(image).items()},
        )


ANYWHERE = [0x0, 0x7F00_0020_3000, 300 << 39, 0xFFFF_8123_4567_8000, 0xFFFF_FFFF_8020_0000]


def at_rip(base: int, link: int = 0x2345) -> Cpu:
    return Cpu(0, {"rip": base + link & (1 << 64) - 1, "cs": 8, "cr0": 1 << 31 | 1})


def pieces(guest: Guest) -> Iterator[tuple[int, memoryview]]:
    for va, page in sorted(guest.pages.items()):
        yield va, memoryview(page)


@pytest.mark.parametrize("base", ANYWHERE)
def test_a_kernel_is_found_at_any_slot_by_the_code_that_runs(build: Build, base: int) -> None:
    """No symbols and no header: the code at RIP, or that the gates lead to, names its place."""
    image, data = build(kernel(symbols=[], header_loaded=False))
    guest = Guest(data, image, base)
    bias = find_bias(image, at_rip(base), guest)
    assert (bias.value, bias.how, bias.proved) == (base, "code", True)
    ring3 = Cpu(0, {"rip": 0x40_0000, "cs": 0x33, "cr0": 1 << 31 | 1})
    by_gates = find_bias(image, ring3, guest, idt_gates={14: base + 0x1F00, 13: base + 0x2A10})
    assert (by_gates.value, by_gates.how) == (base, "code")


@pytest.mark.parametrize("base", ANYWHERE)
def test_a_kernel_is_found_wherever_executable_memory_holds_it(build: Build, base: int) -> None:
    image, data = build(kernel(symbols=[], header_loaded=False))
    guest = Guest(data, image, base)
    ring3 = Cpu(0, {"rip": 0x40_0000, "cs": 0x33, "cr0": 1 << 31 | 1})
    bias = find_bias(image, ring3, guest, executable=pieces(guest))
    assert (bias.value, bias.how, bias.proved) == (base, "code", True)


def test_a_copy_that_nobody_runs_is_not_where_the_kernel_is(build: Build) -> None:
    """A bootloader holds the kernel's file in memory; the CPU is in the bootloader."""
    image, data = build(kernel(symbols=[], header_loaded=False))
    guest = Guest(data, image, 0x10_0000)
    loader = Cpu(0, {"rip": 0x7E00_0000, "cs": 8, "cr0": 1 << 31 | 1})
    with pytest.raises(ReadError, match="no mapped code that the CPU goes to is this ELF's"):
        find_bias(image, loader, guest, executable=pieces(guest))


def patching(seed: int = 1, **changes: object) -> Elf:
    """An ET_EXEC that says that it patches its own code, as Linux does, with a build id."""
    elf = kernel(seed, symbols=[], type=ET_EXEC, **changes)
    elf.sections.append(
        Sec(".note.gnu.build-id", note(b"GNU\0", 3, b"0123456789abcdefghij"), 0x8000, SHF_ALLOC, 7)
    )
    elf.sections.append(Sec(".altinstructions", b"\1" * 16, 0x8800, SHF_ALLOC))
    return elf


def patched(guest: Guest, base: int, every: int) -> Guest:
    """Four bytes in `every` changed: what alternatives and relocation do to a kernel."""
    for at in range(0x1000, 0x4000, every):
        va = base + at
        page = guest.pages[va & ~0xFFF]
        page[va & 0xFFF : (va & 0xFFF) + 4] = b"\x0f\x1f\x40\0"
    return guest


@pytest.mark.parametrize("base", [0, 0x1380_0000, 0xFFFF_FFFF_0000_0000])
def test_a_kernel_that_patches_its_own_code_is_placed(build: Build, base: int) -> None:
    image, data = build(patching())
    guest = patched(Guest(data, image, base), base, 96)
    bias = find_bias(image, at_rip(base, 0x2344), guest)
    assert (bias.value, bias.proved) == (base, True)
    assert "% of" in bias.proof and "the build id too" in bias.proof


def test_another_build_of_a_kernel_that_patches_itself_is_refused(build: Build) -> None:
    """As much of its code is equal, and its build id is not; or the id is, and the code is not."""
    image, data = build(patching())
    other_id = patched(Guest(data, image, 0), 0, 96)
    other_id.pages[0x8000][0x10] ^= 1
    other_code = patched(Guest(data, image, 0), 0, 8)
    for guest in (other_id, other_code):
        with pytest.raises(ReadError, match=r"is not known|is not the kernel"):
            find_bias(image, at_rip(0, 0x2344), guest)


def test_code_that_differs_in_a_kernel_that_does_not_patch_itself_is_refused(build: Build) -> None:
    elf = patching()
    elf.sections.pop()
    image, data = build(elf)
    guest = patched(Guest(data, image, 0), 0, 96)
    with pytest.raises((InputError, ReadError)):
        find_bias(image, at_rip(0, 0x2344), guest)


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
