"""Rust types as DWARF has them, resolved one at a time when a value needs them.

Source: DWARF 5 sections 5.1 to 5.10 (variant parts: 5.7.10); what rustc writes for enums,
niches, slices and boxes was read off its output and is checked against gdb in the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from breenix_gdbagent.addresses import counted
from breenix_gdbagent.errors import SymbolNotFound
from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf import Die, Dwarf, guarded
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, sleb, uleb
from breenix_gdbagent.symbols.dwarf_index import DwarfIndex

_KINDS = {
    dw.DW_TAG_structure_type: "struct",
    dw.DW_TAG_union_type: "union",
    dw.DW_TAG_enumeration_type: "enum",
    dw.DW_TAG_base_type: "base",
    dw.DW_TAG_pointer_type: "pointer",
    dw.DW_TAG_reference_type: "pointer",
    dw.DW_TAG_array_type: "array",
    dw.DW_TAG_subroutine_type: "function",
}
_TRANSPARENT = frozenset({dw.DW_TAG_typedef, dw.DW_TAG_const_type, dw.DW_TAG_volatile_type})
_MAX_CHAIN = 64
_NEAR = 8
_MAX_SIZE = 1 << 40


@dataclass(frozen=True, slots=True)
class Member:
    """A field: `offset` in bytes from the start of the whole, `type` a DIE offset."""

    name: str
    offset: int
    type: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of an enum: taken when the tag lies in one of `tags` ([low, high] ranges).

    `tags` None: the variant that is taken when no other is (it holds the data of a niche).
    """

    name: str
    tags: tuple[tuple[int, int], ...] | None
    payload: Member


@dataclass(frozen=True, slots=True)
class VariantPart:
    """The variants of an enum and the member that holds the tag.

    `tag` None: there is no tag (an enum of one variant, or of none).
    """

    tag: Member | None
    variants: tuple[Variant, ...]

    def of(self, tag: int) -> Variant | None:
        """The variant that a tag chooses, None when it is none's."""
        other = None
        for variant in self.variants:
            if variant.tags is None:
                other = other or variant
                continue
            for low, high in variant.tags:
                if low <= tag <= high:
                    return variant
        return other


@dataclass(frozen=True, slots=True)
class Type:
    """One type. `kind`: struct, union, enum (variants or enumerators), base, pointer, array,
    function, void. `size` in bytes; `target` is what a pointer points to or an array holds (a DIE
    offset), `count` the array's length (None: not said), `encoding` a DW_ATE number.
    """

    die: int
    kind: str
    name: str
    size: int
    members: tuple[Member, ...] = ()
    variants: VariantPart | None = None
    enumerators: tuple[tuple[str, int], ...] = ()
    target: int | None = None
    count: int | None = None
    encoding: int = 0
    parameters: tuple[tuple[str, int], ...] = ()

    def member(self, name: str) -> Member | None:
        """The field of that name, None when there is none."""
        for member in self.members:
            if member.name == name:
                return member
        return None

    def parameter(self, name: str) -> int | None:
        """The DIE offset of a generic argument (`T`), None when there is none."""
        for have, die in self.parameters:
            if have == name:
                return die
        return None

Place = tuple[Type, int]  # a type, and how many bytes into a whole it lies

VOID = Type(0, "void", "()", 0)


