"""Rust values in a stopped guest's memory, by name and by field, read when they are asked for.

::

    values = Values(loaded, memory.read)
    manager = values.static("kernel::process::PROCESS_MANAGER")
    manager.lock                       # Lock(raw=0, held=False)
    for pid, process in manager["processes"].entries():
        pid.integer(), process["name"].text(), process["page_table"].some()

Readers trust and raise: `ReadError` where memory cannot be read, `ValueCorrupt` where the bytes
are no value of their type, `SymbolNotFound` for a name or field that is not there. See `tree.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from breenix_gdbagent.addresses import VirtAddr, hex64
from breenix_gdbagent.errors import InputError, NoSuchPart, ReadError, ValueCorrupt
from breenix_gdbagent.symbols import btree, hashing, layouts, sequences, shapes
from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols.image import LoadedImage
from breenix_gdbagent.symbols.location import Place, covered, evaluate, linked_address
from breenix_gdbagent.symbols.pagecache import PageCache, ReadVirtual
from breenix_gdbagent.symbols.shapes import Lock
from breenix_gdbagent.symbols.types import Member, Type, only_member

_MASK = (1 << 64) - 1
_MAX_VALUE = 1 << 24
_DEPTH = 24
_NAMED = 24  # fields that are named where one is missing


class Values:
    """Typed values of one stop. `read_virtual(va, length)` reads kernel addresses.

    Raises `InputError` when the ELF has no DWARF or it is damaged.
    """

    def __init__(self, image: LoadedImage, read_virtual: ReadVirtual) -> None:
        self.image = image
        self.debug = image.image.debug
        self.types = self.debug.types
        self.memory = PageCache(read_virtual)

    def static(self, path: str) -> Value:
        """The static of that path (its last components suffice when they are unique).

        Raises `SymbolNotFound` (not in DWARF), `InputError` (several of that name), `ReadError`
        (optimised out).
        """
        found: dict[int, Value] = {}
        gone = 0
        for offset in self.debug.index.statics_named(path):
            value = self._static(offset)
            if value is None:
                gone += 1
            else:
                found.setdefault(value.address or offset, value)
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise InputError(f"{path!r} names {len(found)} statics", fix="give more of the path")
        raise ReadError(f"{path} has no place in memory: it was optimised out")

    def _static(self, offset: int) -> Value | None:
        dwarf = self.debug.dwarf
        die = dwarf.die(offset)
        code = die.block(f.A_LOCATION)
        if not code:
            return None
        # A function or static that the linker dropped has address 0, not none.
        linked = linked_address(dwarf, die.unit, code)
        if linked == 0:
            return None
        type_ = self.types.of(die)
        if linked is not None:
            return Value(self, type_, int(self.image.va(linked)))
        place = evaluate(dwarf, die.unit, code, self.image.bias, self.memory.read)
        if place.address is not None:
            return Value(self, type_, place.address)
        return Value(self, type_, None, place)

    def at(self, type_: Type | str, address: int) -> Value:
        """A value of a type (or of the type of that path) at a virtual address."""
        found = self.types.named(type_) if isinstance(type_, str) else type_
        return Value(self, found, address & _MASK)


# Never assigned to: but a frozen one takes three times as long to make, and a process list makes
# a thousand.
@dataclass(slots=True, unsafe_hash=True)
class Value:
    """A typed place: at virtual `address`, or (split statics) in the bytes of `place` at `offset`.

    Nothing is read before it is asked for.
    """

    space: Values
    type: Type
    address: int | None
    place: Place | None = None
    offset: int = 0

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` into the value; raises `ReadError`."""
        if length > _MAX_VALUE:
            raise ValueCorrupt(f"a value of {length} bytes is larger than anything in a kernel")
        if self.place is not None:
            start = self.offset + offset
            covered(self.place, start, start + length)
            data = self.place.data[start : start + length]
            if len(data) != length:
                raise ReadError(f"{self.type.name} is larger than the pieces it was split into")
            return data
        assert self.address is not None
        return self.space.memory.read((self.address + offset) & _MASK, length)

    def raw(self) -> bytes:
        """All bytes of the value."""
        return self.read(0, self.type.size)

    def number(self, offset: int, size: int) -> int:
        """An unsigned little-endian number at `offset`."""
        if self.address is None:
            return int.from_bytes(self.read(offset, size), "little")
        return self.space.memory.number((self.address + offset) & _MASK, size)

    def part(self, member: Member) -> Value:
        """The value of one member."""
        return self.shifted(self.space.types.at(member.type), member.offset)

    def shifted(self, type_: Type, offset: int) -> Value:
        """A value of `type_` that lies `offset` bytes into this one."""
        at = self.address
        if at is None:
            return Value(self.space, type_, None, self.place, self.offset + offset)
        return Value(self.space, type_, (at + offset) & _MASK)

    @property
    def where(self) -> str:
        """Its address for messages."""
        return "a split static" if self.address is None else hex64(self.address)

    def corrupt(self, what: str) -> ValueCorrupt:
        """The error for bytes that are no value of this type."""
        return ValueCorrupt(f"{self.type.name} at {self.where} is corrupt: {what}")

    # -- looking inside ---------------------------------------------------------------------

    def __getitem__(self, key: str | int) -> Value:
        """A field by name (through locks, cells, `Some`, boxes and references), or an item.

        `value["0"]` is a tuple's first field; an integer indexes arrays, vectors and queues, and
        looks up the key in maps. Raises `SymbolNotFound` with the fields there are.
        """
        if isinstance(key, int):
            return self.item(key)
        found = self.field(key)
        if found is None:
            inside = self._innermost()
            raise NoSuchPart(
                f"{inside.type.name} has no field {key!r}", tuple(inside.fields())[:_NAMED]
            )
        return found

    def field(self, name: str) -> Value | None:
        """The field of that name, None when there is none."""
        here: Value = self
        wanted = f"__{name}" if name.isdigit() else name
        for _ in range(_DEPTH):
            type_, offset, found = layouts.reached(self.space.types, here.type, wanted)
            if found or type_ is not here.type:
                here = here.shifted(type_, offset)
            if found:
                return here
            direct = here._direct(wanted)
            if direct is not None:
                return direct
            inner = here._inner()
            if inner is None:
                return None
            here = inner
        return None

    def _innermost(self) -> Value:
        """Where the search for a field that there is not ends: inside locks and `Some`."""
        here = self.peel()
        while here.type.variants is not None:
            _, payload = here.variant()
            if payload is None or len(payload.type.members) != 1:
                break
            here = payload.part(payload.type.members[0]).peel()
        return here

    def _direct(self, name: str) -> Value | None:
        member = self.type.member(name)
        if member is not None:
            return self.part(member)
        if self.type.variants is not None:
            _, payload = self.variant()
            member = None if payload is None else payload.type.member(name)
            return None if member is None or payload is None else payload.part(member)
        return None

    def _inner(self) -> Value | None:
        """What a pointer or a variant of one field holds: looked through when a field is not
        found."""
        if shapes.is_pointer(self):
            return shapes.deref(self)
        if self.type.variants is not None:
            _, payload = self.variant()
            return payload if payload is not None and len(payload.type.members) == 1 else None
        return None

    def fields(self) -> list[str]:
        """Names of the fields, of the active variant's when it is an enum."""
        if self.type.variants is None:
            return [m.name for m in self.type.members]
        try:
            _, payload = self.variant()
        except ReadError:
            return []
        return [] if payload is None else [m.name for m in payload.type.members]

    def peel(self) -> Value:
        """The value inside locks, cells, `MaybeUninit` and newtypes; enums and pointers stay."""
        type_, offset = layouts.peeled(self.space.types, self.type)
        return self if type_ is self.type else self.shifted(type_, offset)

    def initialised(self) -> Value:
        """The value inside `MaybeUninit` and `ManuallyDrop`, which say nothing about it."""
        here = self
        while shapes.path_name(here.type) in shapes.UNINIT:
            member = only_member(here.space.types, here.type)
            if member is None:
                break
            here = here.part(member)
        return here

    @property
    def lock(self) -> Lock | None:
        """The lock word of a lock (or of what a newtype around a lock holds), None for others."""
        return shapes.lock_of(self)

    # -- enums ------------------------------------------------------------------------------

    def variant(self) -> tuple[str, Value | None]:
        """(name of the variant, its payload): None as payload of C-like enums.

        Raises `ValueCorrupt` naming the tag when no variant has it.
        """
        if self.type.variants is None:
            return self._enumerator(), None
        part = self.type.variants
        if not part.variants:
            raise self.corrupt("the type has no values")
        if part.tag is None:
            return part.variants[0].name, self.part(part.variants[0].payload)
        tag = self.number(part.tag.offset, self.space.types.at(part.tag.type).size)
        chosen = part.of(tag)
        if chosen is None:
            raise self.corrupt(f"tag {tag} is none of its {len(part.variants)} variants")
        return chosen.name, self.part(chosen.payload)

    def _enumerator(self) -> str:
        if self.type.kind != "enum":
            raise InputError(f"{self.type.name} is not an enum")
        value = self.number(0, self.type.size)
        for name, tag in self.type.enumerators:
            if tag == value:
                return name
        raise self.corrupt(f"tag {value} is none of its {len(self.type.enumerators)} variants")

    def some(self) -> Value | None:
        """The payload of an `Option`, None when it is None; looks through locks and cells."""
        here = self.peel()
        name, payload = here.variant()
        if name == "None":
            return None
        return None if payload is None else payload.part(payload.type.members[0])

    # -- scalars ----------------------------------------------------------------------------

    def integer(self) -> int:
        """The number in an integer, bool, pointer, C-like enum, atomic or newtype around one."""
        type_, offset = self._scalar()
        if type_.kind == "pointer" or type_.kind == "function":
            return self.number(offset, 8)
        raw = self.number(offset, type_.size)
        if type_.encoding in (f.ATE_SIGNED, f.ATE_SIGNED_CHAR) and raw >> 8 * type_.size - 1:
            return raw - (1 << 8 * type_.size)
        if type_.encoding == f.ATE_BOOLEAN and raw > 1:
            raise self.shifted(type_, offset).corrupt(f"{raw} is no bool")
        return raw

    def scalar(self) -> Value:
        """The base value, pointer or C-like enum inside newtypes, atomics and cells."""
        return self.shifted(*self._scalar())

    def _scalar(self) -> tuple[Type, int]:
        found = layouts.scalar(self.space.types, self.type)
        if found is None:
            raise InputError(f"{self.type.name} is not a single number")
        return found

    def boolean(self) -> bool:
        """A bool; `ValueCorrupt` when the byte is neither 0 nor 1."""
        value = self.integer()
        if value not in (0, 1):
            raise self.corrupt(f"{value} is no bool")
        return bool(value)

    def plain(self) -> int | float | bool | str:
        """A base value as Python has it (`char` as a string of one character)."""
        type_ = self.type
        if type_.encoding == f.ATE_FLOAT and type_.size in (2, 4, 8):
            return float(struct.unpack({2: "<e", 4: "<f", 8: "<d"}[type_.size], self.raw())[0])
        if type_.encoding == f.ATE_BOOLEAN:
            return self.boolean()
        value = self.integer()
        if type_.encoding == f.ATE_UTF or type_.name == "char":
            if value > 0x10FFFF or 0xD800 <= value < 0xE000:
                raise self.corrupt(f"{value:#x} is no char")
            return chr(value)
        return value

    # -- pointers and collections -----------------------------------------------------------

    def pointer(self) -> VirtAddr:
        """The address in a pointer, reference, `Box`, `NonNull`, `Arc`."""
        return VirtAddr(shapes.address_in(self))

    def deref(self) -> Value:
        """What a pointer points to; `ValueCorrupt` for a null where Rust has none."""
        return shapes.deref(self)

    def text(self, limit: int = 1 << 16) -> str:
        """A `String`, `&str` or `Box<str>`, at most `limit` bytes of it."""
        return sequences.text(self, limit)[0]

    def items(self, limit: int = 1 << 20) -> Iterator[Value]:
        """Items of an array, slice, `Vec`, `VecDeque` (in queue order), set or heap."""
        return sequences.items(self, limit)

    def entries(self, limit: int = 1 << 20) -> Iterator[tuple[Value, Value]]:
        """(key, value) of a `BTreeMap` in key order, of a `HashMap` in bucket order."""
        here = self.peel()
        if hashing.is_map(here.type):
            return hashing.entries(here, limit)
        return btree.entries(self, limit)

    def __len__(self) -> int:
        return sequences.length(self)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Value]:
        return self.items()

    def item(self, index: int) -> Value:
        """One item by index, or a map's value by integer key."""
        return sequences.item(self, index)
