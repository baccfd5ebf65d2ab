"""The kernel ELF: what opens, what is refused in one sentence, names in both directions."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from breenix_gdbagent.errors import AgentError, InputError, SymbolNotFound
from breenix_gdbagent.symbols import Image
from tests.writers.elf import (
    ET_CORE,
    NOTYPE,
    OBJECT,
    SHF_ALLOC,
    SHF_WRITE,
    Elf,
    Sec,
    Sym,
    note,
    text,
)

LEGACY = "_ZN6kernel10interrupts18page_fault_handler17h0123456789abcdefE"
CLOSURE = (
    "_ZN6kernel10interrupts18page_fault_handler28_$u7b$$u7b$closure$u7d$$u7d$17h00000000000000a1E"
)
V0 = "_RNvNtCs2La8Fr68ogn_6kernel10interrupts20double_fault_handler"


def sample(**changes: object) -> Elf:
    elf = Elf(
        [
            text(bytes(range(256)) * 4),
            Sec(".bss", address=0x4000, flags=SHF_ALLOC | SHF_WRITE, nobits=0x100),
        ],
        [
            Sym(LEGACY, 0x1000, 0x40),
            Sym(CLOSURE, 0x1040, 0x20),
            Sym(V0, 0x1060, 0x20),
            Sym("_ZN6kernel1a4sameE", 0x1080, 8),
            Sym("_ZN6kernel1b4sameE", 0x1080, 8),
            Sym("_ZN6kernel1c3dup17h1111111111111111E", 0x1088, 4),
            Sym("_ZN6kernel1d3dup17h1111111111111111E", 0x108C, 4),
            Sym("syscall_entry", 0x10A0, 0, NOTYPE),
            Sym("syscall_entry.again", 0x10A8, 0, NOTYPE),
            Sym("timer_interrupt_entry", 0x10C0, 0, NOTYPE),
            Sym("_ZN6kernel7per_cpu9CPU0_DATA17h2222222222222222E", 0x4040, 128, OBJECT, ".bss"),
        ],
    )
    for name, value in changes.items():
        setattr(elf, name, value)
    return elf


def opened(tmp_path: Path, data: bytes, name: str = "kernel") -> Image:
    path = tmp_path / name
    path.write_bytes(data)
    return Image.open(path)


def test_names_by_exact_path(tmp_path: Path) -> None:
    image = opened(tmp_path, sample().build())
    assert image.address_of("page_fault_handler") == 0x1000
    assert image.address_of("interrupts::page_fault_handler") == 0x1000
    assert image.address_of("kernel::interrupts::page_fault_handler") == 0x1000
    assert image.address_of(LEGACY) == 0x1000
    assert image.address_of("kernel::interrupts::double_fault_handler") == 0x1060
    assert image.address_of("{{closure}}") == 0x1040
    assert image.address_of("CPU0_DATA") == 0x4040
    for wrong in ("fault_handler", "rupts::page_fault_handler", "page_fault", "handler"):
        assert image.addresses_of(wrong) == ()


def test_ambiguous_and_unknown_names(tmp_path: Path) -> None:
    image = opened(tmp_path, sample().build())
    with pytest.raises(InputError, match="'dup' names 2 symbols"):
        image.address_of("dup")
    assert image.address_of("d::dup") == 0x108C
    with pytest.raises(SymbolNotFound) as caught:
        image.address_of("page_fualt_handler")
    assert caught.value.near[0] == "kernel::interrupts::page_fault_handler"


def test_symbol_at(tmp_path: Path) -> None:
    image = opened(tmp_path, sample().build())
    hit = image.symbol_at(0x1041)
    assert hit is not None and (hit.offset, hit.size, hit.also) == (1, 0x20, ())
    assert str(image.symbol_at(0x1064)) == "kernel::interrupts::double_fault_handler+0x4"
    folded = image.symbol_at(0x1084)
    assert folded is not None and len(folded.also) == 1
    assert {folded.name, *folded.also} == {"kernel::a::same", "kernel::b::same"}
    assert image.symbol_at(0x1098) is None, "a gap between symbols belongs to nobody"
    assert str(image.symbol_at(0x10AA)) == "syscall_entry+0xa", "a label reaches to the next"
    assert str(image.symbol_at(0x13FF)) == "timer_interrupt_entry+0x33f"
    assert image.symbol_at(0x1400) is None, "no label reaches beyond its section"
    assert image.symbol_at(0xFFF) is None


def test_loaded_image_speaks_virtual_addresses(tmp_path: Path) -> None:
    loaded = opened(tmp_path, sample().build()).loaded(0x8000000000)
    assert loaded.va_of("page_fault_handler") == 0x8000001000
    assert loaded.name_of(0x8000001005) == "kernel::interrupts::page_fault_handler+0x5"
    assert loaded.name_of(0x1005) is None
    down = loaded.image.loaded(-0x1000 & (1 << 64) - 1)
    assert down.va_of("page_fault_handler") == 0


def test_find(tmp_path: Path) -> None:
    image = opened(tmp_path, sample().build())
    assert {s.address for s in image.find("dup")} == {0x1088, 0x108C}
    assert {s.address for s in image.find("kernel::?::same")} == {0x1080}


def test_identity(tmp_path: Path) -> None:
    elf = sample()
    ident = bytes(range(20))
    elf.sections.append(Sec(".note.gnu.build-id", note(b"GNU\0", 3, ident), type=7))
    data = elf.build()
    image = opened(tmp_path, data)
    assert image.build_id == ident.hex()
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert opened(tmp_path, sample().build(), "other").build_id is None
    assert image.relocatable and image.has_symbols and not image.has_dwarf
    assert image.read(0x1001, 3) == b"\x01\x02\x03"
    assert image.read(0x4040, 1) is None, ".bss has no bytes in the file"


def test_stripped_opens_without_symbols(tmp_path: Path) -> None:
    image = opened(tmp_path, sample(symbols=[]).build())
    assert not image.has_symbols
    assert image.symbol_at(0x1000) is None
    with pytest.raises(SymbolNotFound):
        image.address_of("page_fault_handler")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"MZ\x90\x00" + bytes(100), "is not an ELF file"),
        (b"\x7fELF\x02\x01\x01", "truncated: 7 bytes"),
        (sample(machine=243).build(), "built for RISC-V"),
        (sample(type=ET_CORE).build(), "is a core"),
        (sample(type=1).build(), "an object file"),
        (b"\x7fELF\x01" + sample().build()[5:], "32-bit"),
        (sample().build()[:-100], "truncated"),
        (sample().build()[:70], "truncated"),
    ],
)
def test_refused_in_one_sentence(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        opened(tmp_path, data)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Image.open(tmp_path / "absent")
    with pytest.raises(InputError, match="not a regular file"):
        Image.open(tmp_path)


def test_rewritten_while_open(tmp_path: Path) -> None:
    image = opened(tmp_path, sample().build())
    (tmp_path / "kernel").write_bytes(b"\x7fELF")
    with pytest.raises(InputError, match="written to while it was in use"):
        image.address_of("page_fault_handler")


def test_random_damage_is_an_input_error_or_harmless(tmp_path: Path) -> None:
    good = sample().build()
    rng = random.Random(7)
    refused = 0
    for i in range(400):
        data = bytearray(good)
        for _ in range(rng.choice((1, 4, 16))):
            data[rng.randrange(len(data))] = rng.choice((0, 0xFF, rng.randrange(256)))
        if i % 3 == 0:
            del data[rng.randrange(len(data)) :]
        try:
            image = opened(tmp_path, bytes(data))
            image.build_id, image.extent, image.has_dwarf  # noqa: B018
            image.symbol_at(0x1001)
            image.addresses_of("page_fault_handler")
        except InputError as error:
            refused += 1
            assert len(str(error).splitlines()) <= 3
        except AgentError as error:
            pytest.fail(f"not an input error: {error!r}")
    assert refused > 50
