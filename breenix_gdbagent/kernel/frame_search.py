"""Frames that exceptions and interrupts left on the stacks that a CPU is on, found without any
call-frame information.

A frame shows itself by where it lies: the CPU pushes it down from the interrupted RSP, which stands
in it (aligned to 16), from RSP0 where ring 3 was interrupted, or from the top of an IST stack (SDM
vol. 3, 6.14.2 to 6.14.5). What it says has to be possible: selectors that exist, RFLAGS with their
fixed bits, a RIP that is mapped and executable. Which gate it came through is told by the entry
code of that gate (`gate_entry`), or by the tables: they refuse what CR2 has, with that error code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from struct import Struct

from breenix_gdbagent.addresses import PAGE, VirtAddr, canonical
from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.arch.descriptors import Gate
from breenix_gdbagent.arch.machine import Machine
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.event import PAGE_FAULT, Event
from breenix_gdbagent.kernel.gate_entry import agreement
from breenix_gdbagent.x86.control import PagingMode
from breenix_gdbagent.x86.descriptors import read_segments
from breenix_gdbagent.x86.exceptions import (
    ERROR_CODE_SIZE,
    FRAME,
    ExceptionFrame,
    PageFaultCode,
    parse_frame,
)
from breenix_gdbagent.x86.paging import walk
from breenix_gdbagent.x86.vectors import ORDINARY_VECTORS, WITH_ERROR_CODE
from breenix_gdbagent.x86.verdict import Access, verdict

RFLAGS_IF = 1 << 9
REACH = 64 << 10
"""Bytes of a stack above RSP that are looked through."""
MOST = 16
EXCEPTIONS = 32
MOST_HANDLERS = 64
"""Handlers of interrupts whose entry is followed, where no exception's convinces."""

_WORD = Struct("<Q")
_PF_WITHOUT_MEANING = ~0x80FF


@dataclass(frozen=True, slots=True)
class Found:
    """One frame: the `event` of the vector that it came through, None where no vector convinces;
    `vector` is that of an interrupt, whose frame is no exception's."""

    frame: ExceptionFrame
    at: VirtAddr
    event: Event | None = None
    vector: int | None = None


def frames_above(machine: Machine, cpu: Cpu, known: int = 0) -> Iterator[Found]:
    """Frames of which `cpu` has not returned, innermost first, from stack to interrupted stack. Up
    to the address `known` the stack is that of calls that were unwound: what lies there besides is
    left of something that is over."""
    if cpu.root is None or cpu.stack is None or cpu.at is None:
        return
    search = _Search(machine, cpu)
    rip, rsp = int(cpu.rip), int(cpu.rsp)
    open_to_interrupts = bool((cpu.get("eflags") or 0) & RFLAGS_IF)
    seen = set[int]()
    while len(seen) < MOST:
        found = search.first(rip, rsp, 0 if seen else known, open_to_interrupts)
        if found is None or found.at in seen:
            return
        seen.add(found.at)
        yield found
        if found.frame.cpl:
            return
        rip, rsp = int(found.frame.rip), int(found.frame.rsp)
        # An exception in a handler that let interrupts in came all the same.
        open_to_interrupts = found.event is None and bool(found.frame.rflags & RFLAGS_IF)


