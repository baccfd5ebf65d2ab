"""A typed place in a stopped guest's memory: its fields, numbers, variants and pointers.

Nothing is read before it is asked for. `values.Value` adds the collections, whose readers rest on
this. Readers trust and raise: `ReadError` where memory cannot be read, `ValueCorrupt` where the
bytes are no value of their type, `SymbolNotFound` for a field that is not there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from breenix_gdbagent.addresses import VirtAddr, hex64
from breenix_gdbagent.errors import InputError, NoSuchPart, ReadError, ValueCorrupt
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols import layouts, shapes
from breenix_gdbagent.symbols.location import Place, covered
from breenix_gdbagent.symbols.pagecache import PageCache
from breenix_gdbagent.symbols.types import VOID, Member, Type, TypeTable, only_member

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.debug import DebugInfo
    from breenix_gdbagent.symbols.image import LoadedImage

_MASK = (1 << 64) - 1
_MAX_VALUE = 1 << 24
_DEPTH = 24
_NAMED = 24  # fields that are named where one is missing
_POINTERS = 16  # wrappers around one pointer or lock
# The word of a finished cell, by the name of the word: spin::Once and conquer_once::OnceCell.
_ONCE_READY = {"status": 2, "state": 2}
AnyCell = TypeVar("AnyCell", bound="Cell")


class Space(Protocol):
    """The memory and types that a place is in, see `values.Values`."""

    image: LoadedImage
    debug: DebugInfo
    types: TypeTable
    memory: PageCache


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock word beside the data it guards; `held` None when its meaning is not known."""

    raw: int
    held: bool | None


# Never assigned to: but a frozen one takes three times as long to make, and a process list makes
# a thousand.
@dataclass(slots=True, unsafe_hash=True)
class Cell:
    """A typed place: at virtual `address`, or (split statics) in the bytes of `place` at `offset`.

    Nothing is read before it is asked for.
    """

    space: Space
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

    def part(self, member: Member) -> Self:
        """The value of one member."""
        return self.shifted(self.space.types.at(member.type), member.offset)

    def shifted(self, type_: Type, offset: int) -> Self:
        """A value of `type_` that lies `offset` bytes into this one."""
        at = self.address
        if at is None:
            return self.__class__(self.space, type_, None, self.place, self.offset + offset)
        return self.__class__(self.space, type_, (at + offset) & _MASK)

    def at(self, type_: Type, address: int) -> Self:
        """A value of `type_` elsewhere, at a virtual address."""
        return self.__class__(self.space, type_, address & _MASK)

    @property
    def where(self) -> str:
        """Its address for messages."""
        return "a split static" if self.address is None else hex64(self.address)

    def corrupt(self, what: str) -> ValueCorrupt:
        """The error for bytes that are no value of this type."""
        return ValueCorrupt(f"{self.type.name} at {self.where} is corrupt: {what}")

    # -- looking inside ---------------------------------------------------------------------

    def __getitem__(self, name: str) -> Self:
        """A field by name, through locks, cells, `Some`, boxes and references; ``"0"`` is a tuple's
        first. Raises `SymbolNotFound` with the fields there are."""
        found = self.field(name)
        if found is None:
            inside = self._innermost()
            raise NoSuchPart(
                f"{inside.type.name} has no field {name!r}", tuple(inside.fields())[:_NAMED]
            )
        return found

    def field(self, name: str) -> Self | None:
        """The field of that name, None when there is none."""
        here = self
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

    def _innermost(self) -> Self:
        """Where the search for a field that there is not ends: inside locks and `Some`."""
        here = self.peel()
        while here.type.variants is not None:
            _, payload = here.variant()
            if payload is None or len(payload.type.members) != 1:
                break
            here = payload.part(payload.type.members[0]).peel()
        return here

    def _direct(self, name: str) -> Self | None:
        member = self.type.member(name)
        if member is not None:
            return self.part(member)
        if self.type.variants is not None:
            _, payload = self.variant()
            member = None if payload is None else payload.type.member(name)
            return None if member is None or payload is None else payload.part(member)
        return None

    def _inner(self) -> Self | None:
        """What a pointer or a variant of one field holds: looked through when a field is not
        found."""
        if shapes.is_pointer_type(self.type):
            return deref(self)
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

    def peel(self) -> Self:
        """The value inside locks, cells, `MaybeUninit` and newtypes; enums and pointers stay."""
        type_, offset = layouts.peeled(self.space.types, self.type)
        return self if type_ is self.type else self.shifted(type_, offset)

    def initialised(self) -> Self:
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
        return lock_of(self)

    # -- enums ------------------------------------------------------------------------------

    def variant(self) -> tuple[str, Self | None]:
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

    def some(self) -> Self | None:
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
        if (
            type_.encoding in (dw.DW_ATE_signed, dw.DW_ATE_signed_char)
            and raw >> 8 * type_.size - 1
        ):
            return raw - (1 << 8 * type_.size)
        if type_.encoding == dw.DW_ATE_boolean and raw > 1:
            raise self.shifted(type_, offset).corrupt(f"{raw} is no bool")
        return raw

    def scalar(self) -> Self:
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
        if type_.encoding == dw.DW_ATE_float and type_.size in (2, 4, 8):
            return float(struct.unpack({2: "<e", 4: "<f", 8: "<d"}[type_.size], self.raw())[0])
        if type_.encoding == dw.DW_ATE_boolean:
            return self.boolean()
        value = self.integer()
        if type_.encoding == dw.DW_ATE_UTF or type_.name == "char":
            if value > 0x10FFFF or 0xD800 <= value < 0xE000:
                raise self.corrupt(f"{value:#x} is no char")
            return chr(value)
        return value

    def pointer(self) -> VirtAddr:
        """The address in a pointer, reference, `Box`, `NonNull`, `Arc`."""
        return VirtAddr(address_in(self))

    def deref(self) -> Self:
        """What a pointer points to; `ValueCorrupt` for a null where Rust has none."""
        return deref(self)


