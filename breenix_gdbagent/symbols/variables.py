"""Arguments and local variables of frames, inlined calls included, by their DWARF locations.

Source: DWARF 5 sections 2.6, 3.3, 3.5 and 4.1. As in gdb (dwarf2/read.c, inherit_abstract_dies)
what an inlined call does not mention of its function's variables was optimised out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.backtrace import Frame
from breenix_gdbagent.symbols.debug import DebugInfo
from breenix_gdbagent.symbols.dwarf import Die, Dwarf
from breenix_gdbagent.symbols.location import Place, evaluate
from breenix_gdbagent.symbols.location_list import location_at
from breenix_gdbagent.symbols.ranges import spans_of
from breenix_gdbagent.symbols.types import Type
from breenix_gdbagent.symbols.values import Value, Values

GONE = "optimised out"
_MASK = (1 << 64) - 1
_DEEP = 64


@dataclass(frozen=True, slots=True)
class Variable:
    """One argument or local variable. `value` None: it cannot be had, and `why` says why."""

    name: str
    argument: bool
    value: Value | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """The variables of one function, or of one call that was inlined: `die` is its entry's offset
    (see `LineTable.frames_at`). Arguments come first, then locals, the innermost block's first."""

    die: int
    function: str
    inlined: bool
    variables: tuple[Variable, ...]

    def find(self, name: str) -> Variable | None:
        """The innermost variable of that name, None when there is none."""
        locals_first = sorted(self.variables, key=lambda v: v.argument)
        return next((v for v in locals_first if v.name == name), None)


class Registers:
    """What locations ask of one frame, see `location.FrameState`. `rules` are those of the CFA."""

    def __init__(self, values: Values, frame: Frame, function: Die) -> None:
        self.values = values
        self.frame = frame
        self.function = function

    def register(self, number: int) -> int:
        names = self.values.image.image.elf.arch.names
        if number >= len(names.unwind):
            raise ReadError(f"register {number} (DWARF) is not known")
        name = names.unwind[number]
        if name == names.sp:
            return int(self.frame.sp)
        if name == names.pc:
            return int(self.frame.pc)
        value = self.frame.registers.get(name)
        if value is None:
            raise ReadError(f"{GONE} ({name} is not kept over the call)")
        return value

    @cached_property
    def _base(self) -> int:
        code = self.function.block(dw.DW_AT_frame_base)
        if not code:
            raise ReadError("the function has no frame base")
        space = self.values
        if len(code) == 1 and dw.DW_OP_reg0 <= code[0] <= dw.DW_OP_reg31:
            return self.register(code[0] - dw.DW_OP_reg0)
        place = evaluate(
            space.debug.dwarf, self.function.unit, code, space.image.bias, space.memory.read, self
        )
        if place.address is None:
            return int.from_bytes(place.data[:8], "little")
        return place.address

    def base(self) -> int:
        return self._base

    def cfa(self) -> int:
        image = self.values.image
        rules = image.image.frames.rules(image.link(self.frame.lookup))
        if rules is None:
            raise ReadError("no call-frame information says where the frame is")
        number = image.image.elf.arch.names.unwind.index(rules.cfa_register)
        return (self.register(number) + rules.cfa_offset) & _MASK

    def at_entry(self, expression: bytes) -> int:
        """Known at the first instruction alone: nothing says what a caller has passed."""
        begin = min((low for low, _ in spans_of(self.values.debug.dwarf, self.function)), default=0)
        link = self.values.image.link(self.frame.pc)
        if not self.frame.exact or link != begin or len(expression) != 1:
            raise ReadError(GONE)
        return self.register(expression[0] - dw.DW_OP_reg0)


