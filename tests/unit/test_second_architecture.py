"""A second architecture, made up: all that is asked of one, and what works on it then.

``toy``: two levels of tables with 512 entries, whose bits mean other things than those of x86-64; a
trap reports the access in a register of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import pytest

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.arch import cpu as arch_cpu
from breenix_gdbagent.arch.cpu import (
    Arch,
    CandidateRoot,
    Cpu,
    Mode,
    Names,
    Paging,
    Trap,
    VirtualReader,
    register,
)  # fmt: skip
from breenix_gdbagent.arch.spaces import MappedSpace, Range, SpaceReader
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.arch.walks import NOT_PRESENT, UNREADABLE, Effective, Entry, Walk
from breenix_gdbagent.errors import NotMapped, ReadError, Unreadable
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory import PhysicalMemory
from breenix_gdbagent.report.fields import to_json
from breenix_gdbagent.report.shown_walk import shown_walk
from breenix_gdbagent.stop import Stop, StopReason
from tests.writers.memory import FrameMemory

VALID, READ_ONLY, PROGRAMS, RUNS = 1 << 63, 1 << 4, 1 << 5, 1 << 6
FRAME = 0xFFFF_FFFF_F000
ROOT, INNER, PAGE = 0x1000, 0x2000, 0x5000
VA = (3 << 21) | (7 << 12) | 0x123


class ToyEntry(Entry):
    __slots__ = ()

    @property
    def flags(self) -> tuple[str, ...]:
        named = ((VALID, "V"), (READ_ONLY, "RO"), (PROGRAMS, "EL0"), (RUNS, "X"))
        return tuple(name for bit, name in named if self.raw & bit)

    @property
    def present(self) -> bool:
        return bool(self.raw & VALID)

    @property
    def leaf(self) -> bool:
        return self.level == 1

    @property
    def target(self) -> PhysAddr:
        return PhysAddr(self.raw & FRAME)


class ToyMode:
    levels = 2
    nxe = True


class ToyReader:
    def __init__(self, tables: Tables, root: int) -> None:
        self.tables, self.root = tables, root

    def translate(self, va: int) -> PhysAddr:
        found = TOY.paging.walk(self.tables, self.root, va, None)
        if found.pa is None:
            raise NotMapped(VirtAddr(va), PhysAddr(self.root), found.stopped_at, NOT_PRESENT)
        return found.pa

    def read(self, va: int, length: int) -> bytes:
        return self.tables.memory.read(self.translate(va), length)

    def u64(self, va: int) -> int:
        return int.from_bytes(self.read(va, 8), "little")

    def u32(self, va: int) -> int:
        return int.from_bytes(self.read(va, 4), "little")


class ToySpaces:
    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def _leaves(self, root: int) -> Iterator[Walk]:
        for high in range(512):
            for low in range(512 if self.tables.table(root)[high] else 0):
                found = TOY.paging.walk(self.tables, root, high << 21 | low << 12, None)
                if found.mapped:
                    yield found

    def space(self, root: int) -> MappedSpace:
        ranges = tuple(
            Range(walk.va, VirtAddr(walk.va + 0x1000), *(walk.effective or ()))
            for walk in self._leaves(root)
        )
        return MappedSpace(PhysAddr(root), ranges, ())

    def table_frames(self, roots: Iterable[int]) -> set[int]:
        return set(roots) | {INNER}


class ToyPaging(Paging):
    levels = {1: "leaf table", 2: "root table"}  # noqa: RUF012

    def walk(self, tables: Tables, root: int, va: int, mode: Mode | None) -> Walk:
        base, entries = root, list[Entry]()
        raws = 0, ~0
        for level in (2, 1):
            try:
                raw = tables.table(base)[self.index_at(va, level)]
            except Unreadable:
                return _ended(va, root, entries, level, UNREADABLE)
            entries.append(ToyEntry(level, PhysAddr(base + 8 * self.index_at(va, level)), raw))
            if not raw & VALID:
                return _ended(va, root, entries, level, NOT_PRESENT)
            raws = raws[0] | raw, raws[1] & raw
            base = raw & FRAME
        may = Effective(not raws[0] & READ_ONLY, bool(raws[1] & PROGRAMS), not raws[1] & RUNS)
        pa = PhysAddr(base | va & 0xFFF)
        return Walk(VirtAddr(va), PhysAddr(root), tuple(entries), pa, 0x1000, may, None, None)

    def span(self, level: int) -> int:
        return 1 << 12 + 9 * (level - 1)

    def index_at(self, va: int, level: int) -> int:
        return va // self.span(level) % 512

    def slot_start(self, slot: int, levels: int) -> VirtAddr:
        return VirtAddr(slot * self.span(levels))

    def memory(self, tables: Tables, root: int, mode: Mode | None) -> VirtualReader:
        return ToyReader(tables, root)

    def spaces(self, tables: Tables, mode: Mode | None) -> SpaceReader:
        return ToySpaces(tables)

    def roots(
        self, memory: PhysicalMemory, reference: PhysAddr, slots: Sequence[int]
    ) -> Iterable[CandidateRoot]:
        return ()


def _ended(va: int, root: int, entries: list[Entry], level: int, why: str) -> Walk:
    return Walk(VirtAddr(va), PhysAddr(root), tuple(entries), None, None, None, level, why)


class Toy(Arch):
    name = "toy"
    elf_machine = 0xFEED
    qemu_names = ("toy",)
    names = Names("pc", "sp", "fp", "status", ("r0", "r1"), ("r0", "r1", "sp", "pc"))
    paging = ToyPaging()
    vectors = {1: "abort"}  # noqa: RUF012

    def mode(self, cpu: Cpu) -> Mode | None:
        return ToyMode() if cpu.get("control") else None

    def root(self, cpu: Cpu) -> PhysAddr | None:
        base = cpu.get("base")
        return None if base is None else PhysAddr(base)

    def ring(self, cpu: Cpu) -> int | None:
        status = cpu.get("status")
        return None if status is None else 0 if status & 1 else 3

    def privilege(self, cpu: Cpu) -> str:
        return "kernel" if self.ring(cpu) == 0 else "program"

    def trap(self, cpu: Cpu, vector: int, error_code: int | None, walk: Walk) -> Trap | None:
        if vector != 1:
            return None
        syndrome = cpu.registers["syndrome"]
        kind = "permission" if walk.mapped else "translation"
        level = walk.stopped_at or (walk.entries[-1].level if walk.entries else None)
        return Trap(kind, "write" if syndrome & 1 else "read", walk.va, level, bool(syndrome & 2))


TOY = Toy()


def frame(**entries: int) -> bytes:
    raws = [0] * 512
    for name, raw in entries.items():
        raws[int(name[1:])] = raw
    return struct.pack("<512Q", *raws)


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    monkeypatch.setattr(arch_cpu, "_KNOWN", dict(arch_cpu._KNOWN))
    register(TOY)
    memory = FrameMemory(
        {
            ROOT: frame(_3=INNER | VALID | PROGRAMS | RUNS),
            INNER: frame(_7=PAGE | VALID | PROGRAMS | READ_ONLY),
            PAGE: bytes(range(256)) * 16,
        }
    )
    registers = {"pc": VA, "sp": 0x40, "status": 1, "base": ROOT, "control": 1, "syndrome": 3}
    return Stop((Cpu(0, registers, arch_name="toy"),), memory, StopReason("attached"))


def test_a_cpu_is_read_by_its_own_names(stop: Stop) -> None:
    cpu = stop.cpu
    assert stop.arch is TOY and cpu.arch is TOY
    assert (cpu.pc, cpu.sp, cpu.root, cpu.cpl, cpu.privilege) == (VA, 0x40, ROOT, 0, "kernel")
    assert not cpu.dead and not cpu.at_reset
    off = cpu._replace(registers={**cpu.registers, "control": 0})
    assert off.paging is None and stop._replace(cpus=(off,)).no_paging == (
        "CPU 0 translates no addresses"
    )
    with pytest.raises(ReadError, match="PC of CPU 0 is not known"):
        _ = cpu._replace(registers={}).pc


def test_its_tables_are_walked_and_told(stop: Stop) -> None:
    kernel = Kernel(stop)
    found = kernel.walk(ROOT, VA)
    assert (found.pa, found.effective) == (PAGE + 0x123, Effective(w=False, u=True, nx=True))
    told = to_json(shown_walk(found))
    assert isinstance(told, dict) and isinstance(told["levels"], list)
    assert told["levels"] == [
        {"level": 2, "entry_pa": "0x1018", "entry": hex(INNER | VALID | PROGRAMS | RUNS),
         "flags": ["V", "EL0", "X"]},
        {"level": 1, "entry_pa": "0x2038", "entry": hex(PAGE | VALID | PROGRAMS | READ_ONLY),
         "flags": ["V", "RO", "EL0"]},
    ]  # fmt: skip
    missing = kernel.walk(ROOT, 0)
    assert (missing.stopped_at, missing.reason) == (2, NOT_PRESENT)


def test_its_memory_and_spaces_are_read(stop: Stop) -> None:
    kernel = Kernel(stop)
    assert kernel.levels == 2 and kernel.reference_root == ROOT
    assert kernel.memory_of(ROOT).read(VA, 2) == bytes((0x23, 0x24))
    (one,) = kernel.merged.space(ROOT).ranges
    assert (one.start, one.w, one.u, one.nx) == (VA & ~0xFFF, False, True, True)
    assert kernel.ranges(PhysAddr(ROOT), 3) == (one,) and not kernel.ranges(PhysAddr(ROOT), 4)
    assert kernel.gates == {} and kernel.tss == {} and not kernel.stacks and not kernel.ist


def test_a_trap_is_one_value(stop: Stop) -> None:
    kernel, cpu = Kernel(stop), stop.cpu
    refused = cpu.arch.trap(cpu, 1, None, kernel.walk(ROOT, VA))
    assert refused == Trap("permission", "write", VirtAddr(VA), 1, True)
    missing = cpu.arch.trap(cpu, 1, None, kernel.walk(ROOT, 0))
    assert missing == Trap("translation", "write", VirtAddr(0), 2, True)
    assert cpu.arch.trap(cpu, 2, None, kernel.walk(ROOT, VA)) is None


@pytest.mark.parametrize(
    ("code", "trap"),
    [
        (0x0, Trap("translation", "read", VirtAddr(0x1000), 4, False)),
        (0x6, Trap("translation", "write", VirtAddr(0x1000), 4, True)),
        (0x15, Trap("permission", "fetch", VirtAddr(0x1000), 4, True)),
        (0x9, Trap("malformed", "read", VirtAddr(0x1000), 4, False)),
    ],
)
def test_x86_64_says_the_same_words(code: int, trap: Trap) -> None:
    cpu = Cpu(0, {"cr3": ROOT})
    walk = cpu.arch.paging.walk(Tables(FrameMemory({ROOT: frame()})), ROOT, 0x1000, None)
    assert cpu.arch.trap(cpu, 14, code, walk) == trap
    assert cpu.arch.trap(cpu, 13, code, walk) is None
