"""Unwinding where a call leaves its return address in a register: from a CPU's registers to the
frames that led there, over exceptions, up to a program.

A frame is shown only when something vouches for it: call-frame information, a frame record that the
frame pointer names, or what an exception's entry is seen to keep on the stack; the return address
has to lie behind a call. Source: DWARF 5, 6.4; Arm IHI 0055 (AAPCS64), 6.4.6 (frame records).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from breenix_gdbagent.aarch64.entries import Kept, entry_at, is_call, without_code
from breenix_gdbagent.aarch64.registers import exception_level
from breenix_gdbagent.addresses import VirtAddr, hex64
from breenix_gdbagent.arch.cpu import Names
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.symbols.backtrace import Backtrace, Frame
from breenix_gdbagent.symbols.image import LoadedImage

ReadVirtual = Callable[[int, int], bytes]
MOST_FRAMES = 4096
VECTORS = 0x800
"""Bytes of a table of vectors."""
_MASK = (1 << 64) - 1


class _End(Exception):
    """The trace ends here; the text says why, `unreadable` where that is so, `whole` that nothing
    is missing."""

    def __init__(self, why: str, unreadable: int | None = None, *, whole: bool = False) -> None:
        super().__init__(why)
        self.unreadable = unreadable
        self.whole = whole


class LinkedUnwinder:
    """Unwinds in one stop. `read(va, length)` reads kernel addresses; `vectors` is VBAR_EL1, None
    where it is not known, and `called` what comes by each of them."""

    def __init__(
        self,
        image: LoadedImage,
        read: ReadVirtual,
        names: Names,
        vectors: int | None = None,
        called: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.image = image
        self.read = read
        self.names = names
        self.vectors = vectors
        self.called = called

    def backtrace(self, registers: Mapping[str, int], limit: int = MOST_FRAMES) -> Backtrace:
        """The frames from a CPU's registers by gdb's names. At most `limit` frames."""
        first = self._stands(registers, "registers")
        frames = [first]
        seen = {(first.pc, first.sp)}
        try:
            while len(frames) < limit:
                top = registers if len(frames) == 1 else None
                frame = self._caller(frames[-1], top)
                if (frame.pc, frame.sp) in seen:
                    raise _End(f"the frames repeat from {hex64(frame.pc)} on")
                seen.add((frame.pc, frame.sp))
                frames.append(frame)
        except _End as end:
            return Backtrace(tuple(frames), str(end), end.unreadable, end.whole)
        return Backtrace(tuple(frames), f"more than {limit} frames, the rest is not shown")

    def _stands(
        self, registers: Mapping[str, int], how: str, vector: int | None = None, by: str = ""
    ) -> Frame:
        """A frame that execution stands in, or that was interrupted at its PC exactly."""
        pc, sp = registers[self.names.pc], registers.get(self.names.sp, 0)
        ring = 3 if exception_level(registers.get(self.names.flags, 5)) == 0 else 0
        symbol = None if ring else self.image.symbol_at(pc)
        known = {n: v for n, v in registers.items() if n in self.names.general}
        return Frame(
            VirtAddr(pc), VirtAddr(sp), how, symbol, True, known, ring, vector, self.names, by
        )

    def _caller(self, frame: Frame, top: Mapping[str, int] | None) -> Frame:
        if frame.ring:
            raise _End("EL0: a program's code has no symbols here", whole=True)
        if top is not None and self._in_vectors(frame.pc) and "elr_el1" in top:
            return self._from_the_registers(frame, top)
        if not self.image.holds(frame.lookup):
            raise _End(f"{hex64(frame.pc)} lies outside of the kernel's image")
        link = self.image.link(frame.lookup)
        if self._is_entry_point(link):
            raise _End("the kernel's entry point: nothing called it", whole=True)
        try:
            kept = self._kept(frame, link)
            if kept is not None:
                return self._interrupted(frame, kept)
            return self._by_call(frame, link)
        except ReadError as error:
            raise _End(f"the stack cannot be read: {error.what}") from None

    def _in_vectors(self, pc: int) -> bool:
        return self.vectors is not None and self.vectors <= pc < self.vectors + VECTORS

    def _is_entry_point(self, link: int) -> bool:
        image = self.image.image
        hit, entry = image.symbol_at(link), image.symbol_at(image.entry)
        return hit is not None and entry is not None and hit.address == entry.address

    # -- exceptions -------------------------------------------------------------------------

    def _from_the_registers(self, frame: Frame, top: Mapping[str, int]) -> Frame:
        """What the exception interrupted whose vector is about to run: nothing is stored yet."""
        state = top.get("spsr_el1", 5)
        own = exception_level(state) and state & 1
        sp = frame.sp if own else top.get("sp_el0", 0)
        values = {**frame.registers, self.names.pc: top["elr_el1"], self.names.sp: int(sp)}
        vector = (frame.pc - (self.vectors or 0)) // 0x80
        by = self.called.get(vector, f"vector {vector}")
        return self._stands({**values, self.names.flags: state}, "interrupt-frame", vector, by)

    def _kept(self, frame: Frame, link: int) -> Kept | None:
        """What the entry in assembly keeps that called this frame's code out; None: it is none."""
        image = self.image.image
        hit = image.symbol_at(link)
        if hit is None or image.frames.covers(link) or frame.exact:
            return None
        return entry_at(hit.address, image.read)

    def _interrupted(self, frame: Frame, kept: Kept) -> Frame:
        words = {name: self._word(frame.sp + at) for name, at in kept.slots.items()}
        if kept.size is not None:
            words.setdefault(self.names.sp, frame.sp + kept.size & _MASK)
        if not exception_level(words[self.names.flags]):
            words[self.names.sp] = words.get("sp_el0", 0)
        return self._stands(words, "interrupt-frame", by="an exception")

    # -- calls ------------------------------------------------------------------------------

    def _by_call(self, frame: Frame, link: int) -> Frame:
        found = self._by_cfi(frame, link) or self._by_link(frame, link) or self._by_record(frame)
        back, sp, registers, how = found
        if back == 0:
            raise _End("the return address is 0: the bottom of the stack", whole=True)
        if sp < frame.sp or (sp == frame.sp and not frame.exact):
            raise _End(f"the stack pointer {hex64(sp)} did not move up")
        if not self._is_return_address(back):
            raise _End(f"{hex64(back)} is no return address: no call is before it")
        symbol = self.image.symbol_at(back - 4)
        return Frame(VirtAddr(back), VirtAddr(sp), how, symbol, False, registers, names=self.names)

    def _by_cfi(self, frame: Frame, link: int) -> tuple[int, int, dict[str, int], str] | None:
        rules = self.image.image.frames.rules(link)
        if rules is None:
            return None
        base = self._value(frame, rules.cfa_register)
        if base is None:
            raise _End(f"{rules.cfa_register}, which the frame is measured from, is not known")
        cfa = base + rules.cfa_offset & _MASK
        registers = {
            name: frame.registers[name]
            for name in self.names.kept
            if name in frame.registers and name not in rules.unknown and name not in rules.saved
        }
        for name, offset in rules.saved.items():
            if name != self.names.pc:
                registers[name] = self._word(cfa + offset)
        at = rules.saved.get(self.names.pc)
        back = self._word(cfa + at) if at is not None else frame.registers.get(self.names.link)
        if at is None and not frame.exact:
            back = None  # it called, so the register holds another's
        if back is None:
            raise _End(f"{self.names.link}, which holds the return address, is not known")
        return self._stripped(back), cfa, registers, "cfi"

    def _by_link(self, frame: Frame, link: int) -> tuple[int, int, dict[str, int], str] | None:
        """By the link register, of code without other information that has called nothing yet: what
        it holds is then another function's."""
        back = frame.registers.get(self.names.link) if frame.exact else None
        if back is None or not self._is_return_address(self._stripped(back)):
            return None
        back, here = self._stripped(back), self.image.image.symbol_at(link)
        there = self.image.symbol_at(back - 4)
        if here is None or there is None or here.address == there.address:
            return None
        kept = {n: frame.registers[n] for n in self.names.kept if n in frame.registers}
        return back, int(frame.sp), kept, "link-register"

    def _by_record(self, frame: Frame) -> tuple[int, int, dict[str, int], str]:
        """By the frame record that the frame pointer names, of code without other information."""
        at = frame.registers.get(self.names.frame)
        if not at or at & 7 or at < frame.sp:
            raise _End(f"no call-frame information at {hex64(frame.pc)}, and no frame record")
        try:
            above, back = self._word(at), self._word(at + 8)
        except ReadError as error:
            raise _End(f"the frame record cannot be read: {error.what}", at) from None
        return self._stripped(back), at + 16, {self.names.frame: above}, "frame-record"

    def _stripped(self, back: int) -> int:
        """A return address without its authentication code (FEAT_PAuth), which stands in the bits
        above the kernel's addresses."""
        return back if self.image.holds(back) else without_code(back)

    def _is_return_address(self, va: int) -> bool:
        if not self.image.holds(va - 4) or va & 3:
            return False
        code = self.image.image.read(self.image.link(va) - 4, 4)
        code = code if code is not None else self.read(va - 4, 4)
        return is_call(int.from_bytes(code, "little"))

    def _value(self, frame: Frame, register: str) -> int | None:
        return frame.sp if register == self.names.sp else frame.registers.get(register)

    def _word(self, address: int) -> int:
        return int.from_bytes(self.read(address & _MASK, 8), "little")
