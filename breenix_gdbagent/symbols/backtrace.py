"""What unwinding gives: frames, each with how it was found, and why they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from breenix_gdbagent.addresses import VirtAddr
from breenix_gdbagent.arch.cpu import Names
from breenix_gdbagent.symbols.symtab import SymbolHit


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: `pc` and `sp` are its RIP and RSP.

    how: ``registers`` (the top one), ``cfi`` (call-frame information of the function below),
    ``frame-record`` (the frame pointer's), ``simulated`` (that function's instructions followed),
    ``interrupt-frame`` (what the CPU or its handler's entry stored, validated). `vector` is the
    gate that interrupted this frame, when the frame was found so. `exact`: the PC is that of the
    instruction to run next, and not one behind a call. `registers` are those whose value in this
    frame is known, by `names` (None: x86-64's); `by` names what interrupted it, where that is no
    vector of x86-64's. `symbol` is None where no symbol covers the code, ring 3 included.
    """

    pc: VirtAddr
    sp: VirtAddr
    how: str
    symbol: SymbolHit | None
    exact: bool
    registers: Mapping[str, int]
    ring: int = 0
    vector: int | None = None
    names: Names | None = None
    by: str = ""

    def __repr__(self) -> str:
        return f"<Frame {self.pc:#x} {self.level if self.ring else self.name}>"

    @property
    def level(self) -> str:
        """The privilege of a program, as its architecture has it."""
        return f"ring {self.ring}" if self.names is None else "EL0"

    @property
    def lookup(self) -> VirtAddr:
        """The address to look up names and lines by: inside the call for a return address."""
        return VirtAddr(self.pc if self.exact else self.pc - 1)

    @property
    def name(self) -> str:
        """The function's name, "??" when not known."""
        return "??" if self.symbol is None else self.symbol.name


@dataclass(frozen=True, slots=True)
class Backtrace:
    """Frames from the innermost out, and in `end` one sentence on why there are no more;
    `unreadable` is where the return address would lie when that cannot be read, `whole` says that
    nothing called the last one."""

    frames: tuple[Frame, ...]
    end: str
    unreadable: int | None = None
    whole: bool = False

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]

    def size(self, index: int) -> int | None:
        """Bytes of stack that a frame takes, its return address included.

        None for the last frame, and where the next one is on another stack.
        """
        if index + 1 >= len(self.frames):
            return None
        below, above = self.frames[index], self.frames[index + 1]
        grown = above.sp - below.sp
        return grown if 0 < grown < 1 << 20 and above.ring == below.ring else None

    def largest(self, count: int = 5) -> list[tuple[int, Frame]]:
        """Of each function its largest frame, as (bytes, frame), those that take most first."""
        most: dict[str, tuple[int, Frame]] = {}
        for number, frame in enumerate(self.frames):
            size = self.size(number)
            if size is not None and size > most.get(frame.name, (0, frame))[0]:
                most[frame.name] = size, frame
        return sorted(most.values(), key=lambda pair: -pair[0])[:count]

    def circle(self) -> tuple[int, int, int] | None:
        """(first frame, frames in a round, rounds) of a recursion: the shortest circle of functions
        that repeats at least three times from some frame on, of those the longest stretch. None
        when there is none."""
        names = [frame.name for frame in self.frames]
        best: tuple[int, int, int] | None = None
        for begin in range(min(len(names), 64)):
            for length in range(1, 17):
                rounds = 1
                circle = names[begin : begin + length]
                while names[begin + rounds * length : begin + (rounds + 1) * length] == circle:
                    rounds += 1
                if rounds >= 3 and len(circle) == length:
                    if best is None or rounds * length > best[1] * best[2]:
                        best = begin, length, rounds
                    break
        return best

    def cycle(self) -> tuple[tuple[str, ...], int] | None:
        """The functions that call each other in a circle, and how many times they went round (see
        `circle`)."""
        found = self.circle()
        if found is None:
            return None
        begin, length, rounds = found
        return tuple(f.name for f in self.frames[begin : begin + length]), rounds

    def folded(self) -> list[int | tuple[int, int]]:
        """Frames by number, for showing: of a recursion its first round and its last, and between
        them (frames left out, rounds left out)."""
        every: list[int | tuple[int, int]] = [*range(len(self.frames))]
        found = self.circle()
        if found is None or found[2] < 4:
            return every
        begin, length, rounds = found
        left = rounds - 2
        return [
            *every[: begin + length], (left * length, left), *every[begin + (rounds - 1) * length :]
        ]  # fmt: skip


def registers_of(frame: Frame) -> Mapping[str, int]:
    """The registers of a frame that are known, by gdb's names."""
    pc, sp = ("rip", "rsp") if frame.names is None else (frame.names.pc, frame.names.sp)
    return {**frame.registers, pc: int(frame.pc), sp: int(frame.sp)}
