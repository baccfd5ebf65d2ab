"""What is wrong in the code by which a CPU enters and leaves the kernel: judged by what the code
does to registers and stack, on every path, without running it.

An interrupted program must find every general register as it was; a system call may change RAX, and
by ``syscall`` RCX and R11 besides (SDM volume 2, SYSCALL). A function is called with RSP a multiple
of 16 and the direction flag clear (System V ABI for AMD64, 3.2.2 and 3.2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.entrycode.entries import find_entries, place_of
from breenix_gdbagent.entrycode.follow import Call, End, Followed, follow
from breenix_gdbagent.entrycode.operands import Code
from breenix_gdbagent.entrycode.state import State
from breenix_gdbagent.entrycode.values import KEPT, REGISTERS, Value
from breenix_gdbagent.symbols import Image

Kind = Literal[
    "written",
    "called",
    "swapped",
    "not-saved",
    "not-restored",
    "unbalanced",
    "misaligned",
    "swapgs",
    "cld",
]
Role = Literal["gate", "system call", "way to ring 3", "switch", "does not come back"]
_FRAME = 40
_BY_SYSCALL = ("rax", "rcx", "r11")


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong at one instruction of an `entry`'s way.

    `address` is a link address, `code` the instruction there, `callee` what it calls, `rings` the
    privileges that are returned to with it. `registers` are lost by it. `amount`: bytes that RSP is
    off. `spares`: what it calls changes none in this ELF, though it may in the next. `more`: calls
    of the same compiled function with the same fault, whose first one this is.
    """

    kind: Kind
    address: int
    symbol: str
    offset: int
    file: str | None
    line: int | None
    code: str
    entries: tuple[str, ...]
    registers: tuple[str, ...] = ()
    callee: str = ""
    rings: tuple[int, ...] = ()
    amount: int = 0
    more: int = 0
    spares: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """One entry that was read: what it is, and why not to its end where that is so."""

    symbol: str
    role: Role
    instructions: int
    unread: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Lint:
    """All entries of an ELF, and what is wrong with them, in order of addresses."""

    read: tuple[Read, ...]
    defects: tuple[Defect, ...]


def lint(image: Image) -> Lint:
    """Read an ELF's entries. One without a symbol table has none that could be named."""
    return _Lint(image).result()


def lint_leaving(image: Image, leave: int) -> tuple[Defect, ...]:
    """What is lost on the ways of all gates to one instruction that leaves, at a link address."""
    return _Lint(image, leave).result().defects