def scopes(values: Values, frame: Frame) -> tuple[Scope, ...]:
    """The calls inlined at a frame, innermost first, and last its function, each with its
    variables; () where DWARF has no function there. Raises `InputError` for damaged DWARF."""
    image = values.image
    if not image.holds(frame.lookup):
        return ()
    link = image.link(frame.lookup)
    lines, dwarf = values.debug.lines, values.debug.dwarf
    dies = [dwarf.die(offset) for offset in lines.frames_at(link)]
    if not dies:
        return ()
    state = Registers(values, frame, dies[0])
    names = [spot.function for spot in lines.at(link)]
    found = []
    for die, name in zip(reversed(dies), names, strict=False):
        read = _reader(values, link, state)
        variables = tuple(read(one) for one in _declared(dwarf, die, link))
        ordered = sorted(variables, key=lambda v: not v.argument)
        inlined = die.tag == dw.DW_TAG_inlined_subroutine
        found.append(Scope(die.offset, name, inlined, tuple(ordered)))
    return tuple(found)


def names_at(debug: DebugInfo, link: int) -> frozenset[str]:
    """Names of the variables in scope at a link address, of all calls inlined there."""
    dwarf = debug.dwarf
    every = (dwarf.die(offset) for offset in debug.lines.frames_at(link))
    return frozenset(dwarf.origin(v).name for die in every for v in _declared(dwarf, die, link))


def _declared(dwarf: Dwarf, die: Die, link: int) -> Iterator[Die]:
    """The variables of a function or inlined call in scope at `link`, then those of its origin that
    it does not have."""
    seen: set[int] = set()
    yield from _inside(dwarf, die, link, seen, 0)
    origin = die.number(dw.DW_AT_abstract_origin)
    if origin is not None:
        for child in dwarf.children(dwarf.die(origin)):
            if child.tag in _VARIABLES and child.offset not in seen:
                yield child


_VARIABLES = (dw.DW_TAG_formal_parameter, dw.DW_TAG_variable)


def _inside(dwarf: Dwarf, die: Die, link: int, seen: set[int], depth: int) -> Iterator[Die]:
    outer: list[Die] = []
    blocks: list[Die] = []
    for child in dwarf.children(die):
        if child.tag in _VARIABLES:
            outer.append(child)
            seen.add(child.number(dw.DW_AT_abstract_origin) or child.offset)
        elif child.tag == dw.DW_TAG_lexical_block and depth < _DEEP:
            blocks.append(child)
    for block in blocks:
        if any(low <= link < high for low, high in spans_of(dwarf, block)):
            yield from _inside(dwarf, block, link, seen, depth + 1)
    yield from outer


def _reader(values: Values, link: int, state: Registers) -> Callable[[Die], Variable]:
    dwarf, types = values.debug.dwarf, values.types

    def read(die: Die) -> Variable:
        named = dwarf.origin(die)
        argument = die.tag == dw.DW_TAG_formal_parameter
        name = named.name or "_"
        try:
            type_ = types.of(die if dw.DW_AT_type in die.attributes else named)
            constant = die.attributes.get(dw.DW_AT_const_value)
            code = location_at(dwarf, die, link)
            if code is not None:
                place = evaluate(
                    dwarf, die.unit, code, values.image.bias, values.memory.read, state
                )
            elif constant is not None:
                place = Place(None, _constant(constant, max(type_.size, 1)))
            elif type_.size:
                return Variable(name, argument, None, GONE)
            else:
                place = Place(None, b"")
            return Variable(name, argument, _valued(values, type_, place))
        except (ReadError, InputError) as error:
            return Variable(name, argument, None, error.what)

    return read


def _valued(values: Values, type_: Type, place: Place) -> Value:
    if place.address is not None:
        return Value(values, type_, place.address)
    # Registers hold eight bytes, whatever the type takes of them.
    missing = place.missing
    data = place.data
    if missing and all(low == 0 and high >= type_.size for low, high in missing):
        raise ReadError(GONE)
    return Value(values, type_, None, Place(None, data.ljust(type_.size, b"\0"), missing))


def _constant(value: int | str | bytes, size: int) -> bytes:
    if isinstance(value, bytes):
        return value[:size].ljust(size, b"\0")
    if isinstance(value, str):
        return value.encode()[:size].ljust(size, b"\0")
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")

