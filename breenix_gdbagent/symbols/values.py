"""Rust values in a stopped guest's memory, by name and by field, read when they are asked for.

::

    values = Values(loaded, memory.read)
    manager = values.static("kernel::process::PROCESS_MANAGER")
    manager.lock                       # Lock(raw=0, held=False)
    for pid, process in manager["processes"].entries():
        pid.integer(), process["name"].text(), process["page_table"].some()

Readers trust and raise: `ReadError` where memory cannot be read, `ValueCorrupt` where the bytes
are no value of their type, `SymbolNotFound` for a name or field that is not there. See `tree.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols import sequences
from breenix_gdbagent.symbols.cell import Cell
from breenix_gdbagent.symbols.image import LoadedImage
from breenix_gdbagent.symbols.location import evaluate, linked_address
from breenix_gdbagent.symbols.pagecache import PageCache, ReadVirtual
from breenix_gdbagent.symbols.types import Type

_MASK = (1 << 64) - 1


class Values:
    """Typed values of one stop. `read_virtual(va, length)` reads kernel addresses.

    Raises `InputError` when the ELF has no DWARF or it is damaged.
    """

    def __init__(self, image: LoadedImage, read_virtual: ReadVirtual) -> None:
        self.image = image
        self.debug = image.image.debug
        self.types = self.debug.types
        self.memory = PageCache(read_virtual)

    def static(self, path: str) -> Value:
        """The static of that path (its last components suffice when they are unique).

        Raises `SymbolNotFound` (not in DWARF), `InputError` (several of that name), `ReadError`
        (optimised out).
        """
        found: dict[int, Value] = {}
        gone = 0
        for offset in self.debug.index.statics_named(path):
            value = self._static(offset)
            if value is None:
                gone += 1
            else:
                found.setdefault(value.address or offset, value)
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise InputError(f"{path!r} names {len(found)} statics", fix="give more of the path")
        raise ReadError(f"{path} has no place in memory: it was optimised out")

    def _static(self, offset: int) -> Value | None:
        dwarf = self.debug.dwarf
        die = dwarf.die(offset)
        code = die.block(dw.DW_AT_location)
        if not code:
            return None
        # A function or static that the linker dropped has address 0, not none.
        linked = linked_address(dwarf, die.unit, code)
        if linked == 0:
            return None
        type_ = self.types.of(die)
        if linked is not None:
            return Value(self, type_, int(self.image.va(linked)))
        place = evaluate(dwarf, die.unit, code, self.image.bias, self.memory.read)
        if place.address is not None:
            return Value(self, type_, place.address)
        return Value(self, type_, None, place)

    def at(self, type_: Type | str, address: int) -> Value:
        """A value of a type (or of the type of that path) at a virtual address."""
        found = self.types.named(type_) if isinstance(type_, str) else type_
        return Value(self, found, address & _MASK)


class Value(Cell):
    """A typed place with what the standard library's collections keep in it."""

    __slots__ = ()

    def __getitem__(self, key: str | int) -> Value:
        """A field by name (through locks, cells, `Some`, boxes and references), or an item.

        `value["0"]` is a tuple's first field; an integer indexes arrays, vectors and queues, and
        looks up the key in maps. Raises `SymbolNotFound` with the fields there are.
        """
        return self.item(key) if isinstance(key, int) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Value:
        """A field as an attribute: ``process.name``; `["..."]` where the name is one of `Value`'s
        own. Raises `AttributeError` where there is none."""
        if name.startswith("_"):
            raise AttributeError(name)
        found = self.field(name)
        if found is None:
            raise AttributeError(f"{self.type.name} has no field {name!r}")
        return found

    def __repr__(self) -> str:
        try:
            shown = f": {self.integer():#x}"
        except (ReadError, InputError):
            shown = ""  # no single number: fields and items say it
        return f"<{self.type.name} at {self.where}{shown}>"

    def __dir__(self) -> list[str]:
        try:
            return sorted({*super().__dir__(), *self.fields()})
        except (ReadError, InputError):
            return sorted(super().__dir__())

    def text(self, limit: int = 1 << 16) -> str:
        """A `String`, `&str` or `Box<str>`, at most `limit` bytes of it."""
        return sequences.text(self, limit)[0]

    def items(self, limit: int = 1 << 20) -> Iterator[Value]:
        """Items of an array, slice, `Vec`, `VecDeque` (in queue order), set or heap."""
        return sequences.items(self, limit)

    def entries(self, limit: int = 1 << 20) -> Iterator[tuple[Value, Value]]:
        """(key, value) of a `BTreeMap` in key order, of a `HashMap` in bucket order."""
        return sequences.entries(self, limit)

    def __len__(self) -> int:
        return sequences.length(self)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Value]:
        return self.items()

    def item(self, index: int) -> Value:
        """One item by index, or a map's value by integer key."""
        return sequences.item(self, index)