class _Lint:
    def __init__(self, image: Image, leave: int | None = None) -> None:
        self.image = image
        self.leave = leave
        self.code = Code(image)
        self.with_error_code = self.code.behind_error_code()
        self.read: list[Read] = []
        self.found: dict[tuple[Kind, int], Defect] = {}

    def result(self) -> Lint:
        """Every gate, system call and switch."""
        entries = find_entries(self.code)
        for entry in entries.gates:
            self._gate(entry)
        for entry in entries.switches:
            self._switch(entry)
        defects = sorted(self.found.values(), key=lambda d: (d.address, d.kind))
        return Lint(tuple(self.read), tuple(defects))

    # Entries ---------------------------------------------------------------------------------

    def _gate(self, entry: int) -> None:
        """An entry that leaves by iretq or sysretq: with an interrupt frame, that frame behind an
        error code, or without one. It is what makes it come back to that frame."""
        plain = follow(self.code, entry, 0)
        if _returns_at(plain, 0):
            self._judge_gate(plain, 0)
            return
        behind = follow(self.with_error_code, entry, 8)
        if _returns_at(behind, 8):
            self._judge_gate(behind, 8)
        elif any(_takes_saved(end) for end in plain.ends.values()):
            self._judge_gate(plain, 0)
        else:
            self._judge_without_frame(follow(self.code, entry, None))

    def _judge_gate(self, way: Followed, frame: int) -> None:
        self._note(way, "gate")
        for end in way.ends.values():
            if end.kind != "iretq":
                continue
            if end.state.rsp[:3] == ("stack", "", frame):
                self._registers(way, end, _lost(end.state))
                self._pairs(way, end)
            elif _takes_saved(end):
                self._unbalanced(way, end, frame)
        self._calls(way, skew=8 if frame == 0 else 0)
        self._direction(way)

    def _judge_without_frame(self, way: Followed) -> None:
        """A system call by ``syscall``, or code that makes its own frame."""
        ends = [end for end in way.ends.values() if _is_syscall(end)]
        role: Role = "system call" if ends else "way to ring 3"
        self._note(way, role if way.ends else "does not come back")
        for end in ends:
            lost = {n: v for n, v in _lost(end.state).items() if n not in _BY_SYSCALL}
            self._registers(way, end, lost)
            self._pairs(way, end)
        self._calls(way, skew=8)

    def _switch(self, entry: int) -> None:
        """A function that goes over to another stack and comes back there: what a function may not
        change has to be what was saved."""
        way = follow(self.code, entry, None)
        ends = [e for e in way.ends.values() if e.kind in ("ret", "jump")]
        if not way.goes_over or not ends:
            return
        mirrored = [e for e in ends if e.state.rsp.name == ""]
        if not mirrored:
            return
        self._note(way, "switch")
        for end in mirrored:
            lost = {n: v for n, v in _lost(end.state).items() if n in KEPT}
            self._registers(way, end, lost)
            off = end.state.rsp.number - (0 if end.kind == "ret" else 8)
            if off:
                self._add("unbalanced", way, end.at, amount=off)
        self._calls(way, skew=8)

    def _note(self, way: Followed, role: Role) -> None:
        unread = tuple(
            (_at(place_of(self.code, at)), why) for at, why in sorted(way.unread.items())
        )
        name = place_of(self.code, way.entry)[0]
        self.read.append(Read(name, role, len(way.seen), unread))

    # Rules -----------------------------------------------------------------------------------

    def _registers(self, way: Followed, end: End, lost: dict[str, Value]) -> None:
        if self.leave not in (None, end.at):
            return
        state = end.state
        rings = () if state.ring is None else (state.ring,)
        for name, value in lost.items():
            if value.kind == "was":
                for at in sorted(value.by):
                    self._add("swapped", way, at, name, rings)
                continue
            if name in state.saved and name not in state.restored:
                self._add("not-restored", way, end.at, name, rings)
                continue
            for at in sorted(value.by) or [end.at]:
                step = self.code.step(at)
                called = step is not None and step.name == "call"
                if name not in state.restored and name not in state.saved:
                    self._add("not-saved", way, at, name, rings)
                else:
                    self._add("called" if called else "written", way, at, name, rings)

    def _pairs(self, way: Followed, end: End) -> None:
        """swapgs as often out as in, where the way leads back to where it came from."""
        state = end.state
        if state.swaps and not state.switched:
            self._add("swapgs", way, end.at, rings=() if state.ring is None else (state.ring,))

    def _unbalanced(self, way: Followed, end: End, frame: int) -> None:
        state = end.state
        lost = [n for n in REGISTERS if n in state.saved and n not in state.restored]
        amount = state.rsp.number - frame
        for name in lost or [""]:
            self._add("unbalanced", way, end.at, name, amount=amount)

    def _calls(self, way: Followed, skew: int) -> None:
        compiled: dict[str, list[tuple[int, int]]] = {}
        for call in way.calls.values():
            off = (call.rsp.number + (0 if call.rsp.name else skew)) % 16
            if not off or self._is_helper(call):
                continue
            symbol = self.image.symbols.covering(call.at)
            if symbol is not None and symbol.kind == "function":
                compiled.setdefault(symbol.name, []).append((call.at, off))
            else:
                self._add("misaligned", way, call.at, amount=off)
        for calls in compiled.values():
            at, off = min(calls)
            self._add("misaligned", way, at, amount=off, more=len(calls) - 1)

    def _is_helper(self, call: Call) -> bool:
        """Whether it calls hand-written code, for which the ABI need not hold."""
        if call.target is None:
            return False
        symbol = self.image.symbols.covering(call.target)
        return symbol is not None and symbol.kind == "label"

    def _direction(self, way: Followed) -> None:
        """The first call, or string instruction, with the interrupted program's direction flag."""
        places = [c.at for c in way.calls.values() if not c.forward and not self._is_helper(c)]
        places += [at for at, forward in way.strings.items() if not forward]
        if places:
            self._add("cld", way, min(places))

    def _add(
        self, kind: Kind, way: Followed, at: int, name: str = "", rings: tuple[int, ...] = (),
        amount: int = 0, more: int = 0,
    ) -> None:  # fmt: skip
        entry = place_of(self.code, way.entry)[0]
        old = self.found.get((kind, at))
        if old is None:
            old = self._made(kind, at, entry)
        names = {*old.registers, *([name] if name else [])}
        self.found[kind, at] = Defect(
            kind, at, old.symbol, old.offset, old.file, old.line, old.code,
            tuple(dict.fromkeys((*old.entries, entry))),
            tuple(n for n in REGISTERS if n in names),
            old.callee,
            tuple(sorted({*old.rings, *rings})),
            amount or old.amount,
            max(more, old.more), old.spares,
        )  # fmt: skip

    def _made(self, kind: Kind, at: int, entry: str) -> Defect:
        symbol, offset = place_of(self.code, at)
        step = self.code.step(at)
        callee, spares = "", False
        if step is not None and step.name == "call" and step.target is not None:
            callee = _at(place_of(self.code, step.target))
            spares = self.code.spares(step.target)
        file, line = _line(self.image, at)
        return Defect(
            kind, at, symbol, offset, file, line, "" if step is None else step.text, (entry,),
            callee=callee, spares=spares,
        )  # fmt: skip