class TypeTable:
    """Types by DIE offset, each resolved once; names through the index.

    Raises `InputError` naming the section where the DWARF is damaged.
    """

    def __init__(self, dwarf: Dwarf, index: DwarfIndex) -> None:
        self.dwarf = dwarf
        self.index = index
        self._types: dict[int, Type] = {}
        # What `layouts.py` has worked out, with the very type that it was for.
        self.peeled: dict[int, tuple[Type, Place]] = {}
        self.scalars: dict[int, tuple[Type, Place | None]] = {}
        self.vectors: dict[int, tuple[Type, tuple[Place, Place, Place] | None]] = {}
        self.reached: dict[tuple[int, str], tuple[Type, tuple[Type, int, bool]]] = {}

    @cached_property
    def _paths(self) -> dict[int, str]:
        return {die: path for path, die in self.index.types.items()}

    def path(self, type_: Type) -> str:
        """The qualified path where the index has this very DIE, else the plain name."""
        return self._paths.get(type_.die, type_.name)

    def named(self, path: str) -> Type:
        """The type of that path; `SymbolNotFound` with near names."""
        return self.at(self.index.type_named(path))

    def find(self, pattern: str) -> Iterator[str]:
        """Paths of types that contain `pattern`."""
        return (path for path in self.index.types if pattern in path)

    def at(self, offset: int) -> Type:
        """The type whose DIE is at `offset`, typedefs and qualifiers looked through."""
        found = self._types.get(offset)
        if found is None:
            with guarded(self.dwarf.elf, ".debug_info"):
                found = self._resolve(offset)
            self._types[offset] = found
        return found

    def of(self, die: Die) -> Type:
        """The type that DW_AT_type of a DIE names, `VOID` when it has none."""
        target = die.number(dw.DW_AT_type)
        return VOID if target is None else self.at(target)

    def _resolve(self, offset: int) -> Type:
        die = self.dwarf.die(offset)
        for _ in range(_MAX_CHAIN):
            if die.tag not in _TRANSPARENT:
                break
            target = die.number(dw.DW_AT_type)
            if target is None:
                return VOID
            die = self.dwarf.die(target)
        else:
            raise BadDwarf(f"has types that name each other in a circle at {offset:#x}")
        kind = _KINDS.get(die.tag)
        if kind is None:
            raise BadDwarf(f"has no type at {die.offset:#x} (tag {die.tag:#x})")
        size = die.number(dw.DW_AT_byte_size)
        if size is not None and not 0 <= size < _MAX_SIZE:
            raise BadDwarf(f"has a type of {size} bytes at {die.offset:#x}")
        if kind in ("struct", "union"):
            return self._composite(die, kind, size or 0)
        if kind == "enum":
            return self._enumeration(die, size or 0)
        if kind == "array":
            return self._array(die)
        if kind == "pointer":
            return Type(
                die.offset,
                kind,
                die.name,
                8 if size is None else size,
                target=die.number(dw.DW_AT_type),
            )
        encoding = die.number(dw.DW_AT_encoding) or 0
        return Type(die.offset, kind, die.name, size or 0, encoding=encoding)

    def _composite(self, die: Die, kind: str, size: int) -> Type:
        members: list[Member] = []
        parameters: list[tuple[str, int]] = []
        variants = None
        for child in self.dwarf.children(die):
            if child.tag == dw.DW_TAG_member:
                members.append(self._member(child))
            elif child.tag == dw.DW_TAG_template_type_parameter:
                target = child.number(dw.DW_AT_type)
                if target is not None:
                    parameters.append((child.name, target))
            elif child.tag == dw.DW_TAG_variant_part:
                variants = self._variants(child)
        return Type(
            die.offset,
            "enum" if variants is not None else kind,
            die.name,
            size,
            tuple(members),
            variants,
            parameters=tuple(parameters),
        )

    def _member(self, die: Die) -> Member:
        offset = die.number(dw.DW_AT_data_member_location)
        expression = die.block(dw.DW_AT_data_member_location)
        if expression and expression[0] == dw.DW_OP_plus_uconst:  # what DWARF 2 has for a number
            offset = uleb(expression, 1)[0]
        target = die.number(dw.DW_AT_type)
        if target is None or (offset is None and dw.DW_AT_data_member_location in die.attributes):
            raise BadDwarf(f"has a member without type or place at {die.offset:#x}")
        return Member(die.name, offset or 0, target)

    def _variants(self, part: Die) -> VariantPart:
        tag_die = part.number(dw.DW_AT_discr)
        tag = None if tag_die is None else self._member(self.dwarf.die(tag_die))
        tag_type = self.at(tag.type) if tag else VOID
        variants = []
        for child in self.dwarf.children(part):
            if child.tag != dw.DW_TAG_variant:
                continue
            for payload in self.dwarf.children(child):
                if payload.tag == dw.DW_TAG_member:
                    member = self._member(payload)
                    name = payload.name or self.at(member.type).name
                    variants.append(Variant(name, _tags(child, tag_type), member))
                    break
        return VariantPart(tag, tuple(variants))

    def _enumeration(self, die: Die, size: int) -> Type:
        mask = (1 << 8 * size) - 1
        values = []
        for child in self.dwarf.children(die):
            if child.tag == dw.DW_TAG_enumerator:
                values.append((child.name, _constant(child, dw.DW_AT_const_value) & mask))
        under = die.number(dw.DW_AT_type)
        encoding = self.at(under).encoding if under is not None else 0
        return Type(
            die.offset,
            "enum",
            die.name,
            size,
            enumerators=tuple(values),
            target=under,
            encoding=encoding,
        )

    def _array(self, die: Die) -> Type:
        target = die.number(dw.DW_AT_type)
        count = None
        for child in self.dwarf.children(die):
            if child.tag == dw.DW_TAG_subrange_type:
                count = child.number(dw.DW_AT_count)
                upper = child.number(dw.DW_AT_upper_bound)
                if count is None and upper is not None:
                    count = upper + 1
        if target is None or (count is not None and not 0 <= count < _MAX_SIZE):
            raise BadDwarf(f"has an array of nothing, or without end, at {die.offset:#x}")
        element = self.at(target)
        shown = f"[{element.name}; {count}]" if count is not None else f"[{element.name}]"
        return Type(
            die.offset, "array", shown, element.size * (count or 0), target=target, count=count
        )


