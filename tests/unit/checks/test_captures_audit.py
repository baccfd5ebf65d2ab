"""What the audit says of the captures: of the real kernel what its source proves, of Linux nothing.

The proofs, at 5e422583 (2025) and ad84625c (2026):

- `kernel-stack.executable` of both IST stacks: kernel/src/memory/per_cpu_stack.rs maps them
  PRESENT | WRITABLE, without NO_EXECUTE, in both.
- `shared-table.user` through the master (2025): kernel/src/memory/stack.rs maps user stacks in the
  CR3 of the moment, the master's; ProcessPageTable::new (process_memory.rs, `for i in 1..256`)
  copies PML4[255] from the master with all other entries. Mended by a43d6d48.
- `frame.beyond-ram` in PML4[2] (2025): create_process (process/manager.rs, `control_start`) maps
  0x100000f0000-0x100000f4000 with physical == virtual. Mended by 12d1b7de.
"""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.examine import Examination, examine
from breenix_gdbagent.checks.reasons import State
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.wording.reasons import reason_words
from breenix_gdbagent.run_report import document_of
from breenix_gdbagent.snapshot.opening import open_snapshot
from tests.said import evidence
from tests.schema import validate
from tests.unit.captures import BREENIX, LINUX, capture
from tests.unit.checks.mutation import saved

IST = {"kernel-stack.executable@IST1", "kernel-stack.executable@IST2"}
SEED = IST | {"shared-table.user@master", "frame.beyond-ram@PML4[2]"}
PROVED = {
    "breenix-first-gp": SEED,
    "breenix-seed-syscall": SEED,
    "breenix-head-cow-fault": IST,
}


def status(found: Examination, name: str) -> str:
    return next(c.status for c in found.checks if c.name == name)


@pytest.mark.parametrize("name", BREENIX)
def test_only_what_the_source_proves(name: str) -> None:
    found = examine(saved(name))
    assert {f.fingerprint for f in found.findings if f.effective_severity != "info"} == PROVED[name]


@pytest.mark.parametrize("name", LINUX)
def test_nothing_is_wrong_with_linux(name: str) -> None:
    found = examine(saved(name))
    assert not [f.fingerprint for f in found.findings if f.effective_severity != "info"]
    for generic in ("page-tables", "frames-in-ram", "frames-of-tables", "descriptor-tables"):
        assert status(found, generic) == "passed"
    for breenix in ("kernel-stacks", "shared-tables", "cr3", "heap"):
        assert status(found, breenix) == "not_checked"
    for by_registers in ("kernel-slots", "tss", "stack-place"):
        assert status(found, by_registers) != "failed"
    assert status(found, "stack-place") == "passed"


@pytest.mark.parametrize("name", BREENIX)
def test_what_a_core_lacks_is_not_checked(name: str) -> None:
    """No RAM map, no ELF, no bottom of any stack: said, and never passed."""
    found = examine(open_snapshot(capture(name) / "core.elf"))
    for lacking in ("frames-in-ram", "frames-allocator", "heap", "stack-depth", "processes"):
        assert status(found, lacking) == "not_checked"
    reasons = {c.name: c.reason for c in found.checks if c.status == "not_checked"}
    assert all(reason is not None and reason_words(reason) for reason in reasons.values())
    assert reasons["frames-in-ram"] is State.END_OF_RAM_NOT_KNOWN


def test_the_shared_table_is_the_masters() -> None:
    found = examine(saved("breenix-seed-syscall"))
    (shared,) = [f for f in found.findings if f.code.name == "shared-table.user"]
    kernel = Kernel(saved("breenix-seed-syscall"))
    assert kernel.master is not None
    master = kernel.tables.table(kernel.master.root)[255] & 0x000F_FFFF_FFFF_F000
    assert shared.where.pa == master
    # The first process was made before the master had a user stack to copy.
    named = {row["pid"] for row in evidence(shared)["spaces"]}  # type: ignore[union-attr, index]
    assert named == {None, 2, 3, 4, 5}


@pytest.mark.parametrize("name", [*BREENIX, *LINUX])
def test_the_document_is_one_that_the_schema_describes(name: str) -> None:
    stop = open_snapshot(capture(name) / "core.elf")
    validate(document_of(stop, None, {"kind": "snapshot", "kernel": None}).to_json())