def _returns_at(way: Followed, frame: int) -> bool:
    """Whether some path ends with RSP at the frame that the CPU pushed."""
    return any(
        e.kind == "iretq" and e.state.rsp[:3] == ("stack", "", frame) for e in way.ends.values()
    )


def _takes_saved(end: End) -> bool:
    """Whether iretq takes words for its frame that are registers which were saved: one it made
    itself has a selector for CS, and five words."""
    rsp = end.state.rsp
    words = (end.state.words.get((rsp.name, rsp.number + at)) for at in (0, 8))
    made = rsp.number == -_FRAME
    saved = any(word is not None and word.kind == "was" for word in words)
    return end.kind == "iretq" and not made and saved


def _is_syscall(end: End) -> bool:
    """Whether a way that began without a frame ends in the program that made the system call."""
    if end.kind == "sysretq":
        return True
    rsp = end.state.rsp
    word = end.state.words.get((rsp.name, rsp.number))
    return end.kind == "iretq" and bool(rsp.name) and word is not None and word.is_register("rcx")


def _lost(state: State) -> dict[str, Value]:
    """Registers that are not what they were; a system call's answer in RAX is as meant."""
    lost = {
        name: state.registers[name]
        for name in REGISTERS
        if not state.registers[name].is_register(name)
    }
    answer = lost.get("rax")
    kind = "" if answer is None else answer.kind
    if kind == "answer" or (kind == "result" and len(lost) == 1):
        del lost["rax"]
    return lost


def _at(place: tuple[str, int]) -> str:
    symbol, offset = place
    return f"{symbol}+{offset:#x}" if offset else symbol


def _line(image: Image, address: int) -> tuple[str | None, int | None]:
    """File and line by the DWARF; None where it says nothing."""
    if not image.has_dwarf:
        return None, None
    found = image.debug.lines.at(address)
    return (found[0].file, found[0].line) if found else (None, None)
