"""DWARF 4 and 5 as far as the agent reads it: units, abbreviations, single DIEs, strings.

There is no DIE tree: a DIE is decoded when somebody asks for its offset. Everything that can be
wrong in a damaged file ends as one `InputError` that names the section (`guarded`).
Source: DWARF 4 and DWARF 5, chapter 7.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.symbols import dwarf_forms as f
from breenix_gdbagent.symbols import dwarf_names as dw
from breenix_gdbagent.symbols.dwarf_abbrev import Abbrev, read_abbrevs
from breenix_gdbagent.symbols.dwarf_forms import BadDwarf, uleb, unsigned
from breenix_gdbagent.symbols.dwarf_plan import Plan
from breenix_gdbagent.symbols.elf import ElfFile

Value = int | str | bytes


@dataclass(slots=True)
class Unit:
    """One unit of .debug_info: [offset, end), its first DIE at `first`."""

    offset: int
    end: int
    first: int
    version: int
    offset_size: int
    abbrevs: list[Abbrev | None]
    str_offsets_base: int = 0
    addr_base: int = 0
    rnglists_base: int = 0
    loclists_base: int = 0
    low_pc: int = 0


@dataclass(frozen=True, slots=True)
class Die:
    """One debugging information entry: `offset` in .debug_info, attributes by number.

    References are absolute offsets in .debug_info, strings are decoded, addresses are link
    addresses, blocks are bytes.
    """

    offset: int
    tag: int
    children: bool
    attributes: dict[int, Value]
    forms: dict[int, int]
    end: int
    unit: Unit

    def number(self, attribute: int) -> int | None:
        """An attribute that is a number, None when absent or something else."""
        value = self.attributes.get(attribute)
        return value if isinstance(value, int) else None

    def text(self, attribute: int) -> str | None:
        """An attribute that is a string."""
        value = self.attributes.get(attribute)
        return value if isinstance(value, str) else None

    def block(self, attribute: int) -> bytes | None:
        """An attribute that is a block of bytes."""
        value = self.attributes.get(attribute)
        return value if isinstance(value, bytes) else None

    @property
    def name(self) -> str:
        return self.text(dw.DW_AT_name) or ""


@contextmanager
def guarded(elf: ElfFile, section: str) -> Iterator[None]:
    """Damage met inside becomes an `InputError` that names `section`."""
    try:
        yield
    except InputError:
        raise
    except BadDwarf as error:
        raise elf.corrupt(section, str(error)) from None
    except (IndexError, KeyError, ValueError, OverflowError, struct.error) as error:
        raise elf.corrupt(section, f"is corrupt ({type(error).__name__})") from None
    except (RecursionError, MemoryError):
        raise elf.corrupt(section, "is corrupt (endless nesting)") from None


class Dwarf:
    """The debug sections of one ELF. Raises `InputError` when there is no .debug_info."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        if elf.section(".debug_info") is None:
            raise InputError(
                f"{elf.path} has no debug information (.debug_info)",
                fix="build the kernel with debug information for types, lines and values",
            )
        self._abbrevs: dict[tuple[int, int], list[Abbrev | None]] = {}
        self._unit_cache: dict[int, Unit] = {}
        self.plans: dict[tuple[int, int], Plan] = {}

    @cached_property
    def info(self) -> bytes:
        return self.elf.data(".debug_info")

    @cached_property
    def strings(self) -> bytes:
        return self.elf.data(".debug_str")

    @cached_property
    def line_strings(self) -> bytes:
        return self.elf.data(".debug_line_str")

    @cached_property
    def str_offsets(self) -> bytes:
        return self.elf.data(".debug_str_offsets")

    @cached_property
    def addresses(self) -> bytes:
        return self.elf.data(".debug_addr")

    @cached_property
    def line(self) -> bytes:
        return self.elf.data(".debug_line")

    @cached_property
    def ranges(self) -> bytes:
        return self.elf.data(".debug_ranges")

    @cached_property
    def rnglists(self) -> bytes:
        return self.elf.data(".debug_rnglists")

    @cached_property
    def locations(self) -> bytes:
        return self.elf.data(".debug_loc")

    @cached_property
    def loclists(self) -> bytes:
        return self.elf.data(".debug_loclists")

    @cached_property
    def _abbrev_data(self) -> bytes:
        return self.elf.data(".debug_abbrev")

    @cached_property
    def unit_offsets(self) -> list[int]:
        """Offsets of all unit headers, in order: one step per unit."""
        offsets = []
        at = 0
        with guarded(self.elf, ".debug_info"):
            while at < len(self.info):
                offsets.append(at)
                length = f.U32(self.info, at)[0]
                if length == 0xFFFFFFFF:
                    at += 12 + f.U64(self.info, at + 4)[0]
                elif length >= 0xFFFFFFF0:
                    raise BadDwarf(f"has a reserved unit length at {at:#x}")
                else:
                    at += 4 + length
                if at > len(self.info):
                    raise BadDwarf(f"is truncated: the unit at {offsets[-1]:#x} ends beyond it")
        return offsets

    def units(self) -> Iterator[Unit]:
        """All units, in order."""
        for offset in self.unit_offsets:
            yield self.unit(offset)

    def unit_of(self, die: int) -> Unit:
        """The unit that holds the .debug_info offset `die`."""
        at = bisect_right(self.unit_offsets, die) - 1
        if at < 0 or die >= len(self.info):
            raise self.elf.corrupt(".debug_info", f"refers to {die:#x}, outside of it")
        return self.unit(self.unit_offsets[at])

    def unit(self, offset: int) -> Unit:
        """The unit whose header is at `offset`."""
        unit = self._unit_cache.get(offset)
        if unit is None:
            with guarded(self.elf, ".debug_info"):
                unit = self._read_unit(offset)
            self._unit_cache[offset] = unit
        return unit

    def root(self, offset: int) -> Die:
        """The root DIE of the unit whose header is at `offset`, and no more of its table."""
        with guarded(self.elf, ".debug_info"):
            unit = self._read_unit(offset, first_only=True)
            if uleb(self.info, unit.first)[0] >= len(unit.abbrevs):
                unit = self.unit(offset)
        return self.die(unit.first, unit)

    def _read_unit(self, offset: int, first_only: bool = False) -> Unit:
        data = self.info
        length, at, size = f.U32(data, offset)[0], offset + 4, 4
        if length == 0xFFFFFFFF:
            length, at, size = f.U64(data, offset + 4)[0], offset + 12, 8
        end = at + length
        version = f.U16(data, at)[0]
        at += 2
        kind = dw.DW_UT_compile
        if version == 5:
            kind, address_size = data[at], data[at + 1]
            abbrev_at = unsigned(data, at + 2, size)
            at += 2 + size
        elif 2 <= version <= 4:
            abbrev_at = unsigned(data, at, size)
            address_size = data[at + size]
            at += size + 1
        else:
            raise BadDwarf(f"has a unit of DWARF version {version} at {offset:#x}, 2 to 5 are read")
        if kind == dw.DW_UT_skeleton:
            at += 8  # the id of the .dwo file that the rest is in
        elif kind not in (dw.DW_UT_compile, dw.DW_UT_partial):
            raise BadDwarf(f"has a unit of type {kind}, which is not read")
        if address_size != 8:
            raise BadDwarf(f"has addresses of {address_size} bytes at {offset:#x}")
        if first_only:
            with guarded(self.elf, ".debug_abbrev"):
                table = read_abbrevs(self._abbrev_data, abbrev_at, size, first_only=True)
        else:
            table = self.abbrevs(abbrev_at, size)
        unit = Unit(offset, end, at, version, size, table)
        self._read_bases(unit)
        return unit

    def _read_bases(self, unit: Unit) -> None:
        """The section bases of DWARF 5 and the base address, from the unit's first DIE."""
        root = self._raw(unit, unit.first)
        if root is None:
            return
        header = 16 if unit.offset_size == 8 else 8
        for attribute, default in (
            (dw.DW_AT_str_offsets_base, header),
            (dw.DW_AT_addr_base, header),
            (dw.DW_AT_rnglists_base, 12),
            (dw.DW_AT_loclists_base, 12),
        ):
            value = root.get(attribute, (0, default))[1]
            if not isinstance(value, int):
                raise BadDwarf("has a unit whose bases are no offsets")
            if attribute == dw.DW_AT_str_offsets_base:
                unit.str_offsets_base = value
            elif attribute == dw.DW_AT_addr_base:
                unit.addr_base = value
            elif attribute == dw.DW_AT_rnglists_base:
                unit.rnglists_base = value
            else:
                unit.loclists_base = value
        form, low = root.get(dw.DW_AT_low_pc, (dw.DW_FORM_addr, 0))
        if isinstance(low, int):
            unit.low_pc = low if form == dw.DW_FORM_addr else self.address(unit, low)

    def _raw(self, unit: Unit, at: int) -> dict[int, tuple[int, Value]] | None:
        """Attributes with indices not yet looked up: what the bases themselves need."""
        code, at = uleb(self.info, at)
        abbrev = unit.abbrevs[code] if code < len(unit.abbrevs) else None
        if abbrev is None:
            return None
        found: dict[int, tuple[int, Value]] = {}
        for attribute, form, _ in abbrev.specs:
            if form in (dw.DW_FORM_addr, dw.DW_FORM_sec_offset, dw.DW_FORM_data4, dw.DW_FORM_data8):
                size = f.fixed_size(form, unit.offset_size) or 0
                found[attribute] = (form, unsigned(self.info, at, size))
            elif form == dw.DW_FORM_addrx:
                found[attribute] = (form, uleb(self.info, at)[0])
            elif dw.DW_FORM_addrx1 <= form <= dw.DW_FORM_addrx4:
                size = form - dw.DW_FORM_addrx1 + 1
                found[attribute] = (form, unsigned(self.info, at, size))
            at = f.skip_form(self.info, at, form, unit.offset_size)
        return found

    def abbrevs(self, offset: int, offset_size: int) -> list[Abbrev | None]:
        """The abbreviations of one table, by code; index 0 is None."""
        key = (offset, offset_size)
        table = self._abbrevs.get(key)
        if table is None:
            with guarded(self.elf, ".debug_abbrev"):
                table = read_abbrevs(self._abbrev_data, offset, offset_size)
            self._abbrevs[key] = table
        return table

    def die(self, offset: int, unit: Unit | None = None) -> Die:
        """The DIE at a .debug_info offset; `InputError` when there is none."""
        with guarded(self.elf, ".debug_info"):
            die = self._read_die(offset, unit or self.unit_of(offset))
        if die is None:
            raise self.elf.corrupt(".debug_info", f"has no entry at {offset:#x}")
        return die

    def _read_die(self, offset: int, unit: Unit) -> Die | None:
        code, at = uleb(self.info, offset)
        if code == 0:
            return None
        abbrev = unit.abbrevs[code]
        if abbrev is None:
            raise BadDwarf(f"uses an undeclared abbreviation {code} at {offset:#x}")
        attributes: dict[int, Value] = {}
        forms: dict[int, int] = {}
        for attribute, form, implicit in abbrev.specs:
            if form == dw.DW_FORM_indirect:
                form, at = uleb(self.info, at)
                if form == dw.DW_FORM_indirect:
                    raise BadDwarf("has a form that is indirect twice")
            attributes[attribute] = self.value(unit, at, form, implicit)
            forms[attribute] = form
            at = f.skip_form(self.info, at, form, unit.offset_size)
        if at > unit.end:
            raise BadDwarf(f"has an entry at {offset:#x} that runs out of its unit")
        return Die(offset, abbrev.tag, abbrev.children, attributes, forms, at, unit)

    def value(self, unit: Unit, at: int, form: int, implicit: int = 0) -> Value:
        """One attribute value at `at`, decoded."""
        data = self.info
        if form == dw.DW_FORM_indirect:
            form, at = uleb(data, at)
        if f.is_block(form):
            return f.read_block(data, at, form)
        if form == dw.DW_FORM_flag_present:
            return 1
        if form == dw.DW_FORM_implicit_const:
            return implicit
        if form == dw.DW_FORM_sdata:
            return f.sleb(data, at)[0]
        if form == dw.DW_FORM_string:
            return _text(data, at)
        size = f.fixed_size(form, unit.offset_size)
        number = uleb(data, at)[0] if size is None else unsigned(data, at, size)
        if dw.DW_FORM_ref1 <= form <= dw.DW_FORM_ref_udata:
            return unit.offset + number
        if form == dw.DW_FORM_strp:
            return _text(self.strings, number)
        if form == dw.DW_FORM_line_strp:
            return _text(self.line_strings, number)
        if form == dw.DW_FORM_strx or dw.DW_FORM_strx1 <= form <= dw.DW_FORM_strx4:
            return _text(self.strings, self.string_offset(unit, number))
        if form == dw.DW_FORM_addrx or dw.DW_FORM_addrx1 <= form <= dw.DW_FORM_addrx4:
            return self.address(unit, number)
        if form == dw.DW_FORM_data16:
            return data[at : at + 16]
        return number

    def string_offset(self, unit: Unit, index: int) -> int:
        """Offset in .debug_str of the string with that index (DWARF 5 section 7.26)."""
        size = unit.offset_size
        return unsigned(self.str_offsets, unit.str_offsets_base + index * size, size)

    def address(self, unit: Unit, index: int) -> int:
        """The address with that index in .debug_addr (DWARF 5 section 7.27)."""
        return int(f.U64(self.addresses, unit.addr_base + 8 * index)[0])

    def children(self, die: Die) -> Iterator[Die]:
        """The direct children of a DIE, in order; whole subtrees below them are stepped over."""
        if not die.children:
            return
        at = die.end
        depth = 0
        unit = die.unit
        with guarded(self.elf, ".debug_info"):
            while at < unit.end:
                code, behind = uleb(self.info, at)
                if code == 0:
                    if depth == 0:
                        return
                    depth -= 1
                    at = behind
                    continue
                abbrev = unit.abbrevs[code]
                if abbrev is None:
                    raise BadDwarf(f"uses an undeclared abbreviation {code} at {at:#x}")
                if depth == 0:
                    child = self._read_die(at, unit)
                    assert child is not None
                    yield child
                    at = child.end
                else:
                    at = self.behind(unit, behind, abbrev)
                depth += abbrev.children
            raise BadDwarf(f"has a list of entries at {die.offset:#x} that does not end")

    def behind(self, unit: Unit, at: int, abbrev: Abbrev) -> int:
        """The offset behind the attribute values that start at `at`."""
        if abbrev.size >= 0:
            return at + abbrev.size
        for _, form, _ in abbrev.specs:
            at = f.skip_form(self.info, at, form, unit.offset_size)
        return at

    def origin(self, die: Die) -> Die:
        """The DIE that carries the names: through abstract_origin and specification."""
        for _ in range(8):
            target = die.number(dw.DW_AT_abstract_origin) or die.number(dw.DW_AT_specification)
            if target is None:
                return die
            die = self.die(target)
        raise self.elf.corrupt(".debug_info", f"has origins that loop at {die.offset:#x}")


def _text(data: bytes, at: int) -> str:
    return data[at : f.string_end(data, at)].decode("utf-8", "replace")
