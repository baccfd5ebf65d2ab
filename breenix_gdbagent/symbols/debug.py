"""The DWARF of one kernel ELF, shared by every stop of a session: its index and its types."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from breenix_gdbagent.symbols.dwarf import Dwarf
from breenix_gdbagent.symbols.dwarf_index import DwarfIndex
from breenix_gdbagent.symbols.elf import ElfFile

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.lines import LineTable
    from breenix_gdbagent.symbols.types import TypeTable


class DebugInfo:
    """The DWARF of an ELF; each part is read when first used.

    Raises `InputError` when the ELF has none, or names the section that is damaged.
    """

    def __init__(self, elf: ElfFile) -> None:
        self.dwarf = Dwarf(elf)

    @cached_property
    def index(self) -> DwarfIndex:
        return DwarfIndex.build(self.dwarf)

    @cached_property
    def types(self) -> TypeTable:
        from breenix_gdbagent.symbols.types import TypeTable

        return TypeTable(self.dwarf, self.index)

    @cached_property
    def lines(self) -> LineTable:
        from breenix_gdbagent.symbols.lines import LineTable

        return LineTable(self.dwarf)
