"""`HashMap` and `HashSet` in memory: the full buckets of a hashbrown table, in bucket order.

Source: hashbrown::raw (RawTable, RawTableInner). The control bytes stand at `ctrl`; bucket i ends
at ``ctrl - i * size_of::<T>()``; a control byte with its high bit clear belongs to a full bucket.
"""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols.cell import AnyCell, Cell, address_in
from breenix_gdbagent.symbols.shapes import path_name
from breenix_gdbagent.symbols.types import Type

_MAX_BUCKETS = 1 << 32
_AT_ONCE = 4096
_WRAPPERS = ("base", "map", "table")
_DEPTH = 8


def is_map(type_: Type) -> bool:
    """Whether it is a hash map, std's or hashbrown's."""
    return path_name(type_) == "HashMap" and _wraps(type_)


def is_set(type_: Type) -> bool:
    """Whether it is a hash set."""
    return path_name(type_) == "HashSet" and _wraps(type_)


def _wraps(type_: Type) -> bool:
    return any(type_.member(name) is not None for name in _WRAPPERS)


def length(value: Cell) -> int:
    """How many items the table says it has."""
    return _raw(value)[1]["items"].integer()


def entries(value: AnyCell, limit: int) -> Iterator[tuple[AnyCell, AnyCell]]:
    """(key, value) pairs in bucket order, at most `limit`; of a set the value is ``()``.

    Raises `ValueCorrupt` for a table that cannot be, `InputError` for what is no hash table.
    """
    table, inner = _raw(value)
    pair_die = table.type.parameter("T")
    if pair_die is None:
        raise InputError(f"{table.type.name} does not say what it holds")
    pair = value.space.types.at(pair_die)
    first, second = pair.member("__0"), pair.member("__1")
    if first is None or second is None:
        raise InputError(f"{pair.name} is no pair of key and value")
    buckets = inner["bucket_mask"].integer() + 1
    control, items = address_in(inner["ctrl"]), inner["items"].integer()
    if buckets & (buckets - 1) or buckets > _MAX_BUCKETS or items > buckets:
        raise value.corrupt(f"{items} items in {buckets} buckets")
    seen = 0
    for bucket in _full(value, control, buckets) if items else ():
        if seen == limit:
            return
        seen += 1
        if seen > items:
            raise value.corrupt(f"it says {items} items, but more of its buckets are full")
        whole = value.at(pair, control - (bucket + 1) * pair.size)
        yield whole.part(first), whole.part(second)
    if seen < min(items, limit):
        raise value.corrupt(f"it says {items} items, but {seen} of its buckets are full")


def _full(value: Cell, control: int, buckets: int) -> Iterator[int]:
    """Indices of the full buckets."""
    for start in range(0, buckets, _AT_ONCE):
        marks = value.space.memory.read(control + start, min(_AT_ONCE, buckets - start))
        yield from (start + i for i, mark in enumerate(marks) if mark < 0x80)


def _raw(value: AnyCell) -> tuple[AnyCell, AnyCell]:
    """(the RawTable<T>, the RawTableInner in it)."""
    here = value.peel()
    typed = None
    for _ in range(_DEPTH):
        if here.type.member("bucket_mask") is not None and typed is not None:
            return typed, here
        if path_name(here.type) == "RawTable":
            typed = here
        name = next((n for n in _WRAPPERS if here.type.member(n) is not None), None)
        if name is None:
            break
        here = here[name]
    raise ReadError(f"{value.type.name} is a hash table of an unknown shape")
