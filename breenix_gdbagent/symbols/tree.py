"""A whole value at once: as nodes, and as plain Python data. Bounded, and damage stays in place.

What cannot be read becomes `Unknown` where it stands and does not hide the rest; what is cut off
says so. This is for showing (`tree_text.py` has it as Rust writes it); readers that need a field
ask the `Value` for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.errors import InputError, ReadError, ValueCorrupt
from breenix_gdbagent.symbols import cell, hashing, lists, sequences, shapes, vtables
from breenix_gdbagent.symbols.types import only_member
from breenix_gdbagent.symbols.values import Value


@dataclass(frozen=True, slots=True)
class Unknown:
    """A part that could not be had, or is no value of its type (`corrupt`)."""

    reason: str
    corrupt: bool = False


@dataclass(frozen=True, slots=True)
class Pointer:
    """A raw pointer or function pointer: the virtual address, and what is known of its type."""

    address: int
    what: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """`more` items, bytes or levels (None: not counted) that the limits left out."""

    more: int | None


@dataclass(frozen=True, slots=True)
class Char:
    """A `char`."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A string; `cut` bytes of it are left out."""

    text: str
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence, or (`unordered`) a set."""

    items: tuple[Node, ...]
    unordered: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """A map in the order of its walk; `rest` is what was left out or could not be read."""

    pairs: tuple[tuple[Node, Node], ...]
    rest: Cut | Unknown | None = None


Fields = dict[str, "Node"] | tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct, or a tuple (without a name). `fields` by name, or by position."""

    name: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class Variant:
    """The variant that an enum is in; `fields` None when it carries nothing."""

    name: str
    fields: Fields | None


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a lock of type `name` guards, beside its word; `held` None where the word's meaning is
    not known."""

    name: str
    word: int
    held: bool | None
    data: Node


Node = (
    bool | int | float | Char | Text | Unknown | Pointer | Cut
    | Items | Pairs | Struct | Variant | Guarded
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a value is taken: levels, items of one collection, bytes of one string, and
    values in all. Without `follow` only what lies in the value itself: no pointer is followed."""

    depth: int = 16
    items: int = 256
    text: int = 4096
    nodes: int = 20_000
    follow: bool = True


def nodes(value: Value, limits: Limits | None = None) -> Node:
    """The value with everything in it, as far as `limits` go."""
    return _Walk(limits or Limits()).value(value, 0)


def is_raw(name: str) -> bool:
    """Whether a pointer type is a raw or function pointer, which is shown and not followed."""
    return name.startswith(("*", "fn", "unsafe", "extern"))


_COLLECTIONS = frozenset({"BTreeMap", "Vec", "VecDeque", "BTreeSet", "BinaryHeap"})


