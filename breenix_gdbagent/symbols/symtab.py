"""The symbol table: names by address, addresses by exact path. Parsed when first asked for.

Source: System V gABI, chapter 4 (Symbol Table).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.errors import InputError, SymbolNotFound
from breenix_gdbagent.symbols.demangle import components, demangle
from breenix_gdbagent.symbols.elf import SHF_ALLOC, SHF_EXECINSTR, ElfFile

_SHN_LORESERVE = 0xFF00
_KINDS = {0: "label", 1: "object", 2: "function", 6: "tls", 10: "function"}
_GLOBAL, _WEAK = 1, 2
_NEAR = 3
# How many symbols may start between an address and the start of the function that holds it.
_NESTED = 64


@dataclass(frozen=True, slots=True)
class Symbol:
    """One entry of .symtab: `address` is a link address, `size` in bytes, 0 when not said.

    kind: ``function``, ``object``, ``label`` (hand-written assembly) or ``tls``.
    """

    raw: str
    address: int
    size: int
    kind: str
    exported: bool
    executable: bool

    @property
    def name(self) -> str:
        """The demangled path."""
        return demangle(self.raw)


@dataclass(frozen=True, slots=True)
class SymbolHit:
    """What lies at an address: `name` + `offset` bytes into it, of `size` bytes (0: not said).

    `also` holds the other names folded on the same address (identical code): it is one of all.
    """

    name: str
    offset: int
    size: int
    address: int
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = self.name if not self.offset else f"{self.name}+{hex64(self.offset)}"
        if not self.also:
            return text
        return f"{text} (one of {len(self.also) + 1} symbols folded here)"


class SymbolTable:
    """All symbols of an ELF that have an address in a loaded section, sorted by address."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self.symbols = _read(elf)
        self._starts = [s.address for s in self.symbols]

    @cached_property
    def _ends(self) -> list[int]:
        """Where the section of each symbol ends: a label without a size reaches at most there."""
        bounds = sorted(
            (s.address, s.address + s.size) for s in self.elf.sections if s.flags & SHF_ALLOC
        )
        starts = [b[0] for b in bounds]
        ends = []
        for symbol in self.symbols:
            at = bisect_right(starts, symbol.address) - 1
            ends.append(bounds[at][1] if at >= 0 else symbol.address)
        return ends

    def at(self, address: int) -> SymbolHit | None:
        """The symbol that covers a link address, None in a gap between symbols.

        A symbol without a size (an assembly label) reaches to the next symbol.
        """
        here = self.covering(address)
        if here is None:
            return None
        group = self._at_start(here.address)
        others = tuple(
            dict.fromkeys(s.name for s in group if s.name != here.name and s.kind == here.kind)
        )
        return SymbolHit(here.name, address - here.address, here.size, here.address, others)

    def covering(self, address: int) -> Symbol | None:
        """The symbol whose extent holds `address`: the nearest sized one, else a label."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        nearest = self._starts[at]
        label: Symbol | None = None
        for index in range(at, max(-1, at - _NESTED), -1):
            symbol = self.symbols[index]
            if symbol.size and address < symbol.address + symbol.size:
                return symbol
            if not symbol.size and symbol.address == nearest and address < self._ends[index]:
                label = label or symbol
        return label

    def _at_start(self, address: int) -> list[Symbol]:
        at = bisect_right(self._starts, address) - 1
        group = []
        while at >= 0 and self._starts[at] == address:
            group.append(self.symbols[at])
            at -= 1
        return group[::-1]

    def next_start(self, address: int) -> int | None:
        """The lowest start of a symbol above `address`."""
        at = bisect_right(self._starts, address)
        return self._starts[at] if at < len(self._starts) else None

    def section_end(self, address: int) -> int:
        """Where the section of the nearest symbol at or below `address` ends."""
        at = bisect_right(self._starts, address) - 1
        return self._ends[at] if at >= 0 else address

    def matching(self, name: str) -> list[Symbol]:
        """Symbols whose path ends in exactly the components of `name`, whole paths first.

        A mangled name is matched as it is. `{closure}` and friends are components of their own,
        so `f` never finds a closure inside `f`.
        """
        exact = [s for s in self.symbols if s.raw == name]
        if exact:
            return exact
        wanted = components(name)
        if not wanted:
            return []
        needle = _needle(wanted[-1])
        whole, tail = [], []
        for symbol in self.symbols:
            if needle in symbol.raw:
                have = components(symbol.name)
                if have == wanted:
                    whole.append(symbol)
                elif have[-len(wanted) :] == wanted:
                    tail.append(symbol)
        return whole or tail

    def addresses_of(self, name: str) -> tuple[int, ...]:
        """Every distinct link address of that path, sorted; () when there is none."""
        return tuple(sorted({s.address for s in self.matching(name)}))

    def address_of(self, name: str) -> int:
        """The link address of the one symbol of that path.

        Raises `SymbolNotFound` with the nearest names, `InputError` when several match.
        """
        found = self.addresses_of(name)
        if len(found) == 1:
            return found[0]
        if not found:
            raise SymbolNotFound(name, self.near(name))
        shown = ", ".join(hex64(a) for a in found[:4]) + (", ..." if len(found) > 4 else "")
        raise InputError(
            f"{name!r} names {len(found)} symbols",
            f"at link addresses {shown}",
            "give more of the path, or the mangled name",
        )

    def near(self, name: str) -> tuple[str, ...]:
        """Up to three names that resemble `name` in their last component."""
        import difflib

        wanted = components(name) or (name,)
        by_last: dict[str, str] = {}
        for symbol in self.symbols:
            parts = components(symbol.name)
            if parts:
                by_last.setdefault(parts[-1], symbol.name)
        close = difflib.get_close_matches(wanted[-1], by_last, _NEAR, 0.7)
        return tuple(by_last[c] for c in close)

    def find(self, pattern: str) -> Iterator[Symbol]:
        """Symbols whose path contains `pattern`, or matches it as a glob when it has * or ?."""
        if any(c in pattern for c in "*?["):
            import fnmatch

            for symbol in self.symbols:
                if fnmatch.fnmatchcase(symbol.name, pattern):
                    yield symbol
        else:
            for symbol in self.symbols:
                if pattern in symbol.name or pattern in symbol.raw:
                    yield symbol


def _needle(component: str) -> str:
    """A piece of `component` that its mangled form holds unchanged."""
    best = ""
    run = ""
    for char in component + "\0":
        if char.isascii() and (char.isalnum() or char == "_"):
            run += char
        else:
            best = max(best, run, key=len)
            run = ""
    # `{closure#0}` and `<T as Trait>` are not spelled out in v0 names.
    return best if best == component else ""


def _read(elf: ElfFile) -> list[Symbol]:
    table = elf.section(".symtab")
    if table is None:
        return []
    data = elf.data(".symtab")
    sections = elf.sections
    if len(data) % 24 or not 0 < table.link < len(sections):
        raise elf.corrupt(".symtab", "is corrupt: odd size, or no string table")
    names_in = sections[table.link]
    if names_in.offset + names_in.size > elf.size:
        raise elf.corrupt(names_in.name or ".strtab", "does not lie in the file")
    names = elf.pread(names_in.offset, names_in.size)
    flags = [s.flags for s in sections]
    found = []
    for name, info, _, index, value, size in struct.iter_unpack("<IBBHQQ", data):
        kind = _KINDS.get(info & 15)
        if kind is None or not 0 < index < _SHN_LORESERVE or not name:
            continue
        if index >= len(flags) or name >= len(names):
            raise elf.corrupt(".symtab", "is corrupt: an entry points outside the file's tables")
        if not flags[index] & SHF_ALLOC or kind == "tls":
            continue
        raw = names[name : names.find(b"\0", name)].decode("utf-8", "replace")
        if raw.startswith(".L") or raw == "$x" or raw == "$d":
            continue
        found.append(
            Symbol(
                raw,
                value,
                size,
                kind,
                info >> 4 in (_GLOBAL, _WEAK),
                bool(flags[index] & SHF_EXECINSTR),
            )
        )
    labels = {s.raw for s in found if s.kind == "label"}
    found = [s for s in found if not _is_local_label(s, labels)]
    # On one address the preferred name comes last: covering() meets it first.
    found.sort(key=lambda s: (s.address, s.size > 0, s.kind != "label", s.exported))
    return found


def _is_local_label(symbol: Symbol, labels: set[str]) -> bool:
    """NASM writes ``.again`` inside `timer_interrupt_entry` as `timer_interrupt_entry.again`."""
    parent, dot, _ = symbol.raw.partition(".")
    return symbol.kind == "label" and bool(dot) and parent in labels
