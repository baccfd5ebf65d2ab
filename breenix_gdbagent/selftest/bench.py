"""The lab guest as a test bench: registers and RAM are set, and one instruction runs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from breenix_gdbagent import guest
from breenix_gdbagent.errors import AgentError, LinkTimeout
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.live import LiveVm, launch
from breenix_gdbagent.selftest.matrix import Group
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.cpu import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE

SECONDS = 30.0
STEP_SECONDS = 5.0
STEPS = 5
MEMORY = "64M"
TABLES = 0x200_0000  # unused RAM of the lab guest from here on
PAGE = 0x3F0_0000  # the page under test
STUBS = 0x3F1_0000  # two pages of code: of ring 0, of ring 3
STUB_SLOT = 0x7F  # PML4 slot of the stubs
EFLAGS = 0x2
EFLAGS_AC = 1 << 18
READ = b"\x8a\x07"  # mov al, [rdi]
WRITE = b"\x88\x07"  # mov [rdi], al
NOPS = b"\x90" * 0x1000
RINGS = {0: (0x08, 0x10), 3: (0x33, 0x2B)}  # CS, SS (kernel/src/gdt.rs)
TIMER = 32
WITH_CODE = frozenset({8, 13, 14})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one access came to: `vector` None when it was let pass."""

    vector: int | None
    error_code: int | None
    cr2: int | None


class Bench:
    """A lab guest that stands still, idle, with 64-bit paging and its IDT loaded."""

    def __init__(self) -> None:
        elf = guest.elf(stripped=True)
        append = guest.scenario("clean").append
        self.vm: LiveVm = launch("lab", kernel=elf, append=append, cpu="max", memory=MEMORY)
        self._until([guest.MARKER], "marker")
        # An idle CPU halts, and would not step: it is taken at its next timer interrupt.
        timer = self.vm.insert(Kernel(self.stop).gates[TIMER].offset)
        self._until([], "breakpoint")
        self.vm.remove(timer)
        self.kernel = Kernel(self.stop)
        self.handlers = {int(g.offset): v for v, g in self.kernel.gates.items()}
        cpu = self.stop.cpu
        self._cr0, self._cr4 = cpu.registers["cr0"], cpu.registers["cr4"]
        self._efer = cpu.registers["efer"]
        self._stack = max(s.top for s in self.kernel.stacks) - 0x100

    def _until(self, patterns: list[str], kind: str) -> None:
        self.stop: Stop = self.vm.run_until(patterns, SECONDS)
        if self.stop.reason.kind != kind:
            self.close()
            raise AgentError(f"the lab guest came to no {kind}", self.stop.reason.kind)

    def close(self) -> None:
        """End the guest."""
        self.vm.close()

    def write(self, pa: int, data: bytes) -> None:
        """Into the guest's RAM, by its RAM file."""
        place = self.vm.ram_file
        assert place is not None
        with place.open("r+b") as ram:
            ram.seek(pa)
            ram.write(data)

    def set_group(self, group: Group, root: int) -> None:
        """Control registers of a group; CR3 last, which empties the TLB."""
        cr0 = self._cr0 | CR0_WP if group.wp else self._cr0 & ~CR0_WP
        cr4 = self._cr4 & ~(CR4_SMEP | CR4_SMAP)
        cr4 |= (CR4_SMEP if group.smep else 0) | (CR4_SMAP if group.smap else 0)
        efer = self._efer | EFER_NXE if group.nxe else self._efer & ~EFER_NXE
        stub = self.vm.stub
        for name, value in (("efer", efer), ("cr0", cr0), ("cr4", cr4), ("cr3", root)):
            stub.write_register(name, value)

    def access(self, va: int, kind: str, ring: int, *, ac: bool) -> Outcome:
        """Make one access by one instruction. Raises `LinkError`."""
        base = STUB_SLOT << 39 | (0x1000 if ring == 3 else 0)
        start = va if kind == "fetch" else base + (0x10 if kind == "write" else 0)
        cs, ss = RINGS[ring]
        stub = self.vm.stub
        for name, value in (
            ("ss", ss), ("cs", cs), ("eflags", EFLAGS | (EFLAGS_AC if ac else 0)),
            ("rsp", self._stack), ("rdi", va), ("rax", 0x90), ("rip", start),
        ):  # fmt: skip
            stub.write_register(name, value)
        registers = self._step(start)
        vector = self.handlers.get(registers["rip"])
        if vector is None:
            return Outcome(None, None, None)
        code = None
        if vector in WITH_CODE:
            code = struct.unpack("<I", stub.read(registers["rsp"], 4))[0]
        return Outcome(vector, code, registers["cr2"])

    def _step(self, start: int) -> dict[str, int]:
        """Registers after one instruction. A step that QEMU ends before the instruction began
        (it had a timer to look after) is made again."""
        stub = self.vm.stub
        for _ in range(STEPS):
            stub.step()
            if stub.wait(Deadline(STEP_SECONDS)) is None:
                raise LinkTimeout("a single step of the self-test", STEP_SECONDS)
            registers = stub.registers()
            if registers["rip"] != start:
                return registers
        raise AgentError(f"QEMU does not step at {start:#x}", "the instruction never began")
