"""Machine code of the ELF, decoded: functions, calls that do not come back.

Imported only where an ELF without CFI is unwound, or an interrupted place is looked at closely:
the disassembler is dear to load.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from breenix_gdbagent.symbols.elf import ElfFile
from breenix_gdbagent.symbols.symtab import SymbolTable
from breenix_gdbagent.x86.disassembler import disassemble

_RIP = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|\d+)\]")
# A function of the kernel is far smaller: a symbol without a size must not make us decode all.
_MAX_FUNCTION = 1 << 18
_MAX_CHAIN = 16


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction at link `address`: `operands` as capstone's Intel syntax writes them."""

    address: int
    size: int
    mnemonic: str
    operands: str

    @property
    def is_jump(self) -> bool:
        return self.mnemonic.startswith("j") or self.mnemonic.startswith("loop")

    @property
    def target(self) -> int | None:
        """The address that a direct jump or call goes to."""
        return int(self.operands, 16) if self.operands.startswith("0x") else None

    @property
    def rip_target(self) -> int | None:
        """The address of a RIP-relative memory operand."""
        match = _RIP.search(self.operands)
        if match is None:
            return None
        offset = int(match.group(2), 0)
        behind = self.address + self.size
        return behind - offset if match.group(1) == "-" else behind + offset


class CodeReader:
    """Decoded functions of one ELF by link address, each decoded once."""

    def __init__(self, elf: ElfFile, symbols: SymbolTable) -> None:
        self.elf = elf
        self.symbols = symbols
        self._functions: dict[int, list[Instruction]] = {}
        self._returns: dict[int, bool] = {}

    def function(self, start: int, end: int) -> list[Instruction]:
        """The instructions of [start, end), in order; bytes that are none come as ``.byte``."""
        known = self._functions.get(start)
        if known is None:
            data = self.elf.at(start, min(end - start, _MAX_FUNCTION)) or b""
            known = [
                Instruction(address, size, _bare(mnemonic), operands)
                for address, size, mnemonic, operands in disassemble(data, start, skip_data=True)
            ]
            self._functions[start] = known
        return known

    def extent(self, link: int) -> tuple[int, int] | None:
        """[start, end) of the function that holds a link address, by the symbol table.

        A label without a size reaches to the next symbol. None where no symbol covers it.
        """
        symbol = self.symbols.covering(link)
        if symbol is None or not symbol.executable:
            return None
        if symbol.size:
            return symbol.address, symbol.address + symbol.size
        behind = self.symbols.next_start(symbol.address)
        section_end = self.symbols.section_end(symbol.address)
        return symbol.address, min(behind or section_end, section_end)

    def returns(self, link: int, depth: int = 0) -> bool:
        """Whether a call to `link` can come back: some `ret`, or a jump to what comes back."""
        known = self._returns.get(link)
        if known is not None:
            return known
        extent = self.extent(link)
        if extent is None or extent[0] != link or depth > _MAX_CHAIN:
            return True
        # Assumed while we look: functions that jump to each other.
        self._returns[link] = True
        answer = any(self._comes_back(i, extent, depth) for i in self.function(*extent))
        self._returns[link] = answer
        return answer

    def _comes_back(self, instruction: Instruction, extent: tuple[int, int], depth: int) -> bool:
        if instruction.mnemonic in ("ret", "iretq", "retf", "sysretq"):
            return True
        if instruction.mnemonic != "jmp" and not instruction.is_jump:
            return False
        target = instruction.target
        if target is None:
            return True
        return not extent[0] <= target < extent[1] and self.returns(target, depth + 1)

    def signed32(self, link: int) -> int | None:
        """A signed 32-bit number of the ELF, None where it has no bytes."""
        data = self.elf.at(link, 4)
        return None if data is None else int.from_bytes(data, "little", signed=True)


def _bare(mnemonic: str) -> str:
    """Without prefixes that change nothing here (`notrack jmp`, `lock xadd`, `bnd call`)."""
    head, _, tail = mnemonic.rpartition(" ")
    return tail if head in ("notrack", "lock", "bnd", "data16") else mnemonic
