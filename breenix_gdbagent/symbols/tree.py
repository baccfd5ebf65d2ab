"""A whole value at once: as plain Python data, or as text. Bounded, and damage stays in place.

What cannot be read becomes `Unknown` where it stands and does not hide the rest; what is cut off
says so. This is for showing; readers that need a field ask the `Value` for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError, ReadError, ValueCorrupt
from breenix_gdbagent.symbols import btree, sequences, shapes
from breenix_gdbagent.symbols.types import only_member
from breenix_gdbagent.symbols.values import Value


@dataclass(frozen=True, slots=True)
class Unknown:
    """A part that could not be had, or is no value of its type (`corrupt`)."""

    reason: str
    corrupt: bool = False


@dataclass(frozen=True, slots=True)
class Pointer:
    """A raw pointer or function pointer: the virtual address."""

    address: int


@dataclass(frozen=True, slots=True)
class Cut:
    """`more` items, bytes or levels (None: not counted) that the limits left out."""

    more: int | None


Plain = (
    None | bool | int | float | str | Unknown | Pointer | Cut
    | list["Plain"] | tuple["Plain", ...] | dict["str | int", "Plain"]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a value is taken: levels, items of one collection, bytes of one string, and
    values in all."""

    depth: int = 16
    items: int = 256
    text: int = 4096
    nodes: int = 20_000


def to_python(value: Value, limits: Limits | None = None) -> Plain:
    """The value as Python data.

    Structs and maps are dicts, tuples tuples, sequences lists, `None` None, `Some(x)` x, other
    variants ``{"Name": payload}`` or the bare name, locks ``{"lock": word, "data": ...}``.
    """
    return _Walk(limits or Limits()).value(value, 0)


def is_raw(name: str) -> bool:
    """Whether a pointer type is a raw or function pointer, which is shown and not followed."""
    return name.startswith(("*", "fn", "unsafe", "extern"))


