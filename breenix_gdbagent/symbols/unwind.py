"""From registers to the frames that led there: calls, interrupts and exceptions, up to ring 3.

A frame is shown only when something vouches for it: call-frame information, the function's own
instructions, or a hardware frame that validates; the return address has to lie behind a call. Where
nothing does, the trace ends and says why. CFI is wrong at gates' handlers with an error code
(rustc's x86-interrupt functions), between an inlined `pushfq` and its `pop`, and absent for
assembly: there the instructions decide (`simulate.py`).
Sources: System V ABI AMD64 3.2; Intel SDM 6.14; Breenix kernel/src/interrupts.rs and the entries
kernel/src/interrupts/timer_entry.asm, kernel/src/syscall/entry.asm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from breenix_gdbagent.addresses import VirtAddr, hex64
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.symbols.backtrace import Backtrace, Frame
from breenix_gdbagent.symbols.bias import HANDLERS
from breenix_gdbagent.symbols.hwframe import frame_at
from breenix_gdbagent.symbols.image import LoadedImage
from breenix_gdbagent.x86.callsites import is_call
from breenix_gdbagent.x86.exceptions import ExceptionFrame
from breenix_gdbagent.x86.vectors import WITH_ERROR_CODE

CALLEE_SAVED = ("rbx", "rbp", "r12", "r13", "r14", "r15")
_MASK = (1 << 64) - 1
# How far above the stack pointer an assembly entry may have pushed before it calls Rust.
_SCAN = 1024
# More than a kernel stack of 64 KiB holds: of a recursion that ate it, its first caller counts.
MOST_FRAMES = 4096
ReadVirtual = Callable[[int, int], bytes]


class _End(Exception):
    """The trace ends here; the text says why, `unreadable` where that is so, `whole` that nothing
    is missing."""

    def __init__(self, why: str, unreadable: int | None = None, *, whole: bool = False) -> None:
        super().__init__(why)
        self.unreadable = unreadable
        self.whole = whole


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where the stack pointer was at a function's entry, and the caller's known registers."""

    address: int
    registers: dict[str, int]
    how: str


