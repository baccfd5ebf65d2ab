"""What expressions do with places: follow pointers, index, slice, see them as another type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.operands import number
from breenix_gdbagent.symbols.location import Place
from breenix_gdbagent.symbols.sequences import length
from breenix_gdbagent.symbols.tree import is_raw
from breenix_gdbagent.symbols.types import Type, type_of
from breenix_gdbagent.symbols.values import Value, Values

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.known import Known

MOST = 4096
"""Items of one slice."""
_MASK = (1 << 64) - 1
_BITS = {"u8": 8, "u16": 16, "u32": 32, "u64": 64, "usize": 64, "u128": 128}


def words(evaluation: Evaluation, first: int, end: int, size: int) -> tuple[int, ...]:
    """Unsigned numbers of `size` bytes that lie at [first, end). Raises `ReadError`."""
    count = _bounded((end - first) // size)
    data = evaluation.memory.read(first & _MASK, count * size)
    return tuple(
        int.from_bytes(data[at : at + size], "little") for at in range(0, count * size, size)
    )


def dereferenced(evaluation: Evaluation, value: Known) -> Known:
    """What a pointer points to; of a plain number the 64-bit word at that address."""
    if isinstance(value, Value) and not _is_number(value):
        return value.deref()
    return int.from_bytes(evaluation.memory.read(number(value) & _MASK, 8), "little")


def _is_number(value: Value) -> bool:
    return value.type.kind == "base"


def indexed(value: Known, index: int) -> Known:
    """One item; of a raw pointer the item that lies so far behind what it points to."""
    if isinstance(value, tuple):
        if not 0 <= index < len(value):
            raise InputError(f"there is no item {index}: there are {len(value)}")
        return value[index]
    if not isinstance(value, Value):
        raise InputError(f"{value!r} has no items")
    if _is_raw_pointer(value):
        first = value.deref()
        assert first.address is not None
        return first.at(first.type, first.address + index * max(first.type.size, 1))
    return value.item(index)


def sliced(value: Known, first: int, end: int | None) -> tuple[Known, ...]:
    """``[first..end]``. Raises `InputError` where an end is needed and none is given."""
    if end is None:
        if isinstance(value, tuple):
            end = len(value)
        elif isinstance(value, Value) and not _is_raw_pointer(value):
            end = length(value)
        else:
            raise InputError("a pointer has no length", fix="write both ends: [0..4]")
    return tuple(indexed(value, at) for at in range(first, first + _bounded(end - first)))


def _is_raw_pointer(value: Value) -> bool:
    return value.type.kind == "pointer" and is_raw(value.type.name)


def _bounded(count: int) -> int:
    if not 0 <= count <= MOST:
        raise InputError(f"{count} items are not shown at once", fix=f"at most {MOST}")
    return count


def convert(evaluation: Evaluation, value: Known, name: str) -> Known:
    """``value as TYPE``: to an integer, a float, or a pointer to a type of the kernel's. Raises
    `InputError`, `SymbolNotFound` with near names."""
    if name in _BITS:
        return number(value) & (1 << _BITS[name]) - 1
    if name[:1] == "i" and (unsigned := f"u{name[1:]}") in _BITS:
        bits = _BITS[unsigned]
        low = number(value) & (1 << bits) - 1
        return low - (1 << bits) if low >> bits - 1 else low
    if name in ("f32", "f64"):
        return float(number(value))
    if name == "bool":
        return number(value) != 0
    if name == "char":
        return chr(number(value) & 0x1FFFFF)
    if name[:1] not in "*&":
        raise InputError(
            f"`as {name}` is no conversion", fix=f"to see memory so: {name}@ADDRESS, *const {name}"
        )
    target = name.lstrip("*& ").removeprefix("const ").removeprefix("mut ").strip()
    return pointer_to(evaluation.values, target, number(value))


def pointer_to(values: Values, name: str, address: int) -> Value:
    """A raw pointer to a type, by the type's name."""
    target = named_type(values, name)
    type_ = Type(-target.die, "pointer", f"*const {target.name}", 8, target=target.die)
    return Value(values, type_, None, Place(None, (address & _MASK).to_bytes(8, "little")))


def named_type(values: Values, name: str) -> Type:
    """A type by its path, its last components, or as DWARF has the name itself."""
    return type_of(values.types, name)