class _Search:
    """The tables of one CPU, and its stacks as they are read."""

    def __init__(self, machine: Machine, cpu: Cpu) -> None:
        assert cpu.root is not None
        self.machine = machine
        self.cpu = cpu
        self.root = cpu.root
        self.memory = machine.memory_of(cpu.root)
        self.selectors = self._selectors()
        tss = machine.tss.get(cpu.index)
        self.ist = {} if tss is None else {i: t & -16 for i, t in enumerate(tss.ist, 1) if t}
        self.rsp0 = None if tss is None else tss.rsp0 & -16
        try:
            self.gates: Mapping[int, Gate] = machine.gates
        except ReadError:
            self.gates = {}

    def _selectors(self) -> Mapping[int, bool] | None:
        """Selector without RPL -> whether it is of code, of those in the GDT; None where it cannot
        be read."""
        if self.cpu.gdtr is None:
            return None
        try:
            segments = read_segments(self.memory.read, self.cpu.gdtr)
        except ReadError:
            return None
        return {s.selector: s.code for s in segments if s.present and not s.system}

    def first(self, rip: int, rsp: int, known: int, interrupts: bool) -> Found | None:
        """The innermost frame on the stack of `rsp`, from `known` on, of a program that stands at
        `rip`. With interrupts on none on an IST stack: its handler keeps them off, for the next
        exception would overwrite its frame, so that such a frame is left of one that is over."""
        words = self._words(rsp)
        for at in words:
            frame = self._frame(words, at) if at >= known else None
            if frame is not None and not (interrupts and at + FRAME.size in self.ist.values()):
                found = self._entered(frame, at, rip, rsp, words)
                if found is not None and (found.event is not None or not self._odd(frame)):
                    return found
        return None

    def _words(self, rsp: int) -> dict[int, int]:
        """What lies on the stack from `rsp` on, as far as it is mapped."""
        raw, at = b"", rsp
        while len(raw) < REACH:
            length = PAGE - (at & PAGE - 1)
            try:
                raw += self.memory.read(at, length)
            except ReadError:
                break
            at += length
        whole = len(raw) & ~7
        return {rsp + 8 * i: word for i, (word,) in enumerate(_WORD.iter_unpack(raw[:whole]))}

    def _frame(self, words: Mapping[int, int], at: int) -> ExceptionFrame | None:
        """The frame whose RIP is at `at`, if one can lie there."""
        end = at + FRAME.size
        if end & 15 or end - 8 not in words:
            return None
        if not 8 <= words[at + 8] <= 0xFFFF:  # CS, quickly: most places are none
            return None
        frame = parse_frame(FRAME.pack(*(words[at + 8 * i] for i in range(5))))
        if not frame.clean or not frame.plausible(self.machine.levels):
            return None
        return frame if self._lies_right(frame, end) and self._exists(frame) else None

    def _lies_right(self, frame: ExceptionFrame, end: int) -> bool:
        if end in self.ist.values():
            return True
        if frame.cpl == 3:
            return self.rsp0 is None or end == self.rsp0
        return end == frame.rsp & -16

    def _exists(self, frame: ExceptionFrame) -> bool:
        """Whether its CS is in the GDT, and RIP can be one that ran or was jumped to."""
        if self.selectors is not None and not self.selectors.get(frame.cs & ~7, False):
            return False
        if not canonical(frame.rip, self.machine.levels) or frame.rip == self.cpu.get("cr2"):
            return True
        way = self.machine.walk(self.root, frame.rip)
        return way.effective is not None and not way.effective.nx

    def _odd(self, frame: ExceptionFrame) -> bool:
        """Whether it is a frame for which a gate has to vouch: its RIP is not canonical, as after a
        jump through garbage, or its SS is not in the GDT, which was loaded after it."""
        if not canonical(frame.rip, self.machine.levels):
            return True
        ss = frame.ss & ~7
        return bool(ss) and self.selectors is not None and ss not in self.selectors

    # Which vector ----------------------------------------------------------------------------

    def _entered(
        self, frame: ExceptionFrame, at: int, rip: int, rsp: int, words: Mapping[int, int]
    ) -> Found | None:
        """The frame with the gate that it came through; None for words that look like a frame
        which nothing vouches for: a program of ring 3 that is in a system call left the like."""
        place = VirtAddr(at)
        for exceptions in (True, False):
            told = [
                (vector, coded)
                for vector, coded in self._ways(frame, at, exceptions)
                if agreement(
                    self.memory.read,
                    int(self.gates[vector].offset),
                    at - ERROR_CODE_SIZE * coded,
                    rip,
                    rsp,
                    words,
                ).convinces
            ]
            vectors = {vector for vector, _ in told}
            if len(vectors) == 1:
                return self._found(frame, place, told, words)
            if vectors and self._by_tables(frame, place, words) is None:
                return Found(frame, place)
        vouched = self._by_tables(frame, place, words) or self._by_ist(frame, place, words)
        if vouched is not None:
            return vouched
        return None if frame.cpl else Found(frame, place)

    def _by_ist(
        self, frame: ExceptionFrame, at: VirtAddr, words: Mapping[int, int]
    ) -> Found | None:
        """By the stack of the IST that it lies on, where that is one gate's alone."""
        end = at + FRAME.size
        vectors = [v for v, g in self.gates.items() if g.ist and self.ist.get(g.ist) == end]
        if len(vectors) != 1:
            return None
        vector, code = vectors[0], words.get(at - ERROR_CODE_SIZE)
        if vector >= EXCEPTIONS or vector in ORDINARY_VECTORS:
            return Found(frame, at, vector=vector)
        coded = vector in WITH_ERROR_CODE
        if coded and (code is None or not _can_be(vector, code)):
            return None
        return Found(frame, at, self._event(frame, at, vector, code if coded else None), vector)

    def _ways(self, frame: ExceptionFrame, at: int, exceptions: bool) -> Iterator[tuple[int, bool]]:
        """(vector, whether an error code was pushed) of the gates by which the frame can have come
        to lie there. An interrupt at an exception's vector pushes none."""
        end = at + FRAME.size
        numbers = {i for i, top in self.ist.items() if top == end}
        handlers = set[int]()
        for vector, gate in self.gates.items():
            if (vector < EXCEPTIONS) is not exceptions:
                continue
            on_own = not gate.ist and (frame.cpl == 3 or frame.rsp & -16 == end)
            if gate.ist not in numbers and not on_own:
                continue
            handlers.add(int(gate.offset))
            if len(handlers) > MOST_HANDLERS:
                return
            if exceptions and vector in WITH_ERROR_CODE:
                yield vector, True
            yield vector, False

    def _found(
        self,
        frame: ExceptionFrame,
        at: VirtAddr,
        told: list[tuple[int, bool]],
        words: Mapping[int, int],
    ) -> Found:
        vector = told[0][0]
        if vector >= EXCEPTIONS or vector in ORDINARY_VECTORS:
            return Found(frame, at, vector=vector)
        code = words.get(at - ERROR_CODE_SIZE)
        coded = {coded for _, coded in told}
        if coded == {False} or code is None or not _can_be(vector, code):
            code = None
        return Found(frame, at, self._event(frame, at, vector, code), vector)

    def _event(self, frame: ExceptionFrame, at: VirtAddr, vector: int, code: int | None) -> Event:
        return Event(
            vector, code, frame.rip, frame.cs, frame.rflags, frame.rsp, frame.ss, at, inside=True
        )

    def _by_tables(
        self, frame: ExceptionFrame, at: VirtAddr, words: Mapping[int, int]
    ) -> Found | None:
        """A page fault by what the tables say of CR2: they refuse that access, with the error code
        that lies below the frame."""
        code, cr2 = words.get(at - ERROR_CODE_SIZE), self.cpu.get("cr2")
        mode = PagingMode.of(self.cpu)
        if PAGE_FAULT not in self.gates or mode is None or not code or not cr2:
            return None
        if not _can_be(PAGE_FAULT, code) or not canonical(cr2, mode.levels):
            return None
        if not any(v == PAGE_FAULT for v, coded in self._ways(frame, at, True) if coded):
            return None
        pushed = PageFaultCode(code)
        cpl = 3 if pushed.user else 0
        if frame.cpl != cpl:
            return None  # an access of the CPU's own: the entry has to tell
        way = walk(self.machine.tables, self.root, cr2, mode.levels)
        told = verdict(way, Access(pushed.access, cpl, False, False), mode)
        if told.allowed is not False or code not in (told.error_code, *told.also):
            return None
        return Found(frame, at, self._event(frame, at, PAGE_FAULT, code), PAGE_FAULT)


def _can_be(vector: int, code: int) -> bool:
    """Whether `code` is an error code of that vector: of a page fault bits that have a meaning, of
    a double fault 0, else a selector's (SDM vol. 3, 6.13 and 6.15)."""
    if vector not in WITH_ERROR_CODE:
        return False
    if vector == PAGE_FAULT:
        return not code & _PF_WITHOUT_MEANING
    return code == 0 if vector in (8, 17) else code <= 0xFFFF


def with_cr2(events: list[Event], cr2: int | None) -> tuple[Event, ...]:
    """`events`, innermost first, CR2 given to the innermost #PF: for any other it may be stale."""
    for index, event in enumerate(events):
        if event.vector == PAGE_FAULT and cr2 is not None:
            events[index] = replace(event, cr2=VirtAddr(cr2))
            break
    return tuple(events)
