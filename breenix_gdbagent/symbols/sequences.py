"""Strings, slices, vectors and queues: bounded, whatever the memory says.

Sources: alloc::vec, alloc::raw_vec, alloc::collections::vec_deque (head and len since Rust 1.67,
tail and head before), alloc::string.
"""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.errors import InputError, NoSuchPart, SymbolNotFound
from breenix_gdbagent.symbols import btree, hashing, layouts, lists
from breenix_gdbagent.symbols.cell import AnyCell, Cell, address_in, wide_pointer
from breenix_gdbagent.symbols.shapes import OWNERS, is_wide, path_name
from breenix_gdbagent.symbols.types import Type

# No object is larger than half the address space (Rust: isize::MAX); a kernel's lies far below.
_ADDRESS_SPACE = 1 << 47
_DEPTH = 8
_MOST_ENTRIES = 1 << 20
_NAMED = 12  # keys that are named where one is missing


def is_text(type_: Type) -> bool:
    """Whether it is `String`, or a wide pointer to `str`: ``&str``, ``Box<str>``, ``Arc<str>``."""
    name = path_name(type_)
    if name == "String":
        return True
    pointee = type_.name.partition(f"{name}<")[2].partition(",")[0] if name in OWNERS else ""
    return (
        pointee == "str" or (is_wide(type_) and type_.name.endswith(" str")) or type_.name == "&str"
    )


def text(value: Cell, limit: int) -> tuple[str, int]:
    """(the first `limit` bytes decoded, the whole length in bytes) of a string.

    Raises `ValueCorrupt` when the length cannot be, or what was read is not UTF-8.
    """
    here = value.peel()
    if not is_text(here.type):
        raise InputError(f"{value.type.name} is no string")
    if path_name(here.type) == "String":
        start, length, capacity = _vec(here["vec"])
        if length > capacity:
            raise value.corrupt(f"a length of {length} with a capacity of {capacity}")
    else:
        wide = wide_pointer(here)
        start, length = address_in(wide), wide["length"].integer()
        # ArcInner and RcInner: two counts of 8 bytes before the text.
        start += 16 if path_name(here.type) in ("Arc", "Rc") else 0
    if length > _ADDRESS_SPACE:
        raise value.corrupt(f"a length of {length} bytes")
    if length == 0:
        return "", 0
    raw = value.space.memory.read(start, min(length, limit))
    try:
        return raw.decode(), length
    except UnicodeDecodeError as error:
        # The cut may fall into a character.
        if length > limit and error.start >= len(raw) - 3:
            return raw[: error.start].decode(), length
        raise value.corrupt(f"byte {error.start} is not UTF-8") from None


def items(value: AnyCell, limit: int) -> Iterator[AnyCell]:
    """The items of a sequence, at most `limit`; `InputError` for what is none."""
    here = value.peel()
    name = path_name(here.type)
    if name == "BTreeSet":
        for key, _ in btree.entries(here["map"], limit):
            yield key
    elif name == "BTreeMap":
        for _, item in btree.entries(here, limit):
            yield item
    elif hashing.is_set(here.type) or hashing.is_map(here.type):
        for key, item in hashing.entries(here, limit):
            yield key if name == "HashSet" else item
    elif lists.is_list(here.type):
        yield from lists.items(here, limit)
    else:
        start, count, element, wrap = sequence(here)
        begin, capacity = wrap
        for index in range(min(count, limit)):
            slot = begin + index
            slot = slot - capacity if capacity and slot >= capacity else slot
            yield start.shifted(element, slot * element.size).initialised()


def entries(value: AnyCell, limit: int) -> Iterator[tuple[AnyCell, AnyCell]]:
    """(key, value) of a map: of a `BTreeMap` in key order, of a `HashMap` in bucket order."""
    here = value.peel()
    return (
        hashing.entries(here, limit) if hashing.is_map(here.type) else btree.entries(value, limit)
    )


def length(value: Cell) -> int:
    """How many items (bytes of a string) a collection has, as it says itself."""
    here = value.peel()
    name = path_name(here.type)
    if name == "BTreeSet":
        here = here["map"]
        name = "BTreeMap"
    if name == "BTreeMap":
        return here["length"].integer()
    if hashing.is_set(here.type) or hashing.is_map(here.type):
        return hashing.length(here)
    if lists.is_list(here.type):
        return here["len"].integer()
    if name == "String":
        here = here["vec"]
    return sequence(here)[1]


