"""A value as Rust's `{:?}` and `{:#?}` write it: as `derive(Debug)` would, from its layout.

DWARF does not tell whether a type's `Debug` is derived. Types of the standard library whose own is
known to differ, and bit flags, stand as their name, ``<core::time::Duration>``; so does what cannot
be read. Sources: library/core/src/fmt/builders.rs; the x86_64 crate's addr.rs and
structures/paging (their addresses, pages and frames).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols import hashing, lists, rust_format, sequences, shapes, vtables
from breenix_gdbagent.symbols.cell import address_in
from breenix_gdbagent.symbols.rust_format import Spec
from breenix_gdbagent.symbols.tree import is_raw
from breenix_gdbagent.symbols.types import Type, TypeTable, only_member
from breenix_gdbagent.symbols.values import Value

Dynamic = Callable[[int, int, Spec], str]
"""Formats (address of a value, address of its formatting function) as `Spec` has it."""

_DEPTH = 12
_VALUES = 1000
_LONGEST_TEXT = 4096
_CUT = "..."
_FORMAT_IN_VTABLE = 24  # behind drop, size and align
_STANDARD = ("core::", "alloc::", "std::")
_DERIVED = frozenset(
    {"Option", "Result", "Ordering", "Error", "TryFromIntError", "ParseIntError", "IntErrorKind"}
    | {"Utf8Error", "FromUtf8Error", "AllocError", "LayoutError", "Bound", "ControlFlow", "Poll"}
    | {"TryReserveError", "TryReserveErrorKind", "Reverse", "CharTryFromError"}
    | {"TryFromSliceError", "Location", "ParseBoolError"}
)
_WHAT_IS_IN_IT = re.compile(r"(Atomic|NonZero)\w*|Wrapping|Saturating|Pin")
_SETS = ("BTreeSet", "HashSet")
_SIZES = {"Size4KiB": "4KiB", "Size2MiB": "2MiB", "Size1GiB": "1GiB"}


def debug_text(value: Value, spec: Spec, dynamic: Dynamic) -> str:
    """The value under ``{:?}`` with the width and flags of `spec`, which every number in it has."""
    return _Walk(spec, dynamic).text(value, 0)


def type_path(table: TypeTable, type_: Type) -> str:
    """The qualified path of a type, where one can be told from its name."""
    path = table.path(type_)
    if "::" in path:
        return path
    found = _paths_of(table, type_.name)
    return found[0] if len(found) == 1 else type_.name


@lru_cache(maxsize=256)
def _paths_of(table: TypeTable, name: str) -> tuple[str, ...]:
    tail = f"::{name}"
    return tuple(path for path in table.index.types if path.endswith(tail))


class _Walk:
    """One value; `left` counts down how much of it is still shown."""

    def __init__(self, spec: Spec, dynamic: Dynamic) -> None:
        self.spec = spec
        self.dynamic = dynamic
        self.left = _VALUES

    def text(self, value: Value, depth: int) -> str:
        self.left -= 1
        if depth > _DEPTH or self.left < 0:
            return _CUT
        try:
            return self.shown(value, depth)
        except (ReadError, InputError):
            return f"<{type_path(value.space.types, value.type)}>"

    def shown(self, value: Value, depth: int) -> str:
        type_ = value.type
        if type_.name == "()":
            return rust_format.padded("()", self.spec)
        if type_.kind == "base":
            return self.base(value)
        if type_.kind == "function" or (type_.kind == "pointer" and is_raw(type_.name)):
            return rust_format.address(value.number(0, 8), self.spec)
        if sequences.is_text(type_):
            return rust_format.text(value.text(_LONGEST_TEXT), self.spec)
        for special in (self.collection, self.pointer, self.known):
            found = special(value, depth)
            if found is not None:
                return found
        return self.enum(value, depth) if type_.kind == "enum" else self.struct(value, depth)

    def base(self, value: Value) -> str:
        plain, type_ = value.plain(), value.type
        if isinstance(plain, bool):
            return rust_format.boolean(plain, self.spec)
        if isinstance(plain, str):
            return rust_format.character(plain, self.spec)
        if isinstance(plain, float) or type_.encoding == dw.DW_ATE_float:
            return rust_format.real(float(plain), type_.size, self.spec)
        return rust_format.integer(plain, type_.size, self.spec)

    def collection(self, value: Value, depth: int) -> str | None:
        type_ = value.type
        name = shapes.path_name(type_)
        if name == "BTreeMap" or hashing.is_map(type_):
            pairs = ((self.text(k, depth + 1), v) for k, v in value.entries(_VALUES))
            return self.block("{", (f"{k}: {self.text(v, depth + 1)}" for k, v in pairs), "}")
        known = name in ("Vec", "VecDeque", "BinaryHeap", *_SETS) or type_.kind == "array"
        if not (known or shapes.is_wide(type_) or hashing.is_set(type_) or lists.is_list(type_)):
            return None
        left, right = "{}" if name in _SETS else "[]"
        return self.block(left, (self.text(i, depth + 1) for i in value.items(_VALUES)), right)

    def pointer(self, value: Value, depth: int) -> str | None:
        type_ = value.type
        name = shapes.path_name(type_)
        if shapes.is_dyn(type_) or (name in shapes.OWNERS and vtables.is_dyn_owner(value)):
            return self.trait_object(value, depth)
        if not shapes.is_pointer_type(type_) or name == "Pin":
            return None
        if name == "Weak":
            return "(Weak)"
        if name in ("NonNull", "Unique"):
            return rust_format.address(address_in(value), self.spec)
        return self.text(value.deref(), depth + 1)

    def trait_object(self, value: Value, depth: int) -> str:
        if "dyn core::fmt::Debug" in value.type.name and shapes.is_dyn(value.type):
            vtable = value["vtable"].pointer()
            function = value.space.memory.number(vtable + _FORMAT_IN_VTABLE, 8)
            return self.dynamic(value["pointer"].pointer(), function, self.spec)
        inside = vtables.concrete(value)
        return f"<{value.type.name}>" if inside is None else self.text(inside, depth + 1)

    def known(self, value: Value, depth: int) -> str | None:
        """Types whose own Debug form is known, or is known not to be the derived one."""
        table, type_ = value.space.types, value.type
        path, name = (
            type_path(table, type_),
            shapes.path_name(type_) or type_.name.partition("<")[0],
        )
        if path.startswith("x86_64::"):
            return self.of_x86_64(value, name)
        if name == "PhantomData":
            marked = type_.parameter("T")
            return None if marked is None else f"{name}<{type_path(table, table.at(marked))}>"
        if name == "Cell" and path.startswith("core::"):
            held = only_member(table, type_)
            inside = None if held is None else only_member(table, table.at(held.type))
            if held is not None and inside is not None:
                shown = self.text(value.part(held).part(inside), depth + 1)
                return self.block("Cell { ", [f"value: {shown}"], " }")
        solid = only_member(table, type_)
        if solid is not None and _WHAT_IS_IN_IT.fullmatch(name):
            return self.text(value.scalar() if name != "Pin" else value.part(solid), depth + 1)
        if name == "Range" and (members := [type_.member("start"), type_.member("end")]):
            return "..".join(self.text(value.part(m), depth + 1) for m in members if m)
        flags = any(table.at(m.type).name.endswith("InternalBitFlags") for m in type_.members)
        lock = shapes.guarded_member(table, type_) is not None
        standard = _is_standard(table, path, type_) and name not in _DERIVED
        return f"<{path}>" if flags or lock or standard else None

    def of_x86_64(self, value: Value, name: str) -> str | None:
        """Addresses, pages and frames of the x86_64 crate."""
        if name in ("VirtAddr", "PhysAddr"):
            return f"{name}({value.integer():#x})"
        page = re.fullmatch(r"(Page|PhysFrame)<.*::(Size\w+)>", value.type.name)
        if page is not None and page[2] in _SIZES:
            return f"{page[1]}[{_SIZES[page[2]]}]({value.integer():#x})"
        return None

    def enum(self, value: Value, depth: int) -> str:
        name, payload = value.variant()
        return name if payload is None else self.fields(name, payload, depth)

    def struct(self, value: Value, depth: int) -> str:
        name = value.type.name
        bare = (
            "" if name.startswith("(") else shapes.path_name(value.type) or name.partition("<")[0]
        )
        return self.fields(bare, value, depth)

    def fields(self, name: str, value: Value, depth: int) -> str:
        members = value.type.members
        if not members:
            return name
        if not all(m.name.startswith("__") and m.name[2:].isdigit() for m in members):
            shown = (f"{m.name}: {self.text(value.part(m), depth + 1)}" for m in members)
            return self.block(f"{name} {{ ", shown, " }")
        ordered = sorted(members, key=lambda m: int(m.name[2:]))
        items = [self.text(value.part(m), depth + 1) for m in ordered]
        alone = not name and len(items) == 1 and not self.spec.alternate
        return self.block(f"{name}(", items, ",)" if alone else ")")

    def block(self, left: str, items: Iterable[str], right: str) -> str:
        shown = list(items)
        if not self.spec.alternate or not shown:
            return left + ", ".join(shown) + right
        lines = ("    " + item.replace("\n", "\n    ") + ",\n" for item in shown)
        return f"{left.rstrip(' ')}\n{''.join(lines)}{right.lstrip(' ')}"


def _is_standard(table: TypeTable, path: str, type_: Type) -> bool:
    """Whether it is, or where several types have its name may be, the standard library's."""
    if "::" in path.partition("<")[0]:
        return path.startswith(_STANDARD)
    return any(p.startswith(_STANDARD) for p in _paths_of(table, type_.name))
