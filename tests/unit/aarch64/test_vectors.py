"""Where faults are caught: slots of the table at VBAR_EL1, and behind the kernel's own branch."""

from __future__ import annotations

import struct

import pytest

from breenix_gdbagent.aarch64.vectors import EL0_SYNC, EL1_SYNC, Vectors, behind_system_calls

BASE = 0xFFFF_0000_4040_0000
SLOT = BASE + 0x400
AT = BASE + 0x1000
HANDLER = AT + 0x100


def b(source: int, target: int) -> int:
    return 0x14000000 | (target - source) // 4 & 0x3FFFFFF


def b_cond(source: int, target: int, condition: int) -> int:
    return 0x54000000 | ((target - source) // 4 & 0x7FFFF) << 5 | condition


MRS_X16, LSR_X17_X16, CMP_X17_SVC = 0xD5385210, 0xD35AFE11, 0xF100563F
UBFX_W17 = 0x531A7E11
CMP_W17_SVC = 0x7100563F
STP_SP = 0xA90007E0
NE, EQ = 1, 0


class Code(dict[int, int]):
    """Instructions by address."""

    def put(self, at: int, *words: int) -> Code:
        for i, word in enumerate(words):
            self[at + 4 * i] = word
        return self

    def read(self, va: int, length: int) -> bytes | None:
        word = self.get(va)
        return None if word is None else struct.pack("<I", word)[:length]


def test_the_branch_that_parts_system_calls_is_followed() -> None:
    """As in Breenix's lower_el_sync_dispatch."""
    code = Code().put(SLOT, b(SLOT, AT))
    code.put(AT, MRS_X16, LSR_X17_X16, CMP_X17_SVC, b_cond(AT + 12, HANDLER, NE))
    assert behind_system_calls(SLOT, code.read) == HANDLER


def test_where_system_calls_branch_away_it_is_behind_the_branch() -> None:
    code = Code().put(SLOT, b(SLOT, AT))
    code.put(AT, MRS_X16, UBFX_W17, CMP_W17_SVC, b_cond(AT + 12, HANDLER, EQ))
    assert behind_system_calls(SLOT, code.read) == AT + 16


@pytest.mark.parametrize(
    "words",
    [
        (STP_SP, MRS_X16, LSR_X17_X16, CMP_X17_SVC, b_cond(SLOT + 16, HANDLER, NE)),
        (MRS_X16, LSR_X17_X16, CMP_X17_SVC ^ 1 << 10, b_cond(SLOT + 12, HANDLER, NE)),
        (MRS_X16, LSR_X17_X16 ^ 1 << 5, CMP_X17_SVC, b_cond(SLOT + 12, HANDLER, NE)),
        (MRS_X16,),
        (b(SLOT, SLOT),),
    ],
    ids=["it saves first", "another class", "another register", "not mapped", "a loop"],
)
def test_what_is_not_that_is_no_place(words: tuple[int, ...]) -> None:
    assert behind_system_calls(SLOT, Code().put(SLOT, *words).read) is None


def test_the_instructions_that_set_the_register() -> None:
    code = struct.pack("<4I", 0xD503201F, 0xD518C000, 0xD538C000, 0xD518C005)
    assert list(Vectors().sites(code)) == [4, 12]


def test_places_are_the_slots_where_code_cannot_be_read() -> None:
    places = Vectors().places(BASE, lambda va, length: None)
    assert {v: at - BASE for at, vectors in places.items() for v in vectors} == {
        0: 0, 3: 0x180, 4: 0x200, 7: 0x380, 8: 0x400, 11: 0x580,
    }  # fmt: skip


EL0, EL1H = 0, 0x3C5
DATA_ABORT_EL0, DATA_ABORT_EL1, SVC, SOFTWARE_STEP = 0x24, 0x25, 0x15, 0x33


@pytest.mark.parametrize(
    ("ec", "spsr", "slot", "fault"),
    [
        (DATA_ABORT_EL0, EL0, EL0_SYNC, EL0_SYNC),
        (DATA_ABORT_EL1, EL1H, EL1_SYNC, EL1_SYNC),
        (SVC, EL0, EL0_SYNC, None),
        (SVC, EL1H, EL1_SYNC, None),
        (SOFTWARE_STEP, EL0, EL0_SYNC, None),
        (DATA_ABORT_EL1, EL1H, EL0_SYNC, None),
    ],
    ids=["EL0", "EL1", "svc", "svc of EL1", "the guest's own debugger", "where both ways join"],
)
def test_what_is_a_fault(ec: int, spsr: int, slot: int, fault: int | None) -> None:
    registers = {"esr_el1": ec << 26 | 1 << 25, "spsr_el1": spsr}
    assert Vectors().fault_at(registers, (slot,)) == fault


def test_an_serror_is_a_fault_whatever_the_syndrome_was_of() -> None:
    registers = {"esr_el1": SVC << 26, "spsr_el1": EL0}
    assert Vectors().fault_at(registers, (11,)) == 11