class Unwinder:
    """Unwinds in one stop. `read_virtual(va, length)` reads kernel addresses.

    `gates` maps vectors to their handlers' virtual addresses; without it the handlers are known by
    Breenix's names.
    """

    def __init__(
        self,
        image: LoadedImage,
        read_virtual: ReadVirtual,
        gates: Mapping[int, int] | None = None,
    ) -> None:
        self.image = image
        self.read = read_virtual
        self.handlers = _handlers(image, gates)

    def backtrace(self, registers: Mapping[str, int], limit: int = MOST_FRAMES) -> Backtrace:
        """The frames from a CPU's (or a saved context's) registers: rip, rsp, cs and what else
        is known, by gdb's names. At most `limit` frames."""
        ring = registers.get("cs", 0) & 3
        known = {r: v for r, v in registers.items() if r in _GENERAL}
        frames = [self.frame(registers["rip"], registers["rsp"], "registers", known, ring)]
        seen = {(frames[0].pc, frames[0].sp)}
        try:
            while len(frames) < limit:
                frame = self.caller(frames[-1])
                if (frame.pc, frame.sp) in seen:
                    raise _End(f"the frames repeat from {hex64(frame.pc)} on")
                seen.add((frame.pc, frame.sp))
                frames.append(frame)
        except _End as end:
            return Backtrace(tuple(frames), str(end), end.unreadable, end.whole)
        return Backtrace(tuple(frames), f"more than {limit} frames, the rest is not shown")

    def frame(
        self,
        pc: int,
        sp: int,
        how: str,
        registers: Mapping[str, int],
        ring: int,
        vector: int | None = None,
    ) -> Frame:
        """A frame that execution stands in, or that was interrupted at `pc` exactly."""
        symbol = None if ring else self.image.symbol_at(pc)
        return Frame(VirtAddr(pc), VirtAddr(sp), how, symbol, True, registers, ring, vector)

    def caller(self, frame: Frame) -> Frame:
        """The frame that called, or was interrupted by, this one's function; raises `_End`."""
        if frame.ring:
            raise _End("ring 3: user code has no symbols here", whole=True)
        link = self.image.link(frame.lookup)
        start = self.function_start(link, frame)
        try:
            if start in self.handlers:
                return self.interrupted(frame, link, start)
            if self.is_entry_point(start):
                raise _End("the kernel's entry point: nothing called it", whole=True)
            return self.called(frame, link)
        except ReadError as error:
            raise _End(f"the stack cannot be read: {error.what}") from None

    def function_start(self, link: int, frame: Frame) -> int:
        if not self.image.holds(frame.lookup):
            raise _End(f"{hex64(frame.pc)} lies outside of the kernel's image")
        hit = self.image.image.symbol_at(link)
        if hit is not None:
            return hit.address
        if self.image.image.frames.covers(link):
            return -1
        if not self.image.image.has_symbols:
            raise _End("the ELF is stripped: no symbols to unwind by")
        raise _End(f"no symbol and no call-frame information at {hex64(frame.pc)}")

    def is_entry_point(self, start: int) -> bool:
        hit = self.image.image.symbol_at(self.image.image.entry)
        return hit is not None and hit.address == start

    # -- calls ------------------------------------------------------------------------------

    def called(self, frame: Frame, link: int) -> Frame:
        """The caller by the return address on the stack."""
        entry = self.by_cfi(frame, link) or self.by_simulation(frame, link)
        if entry.address + 8 <= frame.sp:
            raise _End(f"the stack pointer {hex64(entry.address + 8)} did not move up")
        try:
            back = self.word(entry.address)
        except ReadError as error:
            raise _End(f"the stack cannot be read: {error.what}", entry.address) from None
        if back == 0:
            raise _End("the return address is 0: the bottom of the stack", whole=True)
        if not self.is_return_address(back):
            where = hex64(entry.address)
            raise _End(f"{hex64(back)} at {where} is no return address: no call is before it")
        return Frame(
            VirtAddr(back),
            VirtAddr((entry.address + 8) & _MASK),
            entry.how,
            self.image.symbol_at(back - 1),
            False,
            entry.registers,
        )

    def by_cfi(self, frame: Frame, link: int) -> _Entry | None:
        """By call-frame information; None where there is none, or it is known to be wrong."""
        rules = self.image.image.frames.rules(link)
        if rules is None or (frame.exact and self.pushes_before(link)):
            return None
        base = self.value(frame, rules.cfa_register)
        if base is None:
            raise _End(f"{rules.cfa_register}, which the frame is measured from, is not known")
        cfa = base + rules.cfa_offset
        registers = {
            r: frame.registers[r]
            for r in CALLEE_SAVED
            if r in frame.registers and r not in rules.unknown and r not in rules.saved
        }
        registers |= {
            r: (cfa + offset) & _MASK for r, offset in rules.values.items() if r in CALLEE_SAVED
        }
        for register, offset in rules.saved.items():
            if register != "rip":
                registers[register] = self.word((cfa + offset) & _MASK)
        return _Entry((cfa + rules.saved.get("rip", -8)) & _MASK, registers, "cfi")

    def pushes_before(self, link: int) -> bool:
        """Whether the instruction before seems to push: compilers do not describe inlined ones."""
        before = self.image.image.read(link - 2, 2)
        return before is not None and (
            before[1] == _PUSHFQ or _PUSH <= before[1] < _PUSH + 8 or before[0] == _PUSH_BYTE
        )

    def by_simulation(self, frame: Frame, link: int) -> _Entry:
        """By the function's own instructions; raises `_End` with what they do not tell."""
        from breenix_gdbagent.symbols.simulate import NotFound

        found = self.image.image.simulator.around(link, behind_call=not frame.exact)
        hit = self.image.image.symbol_at(link)
        name = hit.name if hit else hex64(frame.pc)
        if isinstance(found, NotFound):
            raise _End(f"{name} has no usable call-frame information, and {found.reason}")
        base = self.value(frame, found.register)
        if base is None:
            raise _End(f"{found.register}, which {name}'s frame is measured from, is not known")
        entry = (base + found.offset) & _MASK
        registers = {r: frame.registers[r] for r in found.kept if r in frame.registers}
        for register, slot in found.saved.items():
            registers[register] = self.word((entry + slot) & _MASK)
        return _Entry(entry, registers, "simulated")

    def value(self, frame: Frame, register: str) -> int | None:
        return frame.sp if register == "rsp" else frame.registers.get(register)

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def is_return_address(self, va: int) -> bool:
        """Whether a call ends at `va`, by the bytes before it in the ELF (in memory, where a file
        of debug information alone has none)."""
        link = self.image.link(va)
        symbol = self.image.image.symbols.covering(link - 1)
        if symbol is not None and not symbol.executable:
            return False
        for size in range(2, 8):
            code = self.image.image.read(link - size, size)
            if code is None and symbol is not None:
                code = self.read((va - size) & _MASK, size)
            if code is not None and is_call(code):
                return True
        return False

    # -- interrupts and exceptions ----------------------------------------------------------

    def interrupted(self, frame: Frame, link: int, start: int) -> Frame:
        """What the CPU pushed when it entered this gate's handler."""
        vectors = self.handlers[start]
        coded = {v in WITH_ERROR_CODE for v in vectors}
        entry, scanned = self.gate_entry(frame, link, start)
        hardware = None
        # An interrupt at an exception's vector pushes no error code: then RIP is on top.
        for offset in (8, 0) if True in coded else (0,):
            if entry is not None and hardware is None:
                hardware = frame_at(self.read, (entry.address + offset) & _MASK)
        if hardware is None and scanned:
            hardware = self.scan(frame.sp)
        if hardware is None:
            raise _End(f"no valid hardware frame below {self.name(start)}")
        vector = next(iter(vectors)) if len(vectors) == 1 else None
        registers = entry.registers if entry is not None else {}
        return self.frame(
            hardware.rip, hardware.rsp, "interrupt-frame", registers, hardware.cpl, vector
        )

    def gate_entry(self, frame: Frame, link: int, start: int) -> tuple[_Entry | None, bool]:
        """(the stack at the handler's entry, whether to look further up for the frame).

        Not by CFI: at handlers with an error code it is 8 bytes off.
        """
        if link == start and frame.exact:
            return _Entry(frame.sp, dict(frame.registers), "registers"), False
        try:
            return self.by_simulation(frame, link), False
        except _End:
            return None, True

    def scan(self, sp: int) -> ExceptionFrame | None:
        """The first valid hardware frame above `sp` whose RIP is kernel code or of ring 3."""
        for address in range((sp + 7) & ~15 | 8, sp + _SCAN, 16):
            found = frame_at(self.read, address)
            if found is not None and (found.cpl or self.is_code(found.rip)):
                return found
        return None

    def is_code(self, va: int) -> bool:
        symbol = self.image.image.symbols.covering(self.image.link(va))
        return symbol is not None and symbol.executable

    def name(self, start: int) -> str:
        hit = self.image.image.symbol_at(start)
        return hit.name if hit else hex64(start)


_GENERAL = frozenset(
    {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{n}" for n in range(8, 16))}
)
_PUSHFQ, _PUSH, _PUSH_BYTE = 0x9C, 0x50, 0x6A


def _handlers(image: LoadedImage, gates: Mapping[int, int] | None) -> dict[int, frozenset[int]]:
    """Link address of each gate's handler -> its vectors."""
    found: dict[int, set[int]] = {}
    if gates is None:
        for vector, name in HANDLERS.items():
            for link in image.image.addresses_of(name):
                found.setdefault(link, set()).add(vector)
    else:
        for vector, va in gates.items():
            if va and image.holds(va):
                found.setdefault(image.link(va), set()).add(vector)
    return {link: frozenset(vectors) for link, vectors in found.items()}