def _constant(die: Die, attribute: int) -> int:
    """A constant that is a number or, for 128 bits, a block of little-endian bytes."""
    value = die.attributes.get(attribute)
    if isinstance(value, bytes):
        return int.from_bytes(value, "little")
    if not isinstance(value, int):
        raise BadDwarf(f"has a constant that is no number at {die.offset:#x}")
    return value


def _tags(variant: Die, tag: Type) -> tuple[tuple[int, int], ...] | None:
    """The tags of a variant, as unsigned numbers of the tag's size; None: all the others.

    LLVM writes the tag of a signed type in the smallest form that holds it: -2 of an `i16` is
    DW_FORM_data1 254, and has to be extended from there.
    """
    mask = (1 << 8 * tag.size) - 1
    signed = tag.encoding in (dw.DW_ATE_signed, dw.DW_ATE_signed_char)
    if dw.DW_AT_discr_value in variant.attributes:
        value = _constant(variant, dw.DW_AT_discr_value)
        size = f.fixed_size(variant.forms[dw.DW_AT_discr_value], 4)
        if signed and size and value >> 8 * size - 1 == 1:
            value -= 1 << 8 * size
        return ((value & mask, value & mask),)
    listed = variant.block(dw.DW_AT_discr_list)
    if listed is None:
        return None
    # DWARF 5 section 7.23: DW_DSC_label 0 value, DW_DSC_range 1 low high, in LEB128.
    read = sleb if signed else uleb
    ranges = []
    at = 0
    while at < len(listed):
        kind = listed[at]
        low, at = read(listed, at + 1)
        high, at = read(listed, at) if kind == 1 else (low, at)
        ranges.append((low & mask, high & mask))
    return tuple(ranges)


def only_member(table: TypeTable, type_: Type) -> Member | None:
    """The single member that is not of size zero, None when there are several or none.

    Wrappers come and go with the standard library (`UnsafeCell`, `MaybeUninit`, `NonNull`,
    `Atomic<T>`): looking through them by shape outlives their names.
    """
    found = [m for m in type_.members if table.at(m.type).size > 0]
    return found[0] if len(found) == 1 and type_.variants is None else None


def describe(table: TypeTable, type_: Type) -> list[str]:
    """The layout as lines: offset, size, name and type of every field or variant."""
    lines = [f"{type_.kind} {table.path(type_)} ({counted(type_.size, 'byte')})"]
    for member in sorted(type_.members, key=lambda m: m.offset):
        inner = table.at(member.type)
        size = counted(inner.size, "byte")
        lines.append(f"  +{member.offset:#x} {member.name}: {inner.name} ({size})")
    if type_.variants is not None:
        tag = type_.variants.tag
        if tag is not None:
            lines.append(f"  +{tag.offset:#x} tag: {table.at(tag.type).name}")
        for variant in type_.variants.variants:
            shown = "any other" if variant.tags is None else _shown(variant.tags)
            lines.append(f"  {variant.name} = {shown}")
            for member in table.at(variant.payload.type).members:
                at = variant.payload.offset + member.offset
                lines.append(f"    +{at:#x} {member.name}: {table.at(member.type).name}")
    lines += [f"  {name} = {value}" for name, value in type_.enumerators]
    return lines


def _shown(tags: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(str(a) if a == b else f"{a}..={b}" for a, b in tags)


def type_of(table: TypeTable, name: str) -> Type:
    """The type of that path, or whose path alone ends in it (or has it inside), or of the static of
    that path. Raises `SymbolNotFound` with near names."""
    if name in table.index.types:
        return table.named(name)
    near = list(table.find(name))
    ends = [path for path in near if path.endswith(f"::{name}")]
    if len(ends or near) == 1:
        return table.named((ends or near)[0])
    try:
        return table.of(table.dwarf.die(table.index.statics_named(name)[0]))
    except SymbolNotFound:
        raise table.index.missing(name, tuple((ends or near)[:_NEAR])) from None
