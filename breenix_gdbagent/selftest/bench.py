"""The lab guest as a test bench: tables and a runner are put into its RAM, and the runner (machine
code, `fixtures/selftest/runner.s`) makes the accesses in the guest, one after the other."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from breenix_gdbagent import lab
from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import AgentError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.link.deadline import Deadline
from breenix_gdbagent.live import LiveVm, launch
from breenix_gdbagent.selftest.layout import (
    CASE,
    CASES,
    DONE,
    GDT,
    RESULT,
    USER_PAGE,
    descriptors,
)
from breenix_gdbagent.selftest.matrix import KINDS, PERMISSIVE, Builder, Group, Mapping
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.control import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE
from breenix_gdbagent.x86.paging import P, W

SECONDS = 30.0
MEMORY = "64M"
TABLES = 0x200_0000  # unused RAM of the lab guest from here on
RUNNER = 0x300_0000  # physical, and the pages behind it
PAGE = 0x3F0_0000  # the page under test
RUNNER_SLOT = 0x7F  # PML4 slot of the runner
BASE = RUNNER_SLOT << 39
TIMER = 32
BREAKPOINT = 3  # the vector that ends an access which was let pass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one access came to: `vector` None when it was let pass; the code as it was pushed, 0
    where the vector has none."""

    vector: int | None
    error_code: int | None
    cr2: int | None


class Bench:
    """A lab guest that is stopped with 64-bit paging on, and the runner in its RAM."""

    def __init__(self) -> None:
        elf = lab.elf(stripped=True)
        append = lab.scenario("clean").append
        self.vm: LiveVm = launch("lab", kernel=elf, append=append, cpu="max", memory=MEMORY)
        self._until([lab.MARKER], "marker")
        # An idle CPU halts, and would not go on at another RIP: it is taken at its next interrupt.
        timer = self.vm.insert(Kernel(self.stop).gates[TIMER].offset)
        self._until([], "breakpoint")
        self.vm.remove(timer)
        cpu = self.stop.cpu
        self._cr0, self._cr4 = cpu.registers["cr0"], cpu.registers["cr4"]
        self._efer = cpu.registers["efer"]

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

    def prepare(self, builder: Builder, cases: int) -> None:
        """The runner, its descriptor tables and its pages, with room for so many cases; then all
        tables of `builder`."""
        pages = (CASES + cases * (CASE.size + RESULT.size)) // 0x1000 + 1
        assert pages <= 512 and builder.next_frame <= RUNNER
        tables = [builder.root, *(builder.new_table() for _ in range(3))]
        for number, index in enumerate((RUNNER_SLOT, 0, 0)):
            builder.frames[tables[number]][index] = tables[number + 1] | PERMISSIVE
        rights = [PERMISSIVE if n == USER_PAGE >> 12 else P | W for n in range(pages)]
        builder.frames[tables[3]][:pages] = [
            RUNNER + 0x1000 * n | bits for n, bits in enumerate(rights)
        ]
        for frame, entries in builder.frames.items():
            self.write(frame, struct.pack("<512Q", *entries))
        code = Path(__file__).with_name("runner.bin").read_bytes()
        self.write(RUNNER, code.ljust(GDT, b"\x90") + descriptors(BASE))
        # What lies at the address under test: a fetch that passes ends in a breakpoint too.
        self.write(PAGE, b"\x90\xcc" * 0x800)
        self.vm.insert(BASE + DONE)

    def run(self, group: Group, root: int, mappings: Sequence[Mapping]) -> Iterator[Outcome]:
        """Make each kind of access to each mapping in each ring, in the order of `matrix.KINDS`
        within `matrix.RINGS` within the mappings. Raises `LinkError`, `AgentError`."""
        ac = int(group.ac)
        cases = b"".join(
            CASE.pack(m.va, kind, ring, ac)
            for m in mappings
            for ring in (0, 3)
            for kind in range(len(KINDS))
        )
        count = len(cases) // CASE.size
        results = CASES + len(cases)
        self.write(RUNNER + CASES, cases)
        self.write(RUNNER + results, bytes(count * RESULT.size))
        self._start(group, root, count, BASE + results)
        reply = self.vm.stub.wait(Deadline(SECONDS))
        registers = self.vm.stub.registers()
        if reply is None or reply.shutdown or registers["rip"] != BASE + DONE:
            done = count - registers.get("r14", count)
            raise AgentError(
                f"the matrix did not end: {done} of {count} accesses with {group.name}",
                f"RIP is {registers['rip']:#x}",
            )
        told = self.vm.recent_memory().read(PhysAddr(RUNNER + results), count * RESULT.size)
        return (
            Outcome(None, None, None) if vector == BREAKPOINT else Outcome(vector, code, cr2)
            for vector, code, cr2, _ in RESULT.iter_unpack(told)
        )

    def _start(self, group: Group, root: int, count: int, results: int) -> None:
        self.set_group(group, root)
        stub = self.vm.stub
        for name, value in (
            ("eflags", 2), ("r12", BASE + CASES), ("r13", results), ("r14", count), ("r15", root),
            ("rip", BASE),
        ):  # fmt: skip
            stub.write_register(name, value)
        self.vm.was_changed()
        stub.cont()

    def set_group(self, group: Group, root: int) -> None:
        """Control registers of a group; CR3 last, which empties the TLB."""
        cr0 = self._cr0 | CR0_WP if group.wp else self._cr0 & ~CR0_WP
        cr4 = self._cr4 & ~(CR4_SMEP | CR4_SMAP)
        cr4 |= (CR4_SMEP if group.smep else 0) | (CR4_SMAP if group.smap else 0)
        efer = self._efer | EFER_NXE if group.nxe else self._efer & ~EFER_NXE
        for name, value in (("efer", efer), ("cr0", cr0), ("cr4", cr4), ("cr3", root)):
            self.vm.stub.write_register(name, value)