class _Walk:
    """One descent; `left` counts down the values that may still be taken."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.nodes

    def value(self, value: Value, depth: int) -> Node:
        self.left -= 1
        if depth > self.limits.depth or self.left < 0:
            return Cut(None)
        try:
            return self.read(value, depth)
        except ValueCorrupt as error:
            return Unknown(error.what, corrupt=True)
        except (ReadError, InputError) as error:
            return Unknown(error.what)

    def read(self, value: Value, depth: int) -> Node:
        type_ = value.type
        if type_.kind == "base" and type_.size:
            plain = value.plain()
            return Char(plain) if isinstance(plain, str) else plain
        if type_.kind == "void" or (type_.size == 0 and not type_.members and not type_.variants):
            name = shapes.path_name(type_)
            return Struct("" if name.startswith("(") else name, ())
        if type_.kind == "function" or (type_.kind == "pointer" and is_raw(type_.name)):
            return Pointer(value.number(0, 8))
        special = self.special(value, depth)
        return self.composite(value, depth) if special is None else special

    def special(self, value: Value, depth: int) -> Node | None:
        """Shapes with a meaning of their own; None for plain structs and enums."""
        type_ = value.type
        name = shapes.path_name(type_)
        if not self.limits.follow and type_.kind != "array":
            return self.elsewhere(value, name)
        if sequences.is_text(type_):
            return self.text(value)
        if name == "BTreeMap" or hashing.is_map(type_):
            return self.map(value, depth)
        if name in ("Vec", "VecDeque", "BTreeSet", "BinaryHeap") or type_.kind == "array":
            return self.sequence(value, depth)
        if shapes.is_wide(type_) or hashing.is_set(type_) or lists.is_list(type_):
            return self.sequence(value, depth)
        if shapes.is_dyn(type_) or (name in shapes.OWNERS and vtables.is_dyn_owner(value)):
            return self.dynamic(value, depth)
        if name in ("Rc", "Arc") and not cell.is_thin(value):
            return Pointer(cell.address_in(value))
        if shapes.is_pointer_type(type_):
            if name in ("NonNull", "Unique", "Weak"):
                return Pointer(value.pointer())
            return self.value(value.deref(), depth)
        guarded = shapes.guarded_member(value.space.types, type_)
        return None if guarded is None else self.locked(value, value.part(guarded), depth)

    def elsewhere(self, value: Value, name: str) -> Node | None:
        """Of what lies somewhere else its address, or its name; None for what lies here."""
        type_ = value.type
        pointer = shapes.is_pointer_type(type_) or name in shapes.OWNERS or name in ("Rc", "Arc")
        if pointer or shapes.is_wide(type_) or shapes.is_dyn(type_):
            return Pointer(cell.address_in(value))
        collection = hashing.is_map(type_) or hashing.is_set(type_) or lists.is_list(type_)
        if collection or sequences.is_text(type_) or name in _COLLECTIONS:
            return Struct(name, ())
        return None

    def dynamic(self, value: Value, depth: int) -> Node:
        """What a trait object is really, by its vtable; its address where that is not told."""
        inside = vtables.concrete(value)
        if inside is None:
            return Pointer(cell.address_in(value), value.type.name)
        return self.value(inside, depth + 1)

    def locked(self, value: Value, data: Value, depth: int) -> Node:
        lock = cell.lock_of(value)
        assert lock is not None
        if shapes.is_once(value.type):
            ready = cell.once_ready(value, lock.raw)
            if ready is not None:
                return self.value(data, depth + 1) if ready else Unknown("not initialised")
        name = shapes.path_name(value.type)
        return Guarded(name, lock.raw, lock.held, self.value(data, depth + 1))

    def composite(self, value: Value, depth: int) -> Node:
        type_ = value.type
        if type_.kind == "enum":
            return self.enum(value, depth)
        solid = only_member(value.space.types, type_)
        if solid is not None and (type_.kind == "union" or shapes.is_transparent(type_)):
            return self.value(value.part(solid), depth)
        return Struct(_struct_name(type_.name), self.fields(value, depth))

    def fields(self, value: Value, depth: int) -> Fields:
        members = value.type.members
        if members and all(m.name.startswith("__") and m.name[2:].isdigit() for m in members):
            ordered = sorted(members, key=lambda m: int(m.name[2:]))
            return tuple(self.value(value.part(m), depth + 1) for m in ordered)
        return {
            m.name: self.value(value.part(m), depth + 1)
            for m in members
            if shapes.path_name(value.space.types.at(m.type)) != "PhantomData"
        }

    def enum(self, value: Value, depth: int) -> Node:
        name, payload = value.variant()
        if payload is None or not payload.type.members:
            return Variant(name, None)
        return Variant(name, self.fields(payload, depth))

    def text(self, value: Value) -> Node:
        shown, length = sequences.text(value, self.limits.text)
        return Text(shown, length - len(shown.encode()))

    def sequence(self, value: Value, depth: int) -> Node:
        total = sequences.length(value)
        taken: list[Node] = []
        try:
            for item in sequences.items(value, self.limits.items):
                if self.left <= 0:
                    break
                taken.append(self.value(item, depth + 1))
        except ReadError as error:
            taken.append(Unknown(error.what, isinstance(error, ValueCorrupt)))
        else:
            if len(taken) < total:
                taken.append(Cut(total - len(taken)))
        name = shapes.path_name(value.peel().type)
        return Items(tuple(taken), name.endswith("Set"))

    def map(self, value: Value, depth: int) -> Node:
        found: list[tuple[Node, Node]] = []
        total = sequences.length(value)
        try:
            for key, item in value.entries(self.limits.items):
                if self.left <= 0:
                    break
                found.append((self.value(key, depth + 1), self.value(item, depth + 1)))
        except ReadError as error:
            rest = Unknown(error.what, corrupt=isinstance(error, ValueCorrupt))
            return Pairs(tuple(found), rest)
        return Pairs(tuple(found), Cut(total - len(found)) if len(found) < total else None)


def _struct_name(name: str) -> str:
    """`Item` of ``kernel::Item<T>``; "" of a tuple or closure, which have none."""
    return "" if name.startswith(("(", "{")) else name.partition("<")[0].rpartition("::")[2]


def resolve(root: Value, path: str) -> Value:
    """Follow ``.field``, ``.0``, ``[index]`` from a value: the tail of ``print PATH``.

    Raises `SymbolNotFound` for a field or index that is not there, `InputError` for bad syntax.
    """
    here = root
    at = 0
    while at < len(path):
        end = at + 1
        if path[at] == ".":
            while end < len(path) and path[end] not in ".[":
                end += 1
            here = here[path[at + 1 : end]]
        elif path[at] == "[" and (end := path.find("]", at) + 1) > 0:
            try:
                here = here.item(int(path[at + 1 : end - 1], 0))
            except ValueError:
                raise InputError(f"{path[at:end]!r} is no index") from None
        else:
            raise InputError(f"cannot follow {path[at:]!r}", fix="write .field or [index]")
        at = end
    return here