def inward(value: AnyCell, *names: str) -> Iterator[AnyCell]:
    """A value, and what a pointer is wrapped in from there on: the member of one of these names,
    else the only member that has a size."""
    here = value
    for _ in range(_POINTERS):
        yield here
        type_ = here.type
        named = (found for name in names if (found := type_.member(name)) is not None)
        member = next(named, None) or only_member(here.space.types, type_)
        if member is None:
            return
        here = here.part(member)


def address_in(value: Cell) -> int:
    """The address in a thin or wide pointer, `Box`, `NonNull`, `Arc`."""
    for here in inward(value, "data_ptr", "pointer", "ptr"):
        if here.type.kind in ("pointer", "function"):
            return here.number(0, 8)
    raise InputError(f"{value.type.name} is no pointer")


def thin_pointer(value: AnyCell) -> AnyCell:
    """The raw pointer inside a smart pointer."""
    for here in inward(value, "pointer", "ptr"):
        if here.type.kind == "pointer":
            return here
    raise InputError(f"{value.type.name} is no thin pointer")


def wide_pointer(value: AnyCell) -> AnyCell:
    """The (data_ptr, length) pair inside a pointer to a slice or `str`."""
    for here in inward(value, "ptr", "pointer"):
        if shapes.is_wide(here.type):
            return here
    raise InputError(f"{value.type.name} has no length beside it")


def is_thin(value: Cell) -> bool:
    """Whether a smart pointer holds an address alone, without length or vtable."""
    try:
        thin_pointer(value)
    except InputError:
        return False
    return True


def deref(value: AnyCell) -> AnyCell:
    """What a pointer points to: of `Arc` and `Rc` the data behind the counts.

    Raises `ValueCorrupt` for a null reference or box, `ReadError` for a null raw pointer.
    """
    thin = thin_pointer(value)
    address = thin.number(0, 8)
    if address == 0:
        if thin is value and value.type.name.startswith("*"):
            raise ReadError(f"the pointer at {value.where} is null")
        raise value.corrupt("a null where Rust has none")
    target = VOID if thin.type.target is None else value.space.types.at(thin.type.target)
    found = value.at(target, address)
    if shapes.path_name(target) in ("ArcInner", "RcInner", "RcBox"):
        for name in ("data", "value"):
            member = target.member(name)
            if member is not None:
                return found.part(member)
    return found


def lock_of(value: Cell) -> Lock | None:
    """The lock word of a lock, looked for through newtypes (`IrqSafeMutex{inner: Mutex}`)."""
    here = value
    for _ in range(_POINTERS):
        table = here.space.types
        if shapes.guarded_member(table, here.type) is not None:
            word = shapes.lock_word(table, here.type)
            assert word is not None
            raw = here.part(word).integer()
            held = None if shapes.is_once(here.type) else raw != 0
            return Lock(raw, held)
        if here.type.variants is not None or shapes.is_special(here.type):
            return None
        member = only_member(table, here.type)
        if member is None:
            return None
        here = here.part(member)
    return None


def once_ready(value: Cell, raw: int) -> bool | None:
    """Whether the word `raw` of a once-cell says that its data is there; None: not known."""
    for name, ready in _ONCE_READY.items():
        if value.type.member(name) is not None:
            return raw == ready
    return None
