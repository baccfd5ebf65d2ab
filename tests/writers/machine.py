"""A stopped machine made by a test: a small kernel laid out as Breenix is, with gates, a TSS,
stacks and two processes, and the frame of a fault where the CPU would have pushed it.

Everything can be changed before the stop is taken: that is what tests of analyzers do.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from breenix_gdbagent.memory import RamMap
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop, StopReason
from breenix_gdbagent.x86.cpu import Cpu, DescriptorTable, SystemSegment
from tests.writers.memory import FrameMemory, ram_of
from tests.writers.tables import ADDRESS, G, P, TableWriter, U, W

NX = 1 << 63
TEXT = 0x80_0000_0000
TEXT_PAGES = 4
GDT, TSS, PERCPU, IDT = (TEXT + 0x10000 + 0x1000 * i for i in range(4))
HEAP = 0x4444_4444_0000
STACKS = 0xFFFF_C900_0000_0000
IST = 0xFFFF_C980_0000_0000
SLOT = 0x11000
CODE, DATA, USER_STACK = 0x4000_0000, 0x4000_1000, 0x7FFF_FF00_1000
DIRECT_MAP = 0x200_0000_0000

KERNEL_CS, KERNEL_SS, TSS_SELECTOR, USER_SS, USER_CS = 0x08, 0x10, 0x18, 0x2B, 0x33
GDT_ENTRIES = (0, 0xAF9B000000FFFF, 0xCF93000000FFFF, 0, 0, 0xCFF3000000FFFF, 0xAFFB000000FFFF)
WITH_ERROR_CODE = (8, 10, 11, 12, 13, 14, 17, 21, 29, 30)
RAM = 0x2000_0000


def handler(vector: int) -> int:
    """Where the gate of `vector` leads."""
    return TEXT + 0x1000 + vector * 16


def stack_top(slot: int) -> int:
    return STACKS + (slot + 1) * SLOT


@dataclass
class Machine:
    """The machine before its stop. `root` is CR3: of process 0, else what a test sets."""

    tables: TableWriter = field(default_factory=TableWriter)
    master: int = 0
    boot: int = 0
    processes: list[int] = field(default_factory=list)
    root: int = 0
    registers: dict[str, int] = field(default_factory=dict)
    gdt_limit: int = len(GDT_ENTRIES) * 8 - 1
    idt_limit: int = 0xFFF

    def __post_init__(self) -> None:
        self.master = self.tables.new_table()
        self._upper_half()
        for va, flags in self._kernel_pages():
            self.tables.map(self.master, va, self.tables.new_table(), flags, way=P | W)
        self.tables.map(self.master, DIRECT_MAP, 0, P | W | NX, level=3, way=P | W)
        self.processes = [self._process() for _ in range(2)]
        self.root = self.processes[0]
        self._descriptors()
        self.percpu(stack_top(1))
        self.registers = {
            "cr0": 0x8001_0033, "cr2": 0, "cr4": 0x6E8, "efer": 0xD00,
            "gs_base": PERCPU, "k_gs_base": PERCPU, "fs_base": 0,
            **dict.fromkeys(("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp"), 0),
            **{f"r{n}": 0 for n in range(8, 16)},
        }  # fmt: skip

    # Building ------------------------------------------------------------------------------

    def _upper_half(self) -> None:
        shared = self.tables.new_table()
        for slot in range(256, 512):
            own = slot in (402, 403)
            table = self.tables.new_table() if own else shared
            self.tables.set(self.master, slot, table | P | W | G)

    def _kernel_pages(self) -> list[tuple[int, int]]:
        pages = [(TEXT + 0x1000 * i, P) for i in range(TEXT_PAGES)]
        pages += [(va, P | W | NX) for va in (GDT, TSS, PERCPU, IDT, HEAP)]
        for slot in range(3):
            bottom = STACKS + slot * SLOT + 0x1000
            pages += [(va, P | W | NX) for va in range(bottom, bottom + SLOT - 0x1000, 0x1000)]
        pages += [(IST + 0x1000 * i, P | W) for i in range(4)]
        return pages

    def _process(self) -> int:
        root = self.tables.new_table()
        for slot in range(1, 512):
            self.tables.set(root, slot, self.tables.entry(self.master, slot))
        for va, flags in ((CODE, P | U), (DATA, P | W | U | NX), (USER_STACK, P | W | U | NX)):
            self.tables.map(root, va, self.tables.new_table(), flags)
        return root

    def boot_root(self) -> int:
        """The bootloader's PML4: one table in the whole upper half, no stacks, no heap."""
        self.boot = self.tables.new_table()
        for slot in range(512):
            raw = self.tables.entry(self.master, slot)
            if slot in (402, 403):
                raw = self.tables.entry(self.master, 256)
            self.tables.set(self.boot, slot, 0 if slot == 136 else raw)
        return self.boot

    def _descriptors(self) -> None:
        self.write(TSS + 0x66, struct.pack("<H", 0x68))  # no I/O bitmap
        self.write(GDT, struct.pack("<7Q", *GDT_ENTRIES))
        self.tss(rsp0=stack_top(1), ist1=IST + 0x2000, ist2=IST + 0x4000)
        for vector in range(256):  # the x86_64 crate's table: the type of a gate, not present
            self.gate(vector, 0, present=False)
        for vector in (0, 1, 3, 6, 12, 13, *range(32, 256)):
            self.gate(vector)
        self.gate(8, ist=1)
        self.gate(14, ist=2)
        self.gate(0x80, dpl=3)

    # Changing ------------------------------------------------------------------------------

    def leaf(self, va: int, root: int | None = None) -> int:
        """Physical address of the last entry that the walk of `va` comes to."""
        table = self.root if root is None else root
        for shift in (39, 30, 21):
            at = table + (va >> shift & 511) * 8
            raw = self.entry(at)
            if not raw & P or (raw & 0x80 and shift < 39):
                return at
            table = raw & ADDRESS
        return table + (va >> 12 & 511) * 8

    def entry(self, pa: int) -> int:
        return self.tables.entry(pa & ~0xFFF, (pa & 0xFFF) // 8)

    def set_entry(self, pa: int, raw: int) -> None:
        self.tables.set(pa & ~0xFFF, (pa & 0xFFF) // 8, raw)

    def change(self, va: int, *, clear: int = 0, add: int = 0, root: int | None = None) -> None:
        """Clears and sets bits of the leaf of `va`."""
        pa = self.leaf(va, root)
        self.set_entry(pa, self.entry(pa) & ~clear | add)

    def unmap(self, va: int, root: int | None = None) -> None:
        self.set_entry(self.leaf(va, root), 0)

    def map(self, va: int, flags: int, root: int | None = None) -> None:
        self.tables.map(self.root if root is None else root, va, self.tables.new_table(), flags)

    def write(self, va: int, data: bytes, root: int | None = None) -> None:
        """Bytes at `va`, through the master for what the kernel has."""
        for i, byte in enumerate(data):
            frame = self.entry(self.leaf(va + i, root or self.master)) & ADDRESS
            self.tables.frames[frame][(va + i) & 0xFFF] = byte

    def code(self, rip: int, hexadecimal: str) -> None:
        """The instruction at `rip`."""
        self.write(rip, bytes.fromhex(hexadecimal), self.root if rip < TEXT else None)

    def gate(
        self, vector: int, offset: int | None = None, *, ist: int = 0, dpl: int = 0,
        selector: int = KERNEL_CS, kind: int = 0xE, present: bool = True,
    ) -> None:  # fmt: skip
        at = handler(vector) if offset is None else offset
        options = ist | (kind | dpl << 5 | present << 7) << 8
        raw = struct.pack("<HHHHII", at & 0xFFFF, selector, options, at >> 16 & 0xFFFF, at >> 32, 0)
        self.write(IDT + vector * 16, raw)

    def tss(self, **fields: int) -> None:
        places = {"rsp0": 4, "ist1": 36, "ist2": 44}
        for name, value in fields.items():
            self.write(TSS + places[name], struct.pack("<Q", value))

    def percpu(self, kernel_stack_top: int) -> None:
        block = bytearray(0x1000)
        for offset, value in ((8, HEAP + 0x100), (16, kernel_stack_top), (48, TSS),
                              (72, self.master), (80, self.root)):  # fmt: skip
            struct.pack_into("<Q", block, offset, value)
        self.write(PERCPU, bytes(block))

    # Stopping ------------------------------------------------------------------------------

    def cpu(self, index: int = 0, **registers: int) -> Cpu:
        known = {**self.registers, "cr3": self.root, **registers}
        return Cpu(
            index,
            {n: v for n, v in known.items() if v >= 0},
            gdtr=DescriptorTable(GDT, self.gdt_limit),  # type: ignore[arg-type]
            idtr=DescriptorTable(IDT, self.idt_limit),  # type: ignore[arg-type]
            tr=SystemSegment(TSS_SELECTOR, TSS, 0x67),  # type: ignore[arg-type]
        )

    def memory(self, ram: RamMap | None = None) -> FrameMemory:
        return FrameMemory(self.tables.frames, ram or ram_of((0, RAM)))

    def stop(self, reason: StopReason, *cpus: Cpu) -> Stop:
        log = b"".join(
            f"Allocated L4 frame: {root:#x}\nCreated process {name} (PID {pid})\n".encode()
            for pid, (root, name) in enumerate(
                zip(self.processes, ("init", "shell"), strict=True), 1
            )
        )
        serial = SerialText((SerialChunk(0, 0.0, log),))
        return Stop(cpus=cpus, memory=self.memory(), reason=reason, serial=serial)

    def fault(
        self, vector: int, rip: int, *, ring: int = 3, error: int | None = None,
        rsp: int | None = None, rflags: int = 0x202, stack: int | None = None, **registers: int,
    ) -> Stop:  # fmt: skip
        """The stop at the first instruction of the handler of `vector`. The frame goes to `stack`,
        else where the gate's IST, RSP0 or the interrupted RSP says (all as in an unharmed TSS)."""
        return self.stop(
            StopReason("fault", 0, vector),
            self.at_handler(
                vector, rip, ring=ring, error=error, rsp=rsp, rflags=rflags, stack=stack,
                **registers,
            ),
        )  # fmt: skip

    def at_handler(
        self, vector: int, rip: int, *, ring: int = 3, error: int | None = None,
        rsp: int | None = None, rflags: int = 0x202, stack: int | None = None, index: int = 0,
        **registers: int,
    ) -> Cpu:  # fmt: skip
        if rsp is None:
            rsp = USER_STACK + 0xFF8 if ring == 3 else stack_top(1) - 0x100
        if stack is None:
            by_ist = {8: IST + 0x2000, 14: IST + 0x4000}
            stack = by_ist.get(vector, stack_top(1) if ring == 3 else rsp)
        cs, ss = (USER_CS, USER_SS) if ring == 3 else (KERNEL_CS, 0)
        words = [rip, cs, rflags, rsp, ss]
        if vector in WITH_ERROR_CODE:
            words.insert(0, error or 0)
        at = (stack & ~0xF) - 8 * len(words)
        self.write(at, struct.pack(f"<{len(words)}Q", *words))
        return self.cpu(
            index, rip=handler(vector), rsp=at, cs=KERNEL_CS, ss=0, eflags=0x46, **registers
        )

    def shutdown(
        self, rip: int, *, ring: int = 0, rsp: int | None = None, rflags: int = 0x2,
        **registers: int,
    ) -> Stop:  # fmt: skip
        """Paused with the registers of the moment at which nothing could be delivered any more."""
        if rsp is None:
            rsp = USER_STACK + 0xFF8 if ring == 3 else stack_top(1) - 0x100
        cs, ss = (USER_CS, USER_SS) if ring == 3 else (KERNEL_CS, 0)
        cpu = self.cpu(rip=rip, rsp=rsp, cs=cs, ss=ss, eflags=rflags, **registers)
        return self.stop(StopReason("shutdown"), cpu)
