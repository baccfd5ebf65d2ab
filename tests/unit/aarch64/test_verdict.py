"""ESR_EL1 in words and predicted; SPSR_EL1; notes of a core."""

from __future__ import annotations

import pytest

from breenix_gdbagent.aarch64 import pstate
from breenix_gdbagent.aarch64.core_notes import cpus_of_notes, prstatus_note
from breenix_gdbagent.aarch64.paging import AF, EL0, PXN, READ_ONLY, UXN, walk
from breenix_gdbagent.aarch64.syndrome import Syndrome
from breenix_gdbagent.aarch64.translation import Translation
from breenix_gdbagent.aarch64.verdict import Access, verdict
from breenix_gdbagent.arch.cpu import Cpu, Trap
from breenix_gdbagent.arch.tables import Tables
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.memory.elf import Note
from tests.unit.aarch64.tables import PAGE, Writer, cpu


@pytest.mark.parametrize(
    ("esr", "says"),
    [
        (0x96000045, ("data abort without a change", "translation fault, level 1", "1: a write")),
        (0x9200000F, ("data abort from a lower", "permission fault, level 3", "0: a read")),
        (0x8600000E, ("instruction abort without a change", "permission fault, level 2")),
        (0x9600000B, ("access flag fault, level 3",)),
        (0x96000144, ("translation fault, level 0", "cache maintenance")),
        (0x9600002B, ("translation fault, level -1",)),
        (0x96000021, ("alignment fault",)),
        (0x56000005, ("SVC in AArch64", "0x5")),
        (0x9A000000, ("SP alignment fault",)),
        (0x8A000000, ("PC alignment fault",)),
        (0xBE000000, ("SError",)),
        (0xF2000001, ("BRK in AArch64", "0x1")),
        (0x02000000, ("unknown reason",)),
        (0x3A000000, ("illegal execution state",)),
        (0x623C0000, ("MSR, MRS or system instruction", "S3_")),
    ],
)
def test_a_syndrome_in_words(esr: int, says: tuple[str, ...]) -> None:
    told = " / ".join(text for _, text in Syndrome(esr).lines)
    assert all(part in told for part in says), told


LEAVES = {
    0x1000: PAGE | UXN,  # the kernel's, read and written, executed by it
    0x2000: PAGE | READ_ONLY | UXN | PXN,
    0x3000: PAGE | EL0 | PXN,
    0x4000: PAGE | EL0 | READ_ONLY | UXN | PXN,
    0x5000: (PAGE | UXN) & ~AF,
    0x6000: PAGE | 1 << 46 | UXN,  # beyond 44 bits
}


@pytest.fixture
def made() -> tuple[Tables, int, Translation]:
    mode = Translation.of(cpu(physical=4))
    assert mode is not None
    writer = Writer(mode)
    root = writer.table(mode.low)
    for va, leaf in LEAVES.items():
        writer.map(root, va, leaf | va)
    return writer.tables, root, mode


@pytest.mark.parametrize(
    ("va", "access", "esr"),
    [
        (0x1000, Access("write", 1), None),
        (0x1000, Access("fetch", 1), None),
        (0x1000, Access("read", 0), 0x9200000F),
        (0x1000, Access("fetch", 0), 0x8200000F),
        (0x2000, Access("write", 1), 0x9600004F),
        (0x2000, Access("fetch", 1), 0x8600000F),
        (0x3000, Access("write", 0), None),
        (0x3000, Access("fetch", 1), 0x8600000F),
        (0x4000, Access("write", 0), 0x9200004F),
        (0x4000, Access("write", 0, taken_from=1), 0x9600004F),
        (0x5000, Access("read", 1), 0x9600000B),
        (0x6000, Access("read", 1), 0x96000003),
        (0x7000, Access("read", 1), 0x96000007),
        (0x7000, Access("read", 1, maintenance=True), 0x96000147),
        (0x20_0000, Access("write", 1), 0x96000046),
        (1 << 39, Access("write", 1), 0x96000044),
        (1 << 50, Access("write", 1), 0x96000044),
    ],
)
def test_what_the_cpu_answers(
    made: tuple[Tables, int, Translation], va: int, access: Access, esr: int | None
) -> None:
    tables, root, mode = made
    found = verdict(walk(tables, root, va, mode), access, mode)
    assert (None if found is None else found.esr) == esr


def test_pan_keeps_el1_from_what_el0_may_touch(made: tuple[Tables, int, Translation]) -> None:
    tables, root, mode = made
    pan = mode._replace(pan=True)
    refused = verdict(walk(tables, root, 0x3000, pan), Access("read", 1), pan)
    assert refused is not None and refused.esr == 0x9600000F
    assert verdict(walk(tables, root, 0x1000, pan), Access("read", 1), pan) is None


def test_a_trap_is_told_by_the_syndrome(made: tuple[Tables, int, Translation]) -> None:
    tables, root, mode = made
    at = cpu()
    found = walk(tables, root, 0x7000, mode)
    assert at.arch.trap(at, 4, 0x96000047, found) == Trap("translation", "write", 0x7000, 3, False)
    assert at.arch.trap(at, 8, 0x8200000F, found) == Trap("permission", "fetch", 0x7000, 3, True)
    assert at.arch.trap(at, 5, 0x96000047, found) is None, "an IRQ is of no access"
    assert at.arch.trap(at, 8, 0x56000000, found) is None, "nor is an SVC"


def test_pstate_in_words() -> None:
    assert pstate.words(0x600003C5) == "EL1h Z C D A I F"
    assert pstate.words(0x0) == "EL0t"
    assert pstate.illegal_return(0x3C5) == "" and pstate.illegal_return(0) == ""
    assert "EL2" in pstate.illegal_return(0x3C9)
    assert "mode 0x3" in pstate.illegal_return(0x3)


def test_registers_in_a_core_come_back() -> None:
    registers = {f"x{n}": n * 0x1111 for n in range(31)} | {"sp": 1, "pc": 2, "cpsr": 3}
    note = prstatus_note(Cpu(2, registers, arch_name="aarch64"))
    assert len(note.data) == 392  # sizeof(struct aarch64_elf_prstatus)
    (found,) = cpus_of_notes([note])
    assert found.registers == registers and found.arch.name == "aarch64"
    with pytest.raises(InputError, match="cut short"):
        cpus_of_notes([Note("CORE", 1, note.data[:100])])