def item(value: AnyCell, key: int) -> AnyCell:
    """An item by index; of a map the value of an integer key. Raises `SymbolNotFound`."""
    here = value.peel()
    for _ in range(_DEPTH):
        if path_name(here.type) == "Option" or here.type.kind == "pointer":
            inner = here.some() if here.type.variants else here.deref()
            if inner is None:
                break
            here = inner.peel()
    if path_name(here.type) == "BTreeMap" or hashing.is_map(here.type):
        there: list[int] = []
        for have, found in entries(here, _MOST_ENTRIES):
            there.append(have.integer())
            if there[-1] == key:
                return found
        raise NoSuchPart(f"the map has no key {key}", tuple(map(str, there[:_NAMED])))
    if lists.is_list(here.type):
        for index, found in enumerate(lists.items(here, key + 1)):
            if index == key:
                return found
        raise NoSuchPart(f"the list has no item {key}, but {length(here)}")
    start, count, element, (begin, capacity) = sequence(here)
    if 0 <= key < count:
        slot = begin + key
        slot = slot - capacity if capacity and slot >= capacity else slot
        return start.shifted(element, slot * element.size).initialised()
    raise NoSuchPart(f"there is no item {key}: it has {count}")


def sequence(value: AnyCell) -> tuple[AnyCell, int, Type, tuple[int, int]]:
    """(where item 0 of the buffer is, count, item type, (first slot, slots before it wraps)).

    Raises `ValueCorrupt` for counts that cannot be, `InputError` for what is no sequence.
    """
    type_ = value.type
    table = value.space.types
    name = path_name(type_)
    if type_.kind == "array" and type_.target is not None:
        element = table.at(type_.target)
        return value, type_.count or 0, element, (0, 0)
    if is_wide(type_):
        pointer = value.part(type_.members[[m.name for m in type_.members].index("data_ptr")])
        target = pointer.type.target
        if target is None:
            raise InputError(f"{type_.name} is a slice of nothing")
        count = value["length"].integer()
        return _checked(value, address_in(value), count, table.at(target), (0, 0), None)
    if name == "BinaryHeap":
        return sequence(value["data"])
    element_die = type_.parameter("T")
    if name not in ("Vec", "VecDeque") or element_die is None:
        raise InputError(f"{type_.name} is no sequence")
    element = table.at(element_die)
    if name == "Vec":
        start, count, capacity = _vec(value)
        return _checked(value, start, count, element, (0, 0), capacity)
    start, head, count, capacity = _deque(value)
    if element.size and head >= max(capacity, 1):
        raise value.corrupt(f"its head {head} lies outside of its capacity {capacity}")
    return _checked(value, start, count, element, (head, capacity), capacity)


def _checked(
    value: AnyCell,
    start: int,
    count: int,
    element: Type,
    wrap: tuple[int, int],
    capacity: int | None,
) -> tuple[AnyCell, int, Type, tuple[int, int]]:
    if count * max(element.size, 1) > _ADDRESS_SPACE:
        raise value.corrupt(f"a length of {count} items of {element.size} bytes")
    if capacity is not None and element.size and count > capacity:
        raise value.corrupt(f"a length of {count} with a capacity of {capacity}")
    return value.at(element, start), count, element, wrap


def _vec(value: Cell) -> tuple[int, int, int]:
    """(address of the buffer, items, capacity) of a Vec."""
    places = layouts.vector(value.space.types, value.type)
    if places is not None:
        start, count, capacity = (value.number(at, type_.size or 8) for type_, at in places)
        return start, count, capacity
    buffer = value["buf"]
    return address_in(_named(buffer, "ptr")), value["len"].integer(), _capacity(buffer)


def _deque(value: Cell) -> tuple[int, int, int, int]:
    """(address of the buffer, slot of the first item, items, capacity) of a VecDeque."""
    buffer = value["buf"]
    start, capacity = address_in(_named(buffer, "ptr")), _capacity(buffer)
    head = value["head"].integer()
    if value.type.member("len") is not None:
        return start, head, value["len"].integer(), capacity
    tail = value["tail"].integer()
    return start, tail, (head - tail) % max(capacity, 1), capacity


def _capacity(buffer: Cell) -> int:
    return _named(buffer, "cap").integer()


def _named(value: AnyCell, name: str) -> AnyCell:
    """A field that newer libraries put one level deeper (`RawVec{inner: RawVecInner}`)."""
    here = value
    for _ in range(_DEPTH):
        member = here.type.member(name)
        if member is not None:
            return here.part(member)
        inner = here.type.member("inner")
        if inner is None:
            break
        here = here.part(inner)
    raise SymbolNotFound(f"{value.type.name}.{name}", tuple(value.fields())[:8])
