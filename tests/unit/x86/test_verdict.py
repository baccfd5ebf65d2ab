"""The verdict by cases, and against a restatement of SDM vol. 3, 4.6 and 4.7 over all of them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from breenix_gdbagent.snapshot.opening import open_snapshot
from breenix_gdbagent.x86.cpu import PagingMode
from breenix_gdbagent.x86.paging import Tables, walk
from breenix_gdbagent.x86.verdict import Access, Processor, verdict
from tests.unit.captures import capture, truth_of
from tests.writers.tables import NX, P, TableWriter, U, W

MODE = PagingMode(levels=4, nxe=True, wp=True, smep=True, smap=True, pke=False)
VA = 0x40_0000


def _space(flags: int, way: int = P | W | U, level: int = 1) -> tuple[Tables, int]:
    writer = TableWriter()
    root = writer.new_table()
    writer.map(root, VA, 0x4000_0000, flags, level=level, way=way)
    return Tables(writer.memory()), root


def _asked(flags: int, access: Access, mode: PagingMode = MODE, **known: Any) -> Any:
    tables, root = _space(flags)
    return verdict(walk(tables, root, VA), access, mode, Processor(**known))


@pytest.mark.parametrize(
    ("flags", "kind", "cpl", "cause", "code"),
    [
        (0, "read", 0, "unmapped", 0x0),
        (0, "write", 0, "unmapped", 0x2),
        (0, "read", 3, "unmapped", 0x4),
        (0, "write", 3, "unmapped", 0x6),
        (0, "fetch", 3, "unmapped", 0x14),
        (P, "write", 0, "write-protected", 0x3),
        (P | U, "write", 3, "write-protected", 0x7),
        (P | W, "read", 3, "supervisor-only", 0x5),
        (P | W | NX, "fetch", 0, "no-execute", 0x11),
        (P | U | NX, "fetch", 3, "no-execute", 0x15),
        (P | U, "fetch", 0, "smep", 0x11),
        (P | W | U, "read", 0, "smap", 0x1),
        (P | W | U, "write", 0, "smap", 0x3),
        (P | W, "write", 0, None, None),
        (P | U, "read", 3, None, None),
        (P | U, "fetch", 3, None, None),
        (P, "fetch", 0, None, None),
    ],
)
def test_causes_and_codes(
    flags: int, kind: str, cpl: int, cause: str | None, code: int | None
) -> None:
    found = _asked(flags, Access(kind, cpl))
    assert (found.cause, found.error_code) == (cause, code)
    assert found.allowed is (cause is None)
    assert found.vector == (None if cause is None else 14)


def test_the_entry_that_forbids_is_the_uppermost() -> None:
    tables, root = _space(P | W | U, way=P | U)
    found = verdict(walk(tables, root, VA), Access("write", 3), MODE)
    assert found.entry is not None and found.entry.level == 4


def test_supervisor_writes_without_wp_and_user_pages_with_ac() -> None:
    assert _asked(P, Access("write", 0), MODE._replace(wp=False)).allowed
    assert _asked(P | W | U, Access("read", 0, ac=True)).allowed
    implicit = Access("read", 0, ac=True, implicit=True)
    assert _asked(P | W | U, implicit).cause == "smap", "AC is nothing to an implicit access"
    from_ring_3 = _asked(P | W, Access("read", 3, implicit=True))
    assert from_ring_3.allowed, "the CPU reads its tables as a supervisor"


def test_fetch_shows_in_the_code_only_with_nxe_or_smep() -> None:
    plain = MODE._replace(nxe=False, smep=False)
    assert _asked(0, Access("fetch", 0), plain).error_code == 0
    assert _asked(0, Access("fetch", 0), plain._replace(smep=True)).error_code == 0x10


def test_reserved_bits_by_mode_width_and_page_size() -> None:
    found = _asked(P | W | U | NX, Access("read", 3), MODE._replace(nxe=False, smap=False))
    assert (found.cause, found.error_code, found.also) == ("reserved-bit", 0xD, (0xC,))
    assert found.explains(0xC) and found.explains(0xD) and not found.explains(0x5)
    wide = _asked(P | W | U | 1 << 45, Access("read", 3), width=40)
    assert (wide.cause, wide.error_code) == ("reserved-bit", 0xD)
    assert _asked(P | W | U | 1 << 45, Access("read", 3)).allowed, "no width known, none judged"
    tables, root = _space(P | W, level=3)
    one = walk(tables, root, VA)
    assert verdict(one, Access("read", 0), MODE).allowed
    without = verdict(one, Access("read", 0), MODE, Processor(gigabyte_pages=False))
    assert without.cause == "reserved-bit"


def test_a_reserved_bit_above_goes_before_a_table_we_do_not_have() -> None:
    writer = TableWriter()
    root = writer.new_table()
    writer.set(root, 0, 1 << 45 | P | W | U)
    one = walk(Tables(writer.memory()), root, VA)
    assert one.reason == "unreadable"
    assert verdict(one, Access("read", 0), MODE).allowed is None, "what it leads to is not known"
    assert verdict(one, Access("read", 0), MODE, Processor(width=40)).cause == "reserved-bit"


def test_non_canonical_is_no_page_fault() -> None:
    one = walk(Tables(TableWriter().memory()), 0, 0x8000_0000_0000)
    for stack, vector in ((False, 13), (True, 12)):
        found = verdict(one, Access("read", 0, stack=stack), MODE)
        assert (found.cause, found.vector, found.error_code) == ("non-canonical", vector, 0)


def test_protection_keys() -> None:
    mode = MODE._replace(pke=True, smap=False)
    page = P | W | U | 5 << 59
    denied, read_only = 1 << 10, 2 << 10
    assert _asked(page, Access("read", 3), mode, pkru=denied).error_code == 0x25
    assert _asked(page, Access("write", 3), mode, pkru=read_only).error_code == 0x27
    assert _asked(page, Access("read", 3), mode, pkru=read_only).allowed
    assert _asked(page, Access("write", 0), mode, pkru=read_only).cause == "pkey"
    no_wp = mode._replace(wp=False)
    assert _asked(page, Access("write", 0), no_wp, pkru=read_only).allowed
    assert _asked(page, Access("fetch", 3), mode, pkru=denied).allowed
    assert _asked(P | W | 5 << 59, Access("read", 0), mode, pkru=denied).allowed
    unknown = _asked(page, Access("read", 3), mode)
    assert unknown.allowed and unknown.assumed == ("PKRU",)
    both = _asked(P | U | 5 << 59, Access("write", 3), mode, pkru=read_only)
    assert (both.causes, both.error_code) == (("write-protected", "pkey"), 0x27)


def test_an_unknown_efer_is_said_where_it_matters() -> None:
    mode = MODE._replace(nxe=None)
    assert _asked(P | NX, Access("fetch", 0), mode).assumed == ("EFER.NXE",)
    assert _asked(P, Access("fetch", 0), mode).assumed == ()


def _manual(flags: int, access: Access, mode: PagingMode) -> int | None:
    """SDM vol. 3, 4.6.1 and 4.7 for a page whose other levels allow all; None: no fault."""
    w, u, nx = flags & W, flags & U, flags & NX
    user_mode = access.cpl == 3 and not access.implicit
    code = (2 if access.kind == "write" else 0) + (4 if user_mode else 0)
    if access.kind == "fetch" and (mode.nxe or mode.smep):
        code += 16
    if not flags & P:
        return code
    if nx and not mode.nxe:
        return code + 9
    if user_mode:
        right = {"read": u, "write": u and w, "fetch": u and not nx}[access.kind]
    elif access.kind == "fetch":
        right = not nx and (not u or not mode.smep)
    else:
        shielded = u and mode.smap and (access.implicit or not access.ac)
        right = not shielded and (access.kind == "read" or w or not mode.wp)
    return None if right else code + 1


def test_all_combinations_as_the_manual_has_them() -> None:
    kinds = ("read", "write", "fetch")
    for flags in (p | w | u | n for p, w, u, n in product((0, P), (0, W), (0, U), (0, NX))):
        tables, root = _space(flags)
        one = walk(tables, root, VA)
        for nxe, wp, smep, smap in product((True, False), repeat=4):
            mode = PagingMode(4, nxe, wp, smep, smap, False)
            for kind, cpl, implicit, ac in product(kinds, (0, 3), (False, True), (False, True)):
                access = Access(kind, cpl, implicit, ac)
                found = verdict(one, access, mode)
                assert found.error_code == _manual(flags, access, mode), (flags, access, mode)


def test_the_fault_of_a_real_kernel() -> None:
    """A copy-on-write fault of Breenix: what the CPU pushed is what we say."""
    name = "breenix-head-cow-fault"
    truth: Any = truth_of(name)
    stop = open_snapshot(capture(name) / "core.elf")
    cpu = stop.cpu
    assert cpu.root is not None and cpu.paging is not None
    one = walk(Tables(stop.memory), cpu.root, cpu.registers["cr2"])
    found = verdict(one, Access("write", 3), cpu.paging)
    assert found.error_code == int(truth["stop"]["frame"]["error_code"], 16)
    assert found.cause == "write-protected" and found.entry is not None
    assert "AVL9" in found.entry.flags, "Breenix's mark of copy-on-write"