class _Walk:
    """One descent; `left` counts down the values that may still be taken."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.nodes

    def value(self, value: Value, depth: int) -> Plain:
        self.left -= 1
        if depth > self.limits.depth or self.left < 0:
            return Cut(None)
        try:
            return self.read(value, depth)
        except ValueCorrupt as error:
            return Unknown(error.what, corrupt=True)
        except ReadError as error:
            return Unknown(error.what)
        except InputError as error:
            return Unknown(error.what)

    def read(self, value: Value, depth: int) -> Plain:
        type_ = value.type
        if type_.kind == "void" or (type_.size == 0 and not type_.members and not type_.variants):
            return ()
        if type_.kind == "base":
            return value.plain()
        if type_.kind == "function" or (type_.kind == "pointer" and is_raw(type_.name)):
            return Pointer(value.number(0, 8))
        special = self.special(value, depth)
        return special[0] if special else self.composite(value, depth)

    def special(self, value: Value, depth: int) -> tuple[Plain] | None:
        """Shapes with a meaning of their own, in a tuple; None for plain structs and enums."""
        type_ = value.type
        name = shapes.path_name(type_)
        if sequences.is_text(type_):
            return (self.text(value),)
        if name == "BTreeMap":
            return (self.map(value, depth),)
        if name == "PhantomData":
            return ((),)
        if name in ("Vec", "VecDeque", "BTreeSet", "BinaryHeap") or type_.kind == "array":
            return (self.sequence(value, depth),)
        if shapes.is_wide(type_):
            return (self.sequence(value, depth),)
        if shapes.is_dyn(type_):
            return (Pointer(shapes.address_in(value)),)
        if name in ("Rc", "Arc") and not shapes.is_thin(value):
            return (Pointer(shapes.address_in(value)),)
        if shapes.is_pointer(value):
            if name in ("NonNull", "Unique", "Weak"):
                return (Pointer(value.pointer()),)
            return (self.value(value.deref(), depth),)
        guarded = shapes.guarded_member(value.space.types, type_)
        if guarded is not None:
            return (self.locked(value, value.part(guarded), depth),)
        return None

    def locked(self, value: Value, data: Value, depth: int) -> Plain:
        lock = shapes.lock_of(value)
        assert lock is not None
        if shapes.is_once(value.type):
            ready = shapes.once_ready(value, lock.raw)
            if ready is not None:
                return self.value(data, depth + 1) if ready else Unknown("not initialised")
        return {"lock": lock.raw, "data": self.value(data, depth + 1)}

    def composite(self, value: Value, depth: int) -> Plain:
        type_ = value.type
        if type_.kind == "enum":
            return self.enum(value, depth)
        if type_.kind == "union" or shapes.path_name(type_) == "UnsafeCell":
            member = only_member(value.space.types, type_)
            if member is not None:
                return self.value(value.part(member), depth)
        return self.fields(value, depth)

    def fields(self, value: Value, depth: int) -> Plain:
        """A struct: tuple structs of one field are that field, of more a tuple."""
        members = value.type.members
        if not members:
            return ()
        if all(m.name.startswith("__") and m.name[2:].isdigit() for m in members):
            ordered = sorted(members, key=lambda m: int(m.name[2:]))
            parts = tuple(self.value(value.part(m), depth + 1) for m in ordered)
            return parts[0] if len(parts) == 1 and not value.type.name.startswith("(") else parts
        solid = only_member(value.space.types, value.type)
        if solid is not None and solid.name in ("v", "value", "pointer"):
            return self.value(value.part(solid), depth)
        return {
            m.name: self.value(value.part(m), depth + 1)
            for m in members
            if shapes.path_name(value.space.types.at(m.type)) != "PhantomData"
        }

    def enum(self, value: Value, depth: int) -> Plain:
        name, payload = value.variant()
        if payload is None or not payload.type.members:
            return None if name == "None" else name
        inner = self.fields(payload, depth)
        return inner if name == "Some" else {name: inner}

    def text(self, value: Value) -> Plain:
        shown, length = sequences.text(value, self.limits.text)
        cut = length - len(shown.encode())
        return [shown, Cut(cut)] if cut else shown

    def sequence(self, value: Value, depth: int) -> Plain:
        total = sequences.length(value)
        taken: list[Plain] = []
        for item in sequences.items(value, self.limits.items):
            if self.left <= 0:
                break
            taken.append(self.value(item, depth + 1))
        if len(taken) < total:
            taken.append(Cut(total - len(taken)))
        return taken

    def map(self, value: Value, depth: int) -> Plain:
        found: dict[str | int, Plain] = {}
        total = sequences.length(value)
        taken = 0
        try:
            for key, item in btree.entries(value, self.limits.items):
                if self.left <= 0:
                    break
                shown = self.value(key, depth + 1)
                index = shown if isinstance(shown, str | int) else render_plain(shown)
                found[index] = self.value(item, depth + 1)
                taken += 1
        except ReadError as error:
            found["..."] = Unknown(error.what, corrupt=isinstance(error, ValueCorrupt))
            return found
        if taken < total:
            found["..."] = Cut(total - taken)
        return found


def render_plain(plain: Plain, name_of: Callable[[int], str | None] | None = None) -> str:
    """One line of text; `name_of` names the address in a pointer."""
    if isinstance(plain, dict):
        inside = ", ".join(f"{k}: {render_plain(v, name_of)}" for k, v in plain.items())
        return "{" + inside + "}"
    if isinstance(plain, list):
        return "[" + ", ".join(render_plain(v, name_of) for v in plain) + "]"
    if isinstance(plain, tuple):
        comma = "," if len(plain) == 1 else ""
        return "(" + ", ".join(render_plain(v, name_of) for v in plain) + comma + ")"
    if isinstance(plain, Unknown):
        return f"<{plain.reason}>"
    if isinstance(plain, Cut):
        return "..." if plain.more is None else f"... {plain.more} more"
    if isinstance(plain, Pointer):
        name = name_of(plain.address) if name_of and plain.address else None
        return f"{hex64(plain.address)} <{name}>" if name else hex64(plain.address)
    if isinstance(plain, str):
        return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, int) and plain >= 1 << 16:
        return hex64(plain)
    return str(plain)


def render(value: Value, limits: Limits | None = None, width: int = 100) -> list[str]:
    """The value as lines of text, one field or item a line where one line would be too long."""
    lines: list[str] = []
    _layout(to_python(value, limits), "", 0, width, value.space.image.name_of, lines)
    return lines


def _layout(
    plain: Plain,
    label: str,
    indent: int,
    width: int,
    name_of: Callable[[int], str | None],
    out: list[str],
) -> None:
    pad = "  " * indent
    flat = label + render_plain(plain, name_of)
    if len(pad) + len(flat) <= width or not isinstance(plain, dict | list) or not plain:
        out.append(pad + flat)
        return
    pairs = (
        [(f"{k}: ", v) for k, v in plain.items()]
        if isinstance(plain, dict)
        else [(f"[{i}] ", v) for i, v in enumerate(plain)]
    )
    out.append(pad + label + ("{" if isinstance(plain, dict) else "["))
    for name, part in pairs:
        _layout(part, name, indent + 1, width, name_of, out)
    out.append(pad + ("}" if isinstance(plain, dict) else "]"))


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
