"""Debug information: DWARF as a whole, and its programs each by themselves; mangled names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from breenix_gdbagent.errors import AgentError, ReadError
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.cfi import FrameTable
from breenix_gdbagent.symbols.demangle import components, demangle
from breenix_gdbagent.symbols.dwarf import Dwarf
from breenix_gdbagent.symbols.line_program import read_program
from breenix_gdbagent.symbols.location import covered, evaluate, linked_address
from breenix_gdbagent.symbols.tree_text import one_line
from breenix_gdbagent.symbols.types import describe
from breenix_gdbagent.symbols.values import Values
from tests.fuzz.target import Target, as_file
from tests.unit.symbols.test_damage import small
from tests.writers.dwarf import Die, Unit, Writer, sleb, uleb
from tests.writers.elf import Elf, Sec, text

SECTIONS = (
    ".debug_info", ".debug_abbrev", ".debug_str", ".debug_line_str", ".debug_str_offsets",
    ".debug_addr", ".debug_line", ".debug_ranges", ".debug_rnglists", ".debug_aranges",
)  # fmt: skip
CODE = (0x1000, 0x1009, 0x1010, 0x103F, 0)
TYPES = 20


def framed(sections: Iterable[Sec]) -> bytes:
    """Sections in one input: number, length in two bytes, bytes."""
    return b"".join(
        bytes([SECTIONS.index(s.name)]) + len(s.data).to_bytes(2, "little") + s.data
        for s in sections
        if s.name in SECTIONS
    )


def _unframed(data: bytes) -> list[Sec]:
    found: dict[str, bytes] = {}
    at = 0
    while at + 3 <= len(data):
        name = SECTIONS[data[at] % len(SECTIONS)]
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "little")
        found[name] = data[at + 3 : end]
        at = end
    return [Sec(name, content) for name, content in found.items()]


def _memory(va: int, length: int) -> bytes:
    if not 0 <= va < 1 << 20 or length > 1 << 16:
        raise ReadError(f"nothing at {va:#x}")
    return bytes((va + i) * 37 >> 3 & 0xFF for i in range(length))


def dwarf(data: bytes) -> None:
    """All that is asked of debug information, over sections of somebody else's."""
    with as_file(Elf([text(bytes(64)), *_unframed(data)]).build()) as path:
        image = Image.open(path)
        refused: list[AgentError] = []
        for use in (_lines, _types, _statics):
            try:
                use(image)
            except AgentError as refusal:
                refused.append(refusal)
        if refused:
            raise refused[0]


def _lines(image: Image) -> None:
    table = image.debug.lines
    for place in CODE:
        table.at(place)
        table.row_at(place)
        for frame in table.frames_at(place):
            table.entry_of(frame)


def _types(image: Image) -> None:
    table = image.debug.types
    for path in list(table.index.types)[:TYPES]:
        describe(table, table.named(path))


def _statics(image: Image) -> None:
    values = Values(image.loaded(0), _memory)
    for path in list(values.debug.index.statics)[:TYPES]:
        try:
            one_line(values.static(path))
        except ReadError:
            continue


