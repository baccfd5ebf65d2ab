"""Where a CPU enters and leaves the kernel, found in the ELF's code without running it.

What ends in ``iretq`` or ``sysretq`` is a handler of a gate, a system call's entry, or the first
way to ring 3; what loads RSP with another stack's address is a switch. Hand-written entries jump to
code that they share, so each is traced back to where nobody jumps to.
Encodings: Intel SDM volume 2 (IRETQ: REX.W CF; SYSRET: REX.W 0F 07; MOV: 8B /r, 89 /r; JMP: E9,
EB).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from breenix_gdbagent.entrycode.operands import Code, whole
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.elf import SHF_EXECINSTR
from breenix_gdbagent.symbols.symtab import Symbol

_LEAVES = re.compile(rb"\x48\xcf|\x48\x0f\x07")
_LOADS_RSP = re.compile(
    rb"[\x48\x49]\x8b[\x20-\x27\x60-\x67\xa0-\xa7\xe0-\xe7]"
    rb"|[\x48\x4c]\x89[\xc4\xcc\xd4\xdc\xe4\xec\xf4\xfc]"
)
_NEAR = re.compile(rb"\xe9")
_SHORT = re.compile(rb"\xeb")
_LEAVING = ("iretq", "sysretq", "sysret")
_ENDS = ("jmp", "ret", "iretq", "sysretq", "sysret", "ud2", "hlt")
_PADDING = ("nop", "int3")


class Entries(NamedTuple):
    """Link addresses of what was found: `gates` are ways that end in ``iretq`` or ``sysretq``,
    `switches` functions that go over to another stack."""

    gates: tuple[int, ...]
    switches: tuple[int, ...]


def find_entries(code: Code) -> Entries:
    """The entries of an ELF with symbols; both () where there is none."""
    text = _Text(code)
    left = {text.start_of(at) for at in text.leaving()}
    gates = text.roots({start for start in left if start is not None})
    switches = {text.start_of(at) for at in text.stack_loads()}
    return Entries(
        tuple(sorted(gates)),
        tuple(sorted(s for s in switches if s is not None and s not in gates and s not in left)),
    )


def leaving(image: Image) -> dict[int, str]:
    """Link address -> name of every ``iretq`` and ``sysretq`` of an ELF."""
    code = Code(image)
    return {at: step.name for at in _Text(code).leaving() if (step := code.step(at)) is not None}


def place_of(code: Code, address: int) -> tuple[str, int]:
    """Symbol and offset of a link address. A local label of an assembler (``entry.skip``) is its
    symbol's."""
    found = code.image.symbols.covering(address)
    if found is None:
        return "", address
    if found.kind == "label" and "." in found.raw:
        head = found.raw.partition(".")[0]
        for start in code.image.addresses_of(head):
            if start <= address:
                return head, address - start
    return found.name, address - found.address


class _Text:
    """The executable sections."""

    def __init__(self, code: Code) -> None:
        self.code = code
        image = code.image
        self.sections = [
            (s.address, image.section_data(s.name))
            for s in image.sections
            if s.flags & SHF_EXECINSTR
        ]
        symbols = [s for s in image.symbols.symbols if s.executable]
        names = {s.raw for s in symbols}
        self.starts = sorted({s.address for s in symbols if not _is_local(s, names)})

    def start_of(self, address: int) -> int | None:
        """Where the code that holds an address begins."""
        index = bisect_right(self.starts, address) - 1
        return self.starts[index] if index >= 0 else None

    def _matches(self, pattern: re.Pattern[bytes]) -> Iterator[int]:
        for base, data in self.sections:
            for match in pattern.finditer(data):
                yield base + match.start()

    def leaving(self) -> Iterator[int]:
        """Every ``iretq`` and ``sysretq``."""
        for at in self._matches(_LEAVES):
            step = self.code.step(at)
            if step is not None and step.name in _LEAVING and self._is_instruction(at):
                yield at

    def stack_loads(self) -> Iterator[int]:
        """Every ``mov rsp, x`` that is no return to a frame."""
        for at in self._matches(_LOADS_RSP):
            step = self.code.step(at)
            if step is None or step.name != "mov" or step.operands[0].name != "rsp":
                continue
            source = step.operands[1]
            frame = source.kind == "register" and whole(source.name) in ("rbp", "rbx")
            if not frame and self._is_instruction(at):
                yield at

    def _is_instruction(self, address: int) -> bool:
        """Whether instructions begin there, and not inside one."""
        start = self.start_of(address)
        if start is None:
            return False
        end = self._end_of(start)
        return any(i.address == address for i in self.code.reader.function(start, end))

    def _end_of(self, start: int) -> int:
        """Where the next begins."""
        index = bisect_right(self.starts, start)
        section = self.code.image.symbols.section_end(start)
        return min(self.starts[index], section) if index < len(self.starts) else section

    def roots(self, wanted: set[int]) -> set[int]:
        """Where the ways to these begin."""
        found: set[int] = set()
        seen, waiting = set(wanted), list(wanted)
        while waiting:
            start = waiting.pop()
            sources = self._jumps_to(start) | self._falls_from(start)
            if not sources:
                found.add(start)
            waiting += sources - seen
            seen |= sources
        return found

    def _jumps_to(self, start: int) -> set[int]:
        """Starts of the code that jumps into what begins here."""
        sources = set()
        for at in self._jumps.get(start, ()):
            source = self.start_of(at)
            if source is not None and source != start and self._is_instruction(at):
                sources.add(source)
        return sources

    @cached_property
    def _jumps(self) -> dict[int, list[int]]:
        """Start of the code that is jumped to -> what may be jumps there, by their bytes."""
        found: dict[int, list[int]] = {}
        for base, data in self.sections:
            for pattern, size in ((_NEAR, 4), (_SHORT, 1)):
                for match in pattern.finditer(data):
                    at = match.start() + 1
                    offset = int.from_bytes(data[at : at + size], "little", signed=True)
                    target = base + at + size + offset
                    if base <= target < base + len(data):
                        to = self.start_of(target)
                        if to is not None:
                            found.setdefault(to, []).append(base + match.start())
        return found

    def _falls_from(self, start: int) -> set[int]:
        """The code before a label, where that runs into it."""
        here = self.code.image.symbols.covering(start)
        index = bisect_right(self.starts, start) - 2
        if index < 0 or here is None or here.kind != "label":
            return set()
        before = self.starts[index]
        code = self.code.reader.function(before, start)
        names = [i.mnemonic for i in code if i.mnemonic not in _PADDING]
        whole_code = bool(code) and code[-1].address + code[-1].size == start
        return {before} if whole_code and names and names[-1] not in _ENDS else set()


def _is_local(symbol: Symbol, names: set[str]) -> bool:
    """Whether it is an assembler's local label of another symbol."""
    head, dot, _ = symbol.raw.partition(".")
    return bool(dot) and symbol.kind == "label" and head in names
