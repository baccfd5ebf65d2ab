"""`--check-interrupts`: the registers that a thread gets back, held against those it had.

Breakpoints stand on the first instruction of the handler of every gate of the IDT, and on every
``iretq`` and ``sysretq`` of the kernel's ELF. At the first the registers are the interrupted
thread's, with the frame that tells where it stood; at the second they are what the thread that is
returned to will have. A thread is known by where it stood: RIP and RSP, and in ring 3 the root of
its space. A return to where nobody was interrupted (a new thread, exec, a signal's handler) ends
what was remembered of that space, or of that kernel stack: what comes back there later may have
been changed on purpose.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from breenix_gdbagent.checks.registers import Example, Tally
from breenix_gdbagent.entrycode.values import REGISTERS
from breenix_gdbagent.link.breakpoints import Break
from breenix_gdbagent.live import LiveVm
from breenix_gdbagent.live.running import OBSERVER
from breenix_gdbagent.symbols import Image, LoadedImage
from breenix_gdbagent.x86.control import CR3_ADDRESS
from breenix_gdbagent.x86.descriptors import (
    GATE_SIZE,
    INTERRUPT_GATE,
    TRAP_GATE,
    VECTORS,
    parse_gate,
)
from breenix_gdbagent.x86.vectors import WITH_ERROR_CODE

_FRAME = struct.Struct("<5Q")
_LOOK_AGAIN = 64
"""Stops after which the IDT is read again: a kernel enters gates late."""
STACK = 0x8_0000
"""Bytes around an RSP of ring 0 that are taken for one kernel stack."""


class Gate(NamedTuple):
    """A handler: its vectors, whether an error code lies above the frame, and whether a program
    enters it on purpose, so that RAX is the answer."""

    vectors: tuple[int, ...]
    error_code: bool
    system_call: bool


class Kept(NamedTuple):
    """What a thread had when it was interrupted."""

    handler: int
    registers: tuple[int, ...]


Place = tuple[int, int, int]
"""Root of the space (0 for ring 0), RIP, RSP."""


class InterruptCheck:
    """Remembers and compares, at every stop of one guest. `stops` is how many it made."""

    def __init__(self, vm: LiveVm, kernel: Image | None) -> None:
        self.vm = vm
        self.kernel = kernel
        self.gates: dict[int, Gate] = {}
        self.leaves: dict[int, str] = {}
        self.kept: dict[Place, Kept] = {}
        self.tallies: dict[tuple[int, int], Tally] = {}
        self.entries = self.stops = 0
        self._read = 0
        self._loaded: LoadedImage | None = None
        self.vm.observer = self.seen

    @property
    def lacking(self) -> str:
        """Why nothing could be compared; empty where something was."""
        if self.kernel is None:
            return "without the kernel's ELF (--kernel) it is not known where the kernel returns"
        if not self.leaves:
            return "the kernel's IDT or its place was never known"
        if not any(tally.returns for tally in self.tallies.values()):
            return f"{self.entries} entries, and no return to where a thread was interrupted"
        return ""

    def place(self, loaded: LoadedImage | None) -> None:
        """Breakpoints where they are known by now: `loaded` is the ELF where it runs."""
        idtr = self.vm.arming.idtr
        if loaded is None or idtr is None:
            return
        if not self.leaves:
            from breenix_gdbagent.entrycode.entries import leaving

            self.leaves = {loaded.va(at): name for at, name in leaving(loaded.image).items()}
        length = min((idtr.limit or 0) + 1, VECTORS * GATE_SIZE)
        table = self.vm.read_or_none(idtr.base, length)
        if table is not None:
            self.gates = gates_of(table)
        self._loaded = loaded
        wanted = (*self.gates, *self.leaves)
        self.vm.ledger.set_wanted(OBSERVER, (Break("hardware", at) for at in wanted))

    def seen(self, registers: Mapping[str, int]) -> None:
        """A CPU stopped: at one of ours or anywhere."""
        rip = registers.get("rip", 0)
        gate = self.gates.get(rip)
        if gate is not None:
            self.stops += 1
            self._enters(rip, gate, registers)
        elif rip in self.leaves:
            self.stops += 1
            self._returns(rip, registers)
        if self.stops - self._read >= _LOOK_AGAIN:
            self._read = self.stops
            self.place(self._loaded)

    def _enters(self, rip: int, gate: Gate, registers: Mapping[str, int]) -> None:
        place = self._frame_at(registers["rsp"] + 8 * gate.error_code, registers)
        if place is not None:
            self.entries += 1
            self.kept[place] = Kept(rip, tuple(registers[name] for name in REGISTERS))

    def _returns(self, rip: int, registers: Mapping[str, int]) -> None:
        if self.leaves[rip] == "iretq":
            place = self._frame_at(registers["rsp"], registers)
        else:
            place = registers["cr3"] & CR3_ADDRESS, registers["rcx"], registers["rsp"]
        if place is None:
            return
        kept = self.kept.pop(place, None)
        if kept is None:
            self._forget(place)
            return
        self._compare(rip, place, kept, registers)

    def _frame_at(self, va: int, registers: Mapping[str, int]) -> Place | None:
        data = self.vm.read_or_none(va, _FRAME.size)
        if data is None:
            return None
        rip, cs, _, rsp, _ = _FRAME.unpack(data)
        return (registers["cr3"] & CR3_ADDRESS if cs & 3 else 0), rip, rsp

    def _forget(self, place: Place) -> None:
        """Something else goes on there than was interrupted."""
        root, _, rsp = place
        gone = [one for one in self.kept if one[0] == root and (root or abs(one[2] - rsp) < STACK)]
        for one in gone:
            del self.kept[one]

    def _compare(self, rip: int, place: Place, kept: Kept, registers: Mapping[str, int]) -> None:
        gate = self.gates.get(kept.handler)
        ring = 3 if place[0] else 0
        tally = self.tallies.setdefault((ring, rip), Tally(ring, rip))
        tally.handlers.setdefault(kept.handler, () if gate is None else gate.vectors)
        tally.returns += 1
        changed = {
            name: (before, registers[name])
            for name, before in zip(REGISTERS, kept.registers, strict=True)
            if registers[name] != before
            and not (name == "rax" and gate is not None and gate.system_call)
        }
        if changed:
            tally.note(Example(place[1], place[2], place[0], changed))


def gates_of(table: bytes) -> dict[int, Gate]:
    """Handler address -> gate of a whole IDT. A handler that some vectors enter with an error code
    and some without is left out: where its frame lies depends on who came."""
    vectors: dict[int, list[int]] = {}
    called: dict[int, bool] = {}
    for vector in range(len(table) // GATE_SIZE):
        gate = parse_gate(vector, table[vector * GATE_SIZE : (vector + 1) * GATE_SIZE])
        if not gate.present or gate.type not in (INTERRUPT_GATE, TRAP_GATE):
            continue
        vectors.setdefault(gate.offset, []).append(vector)
        called[gate.offset] = gate.dpl == 3 and vector >= FIRST_FREE
    found = {}
    for at, numbers in vectors.items():
        pushed = {number in WITH_ERROR_CODE for number in numbers}
        if len(pushed) == 1:
            found[at] = Gate(tuple(numbers), pushed.pop(), called[at])
    return found


FIRST_FREE = 32
"""Vectors below are the CPU's own."""