def dwarf_seeds() -> Iterator[bytes]:
    yield framed([*small(), Sec(".debug_line", b"".join(line_program_seeds()))])
    base = Die(0x24, [(0x03, 0x08, "u32"), (0x0B, 0x0B, 4), (0x3E, 0x0B, 7)])
    pointer = Die(0x0F, [(0x03, 0x08, "*u32"), (0x49, 0x10, base)])
    enum = Die(0x04, [(0x03, 0x08, "E"), (0x0B, 0x0B, 1)],
               [Die(0x28, [(0x03, 0x08, "A"), (0x1C, 0x0B, 0)])])  # fmt: skip
    member = Die(0x0D, [(0x03, 0x08, "a"), (0x49, 0x10, pointer), (0x38, 0x0B, 0)])
    union = Die(0x17, [(0x03, 0x08, "U"), (0x0B, 0x0B, 8)], [member])
    static = Die(0x34, [(0x03, 0x08, "S"), (0x49, 0x10, union), (0x02, 0x18, b"\x03" + bytes(8))])
    inlined = Die(0x1D, [(0x31, 0x10, base), (0x55, 0x17, 0), (0x58, 0x0B, 1), (0x59, 0x0B, 7)])
    function = Die(0x2E, [(0x03, 0x08, "f"), (0x11, 0x01, 0x1000), (0x12, 0x01, 0x1040)], [inlined])
    root = Die(0x11, [(0x03, 0x08, "u"), (0x10, 0x17, 0), (0x11, 0x01, 0x1000), (0x12, 0x06, 64)],
               [base, pointer, enum, union, static, function])  # fmt: skip
    sections = Writer().sections(Unit(root, 4))
    ranges = (0x8).to_bytes(8, "little") + (0x20).to_bytes(8, "little") + bytes(16)
    lines = next(iter(line_program_seeds()))
    yield framed([*sections, Sec(".debug_ranges", ranges), Sec(".debug_line", lines)])


@cache
def _image() -> Image:
    """A kernel whose sections are put in by each input; opened once, it stays in memory."""
    root = Die(0x11, [(0x03, 0x08, "u"), (0x11, 0x1B, 0x2000)])
    sections = Writer().sections(Unit(root, 5))
    with as_file(Elf([text(bytes(64)), *sections]).build()) as path:
        image = Image.open(path)
        next(image.debug.dwarf.units())
        assert image.elf.data(".debug_addr")
        _ = image.debug.dwarf.addresses, image.debug.dwarf.strings, image.debug.dwarf.line_strings
    return image


def line_program(data: bytes) -> None:
    dwarf = Dwarf(_image().elf)
    dwarf.__dict__["line"] = data
    program = read_program(dwarf, next(_image().debug.dwarf.units()), 0, "/dir")
    for place in CODE:
        program.at(place)
        program.row_at(place)
    for sequence in program.sequences:
        assert sequence.addresses == sorted(sequence.addresses)
        program.row_at(sequence.addresses[0])


def line_program_seeds() -> Iterator[bytes]:
    set_address = b"\x00\x09\x02" + (0x1000).to_bytes(8, "little")
    code = (
        set_address + b"\x03\xc8\x00\x01\x02\x90\x01\x03\x40\x05\xc8\x01\x07\x0a\x0b\x0c\x81\x01"
        b"\x00\x02\x04\x07\x01\x00\x08\x03new\0\x00\x00\x00\x04\x03\x06\x09\x2c\x01\x01\x08\x01\x83"
        b"\x00\x03\x80\x01\x02\x02\x01\x00\x01\x01"
    )
    tables = b"/a\0\0" + b"one\0\1\0\0" + b"two\0\0\0\0" + b"\0"
    head = b"\x01\x01\xfb\x0e\x0d" + bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]) + tables
    body = b"\x02\0" + len(head).to_bytes(4, "little") + head + code
    yield len(body).to_bytes(4, "little") + body
    names = b"\x01\x01\x08\x01/d\0" + b"\x02\x01\x08\x02\x0b\x02one\0\x00two\0\x00"
    head = b"\x01\x01\x01\xfb\x0e\x0d" + bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]) + names
    body = b"\x05\0\x08\0" + len(head).to_bytes(4, "little") + head + code
    yield len(body).to_bytes(4, "little") + body


def call_frames(data: bytes) -> None:
    """The first byte says which section the rest is."""
    name = ".eh_frame" if data[:1] == b"\1" else ".debug_frame"
    frames = _frames(name, data[1:])
    for place in CODE:
        frames.rules(place)
        frames.covers(place)
        frames.is_signal_frame(place)


def _frames(name: str, data: bytes) -> FrameTable:
    section = Sec(name, data, 0x3000 if name == ".eh_frame" else 0, 2)
    with as_file(Elf([text(bytes(64)), section]).build()) as path:
        frames = FrameTable(Image.open(path).elf)
        len(frames)
    return frames


