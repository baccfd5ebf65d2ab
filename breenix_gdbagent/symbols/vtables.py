"""Trait objects: what ``&dyn Trait``, ``Box<dyn Trait>``, ``Arc<dyn Trait>`` really hold.

rustc describes each vtable as a static ``<T as Trait>::{vtable}`` whose type names T by
DW_AT_containing_type. In memory a vtable begins with drop function, size, alignment
(rustc_middle::ty::vtable).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.cell import inward
from breenix_gdbagent.symbols.debug import DebugInfo
from breenix_gdbagent.symbols.location import linked_address
from breenix_gdbagent.symbols.shapes import COUNTED, is_dyn, path_name

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.values import Value

_SUFFIX = "{vtable}"
_COUNTS = 16  # ArcInner and RcInner: two counts before the data


def is_dyn_owner(value: Value) -> bool:
    """Whether a smart pointer holds an address with a vtable beside it."""
    return _fat(value) is not None


def concrete(value: Value) -> Value | None:
    """What the trait object holds, by its vtable; None where DWARF does not tell, or several
    types share that vtable. Raises `ValueCorrupt` for a vtable whose size is not the type's."""
    fat = _fat(value)
    if fat is None:
        raise InputError(f"{value.type.name} is no trait object")
    data, vtable = fat["pointer"].pointer(), fat["vtable"].pointer()
    if not data or not vtable:
        raise value.corrupt("a null where Rust has none")
    image = value.space.image
    dies = _vtables(value.space.debug).get(image.link(vtable), ())
    types = [value.space.types.at(die) for die in dies]
    if len({(t.name, t.size) for t in types}) != 1:
        return None
    size, align = (
        int.from_bytes(value.space.memory.read(vtable + at, 8), "little") for at in (8, 16)
    )
    if size != types[0].size:
        raise value.corrupt(
            f"the vtable at {hex64(vtable)} is for {size} bytes, {types[0].name} has "
            f"{types[0].size}"
        )
    counted = path_name(value.type) in COUNTED
    return value.at(types[0], data + (max(_COUNTS, align) if counted else 0))


def _fat(value: Value) -> Value | None:
    """The (pointer, vtable) pair inside."""
    return next((here for here in inward(value, "ptr", "pointer") if is_dyn(here.type)), None)


@lru_cache(maxsize=4)
def _vtables(debug: DebugInfo) -> Mapping[int, tuple[int, ...]]:
    """Link address of each live vtable -> DIEs of the types that it is for."""
    found: dict[int, tuple[int, ...]] = {}
    for path, offsets in debug.index.statics.items():
        if not path.endswith(_SUFFIX):
            continue
        for offset in offsets:
            die = debug.dwarf.die(offset)
            address = linked_address(debug.dwarf, die.unit, die.block(dw.DW_AT_location) or b"")
            kind = die.number(dw.DW_AT_type)
            if not address or kind is None:
                continue
            held = debug.dwarf.die(kind).number(dw.DW_AT_containing_type)
            if held is not None and held not in found.get(address, ()):
                found[address] = (*found.get(address, ()), held)
    return found
