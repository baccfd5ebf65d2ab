"""Where things lie inside a type, however deep: worked out once for each type of one ELF.

A walk over a process table asks the same few types thousands of times. What needs no memory to
answer (through newtypes, cells and locks, up to an enum or a pointer) is remembered here.
"""

from __future__ import annotations

from breenix_gdbagent.symbols import shapes
from breenix_gdbagent.symbols.types import Place, Type, TypeTable, only_member

_DEPTH = 24


def peeled(table: TypeTable, type_: Type) -> Place:
    """What is inside locks, cells, `MaybeUninit` and newtypes; enums and pointers stay."""
    found = table.peeled.get(type_.die)
    if found is None or found[0] is not type_:
        found = type_, _peel(table, type_)
        table.peeled[type_.die] = found
    return found[1]


def _peel(table: TypeTable, type_: Type) -> Place:
    offset = 0
    for _ in range(_DEPTH):
        inner = shapes.guarded_member(table, type_)
        if inner is None and type_.variants is None and not shapes.is_special(type_):
            inner = only_member(table, type_)
        if inner is None:
            break
        type_, offset = table.at(inner.type), offset + inner.offset
    return type_, offset


def scalar(table: TypeTable, type_: Type) -> Place | None:
    """The base value, pointer or C-like enum inside newtypes, atomics and cells; None for what is
    more than one number."""
    found = table.scalars.get(type_.die)
    if found is None or found[0] is not type_:
        found = type_, _scalar(table, type_)
        table.scalars[type_.die] = found
    return found[1]


def _scalar(table: TypeTable, type_: Type) -> Place | None:
    type_, offset = peeled(table, type_)
    for _ in range(_DEPTH):
        if type_.kind in ("base", "pointer", "function") or type_.enumerators:
            return type_, offset
        member = only_member(table, type_)
        if member is None:
            return None
        type_, offset = table.at(member.type), offset + member.offset
    return None


def vector(table: TypeTable, type_: Type) -> tuple[Place, Place, Place] | None:
    """Where a `Vec` has (the address of its buffer, its length, its capacity), as the numbers that
    they are; None for an unknown shape."""
    found = table.vectors.get(type_.die)
    if found is None or found[0] is not type_:
        found = type_, _vector(table, type_)
        table.vectors[type_.die] = found
    return found[1]


def _vector(table: TypeTable, type_: Type) -> tuple[Place, Place, Place] | None:
    buffer = type_.member("buf")
    length = type_.member("len")
    if buffer is None or length is None:
        return None
    here, offset = table.at(buffer.type), buffer.offset
    # Newer libraries have it one level deeper: RawVec{inner: RawVecInner}.
    while here.member("ptr") is None and (inner := here.member("inner")) is not None:
        here, offset = table.at(inner.type), offset + inner.offset
    places = []
    for member, base in ((here.member("ptr"), offset), (length, 0), (here.member("cap"), offset)):
        found = None if member is None else scalar(table, table.at(member.type))
        if member is None or found is None:
            return None
        places.append((found[0], base + member.offset + found[1]))
    return places[0], places[1], places[2]


def reached(table: TypeTable, type_: Type, name: str) -> tuple[Type, int, bool]:
    """(type, offset, True) of the field of that name, looked for through wrappers; or where the
    search stands without reading memory (at an enum, at a pointer, at the end), False."""
    key = type_.die, name
    found = table.reached.get(key)
    if found is None or found[0] is not type_:
        found = type_, _reach(table, type_, name)
        table.reached[key] = found
    return found[1]


def _reach(table: TypeTable, type_: Type, name: str) -> tuple[Type, int, bool]:
    offset = 0
    for _ in range(_DEPTH):
        member = type_.member(name)
        if member is not None:
            return table.at(member.type), offset + member.offset, True
        if type_.variants is not None or shapes.is_pointer_type(type_):
            break
        inner = shapes.guarded_member(table, type_) or only_member(table, type_)
        if inner is None:
            break
        type_, offset = table.at(inner.type), offset + inner.offset
    return type_, offset, False