def call_frames_seeds() -> Iterator[bytes]:
    def entry(body: bytes) -> bytes:
        return len(body).to_bytes(4, "little") + body

    program = (
        b"\x41\x0e\x10\x86\x02\x41\x0a\x0c\x07\x08\xc6\x41\x0b\x41\x06\x06\x13\xbf\x7f\x12\x06\x7f"
        b"\x05\x06\xc1\x01\x11\x06\x7f\x2f\x06\x01\x14\x06\x01\x15\x06\x7f\x07\x06\x08\x03\x09\x06"
        b"\x03\x10\x06\x02\x77\x08\x16\x06\x02\x77\x08\x2e\x01\x02\x01\x03\x01\0\x04\1\0\0\0\x0d\x06"
    )
    cie = entry(b"\xff\xff\xff\xff\x04\0\x08\x00\x01\x78\x10" + b"\x0c\x07\x08\x90\x01")
    where = (0x1000).to_bytes(8, "little") + (0x40).to_bytes(8, "little")
    yield b"\0" + cie + entry(bytes(4) + where + program)
    first = b"\x01zRS\0" + b"\x01\x78\x10" + b"\x01\x1b" + b"\x0c\x07\x08\x90\x01"
    head = entry(bytes(4) + first)
    at = 0x3000 + len(head) + 8
    low = (0x1000 - at).to_bytes(4, "little", signed=True)
    body = (len(head) + 4).to_bytes(4, "little") + low + (0x40).to_bytes(4, "little") + b"\0"
    yield b"\1" + head + entry(body + program) + bytes(4)


def location(data: bytes) -> None:
    dwarf = _image().debug.dwarf
    unit = next(dwarf.units())
    linked_address(dwarf, unit, data)
    place = evaluate(dwarf, unit, data, 0x8000000000, _memory)
    assert place.address is None or not (place.data or place.missing)
    covered(place, 0, 8)


def location_seeds() -> Iterator[bytes]:
    address = b"\x03" + (0x2000).to_bytes(8, "little")
    yield address
    yield b"\xa1\x00\x23\x10"
    yield b"\x31\x06\x94\x01\x31\x1a\x30\x2e\x9f\x93\x08" + b"\x31\x93\x08" + b"\x93\x04"
    yield b"\x9e\x02ab\x93\x04"
    yield b"\x0a\x01\x00\x0b\xff\xff\x1e\x0c\1\0\0\0\x1b\x0d\1\0\0\0\x1d\x9f"
    yield b"\x10" + uleb(300) + b"\x11" + sleb(-300)
    yield b"\x33\x32\x31\x22\x12\x14\x15\x01\x16\x17\x13\x19\x1f\x20"
    yield b"\x35\x31\x1c\x12\x28\xfa\xff\x2f\x01\x00\x96\x24\x25\x26\x27"


def mangled_name(data: bytes) -> None:
    raw = data.decode("latin-1")
    told = demangle(raw)
    assert len(told) < 1 << 20
    components(told)


def mangled_name_seeds() -> Iterator[bytes]:
    yield b"_ZN6kernel6memory5alloc17h0123456789abcdefE"
    yield b"_ZN71_$LT$T$u20$as$u20$core..fmt..Debug$GT$3fmt17h0123456789abcdefE.llvm.1234"
    yield b"_RNvCs1234_7mycrate3foo"
    yield b"_RINvNtC3std3mem8align_ofdE"
    yield b"_RNvMs_Cs4Cv8Wi1oAIB_7mycrateINtB4_3FoopE3bar"
    yield b"_RNvXs_C7mycrateINtB4_3FooReEINtB4_3BarDG_INtNtC4core3ops8FunctionReEEL_E3baz"
    yield b"_RNCNvC5crate4main0Kj10_Kb1_KhRSTlmE"


TARGETS = (
    Target("dwarf", dwarf, dwarf_seeds, longest=3000),
    Target("line-program", line_program, line_program_seeds, longest=600),
    Target("call-frames", call_frames, call_frames_seeds, longest=600),
    Target("location", location, location_seeds, longest=200),
    Target("mangled-name", mangled_name, mangled_name_seeds, longest=600),
)
