"""The kernel as found in the captures: roots, roles, stacks, per-CPU blocks, against the truth."""

from __future__ import annotations

from typing import Any

import pytest

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.kernel.breenix.layout import KERNEL_STACKS
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.snapshot.opening import open_snapshot
from tests.unit.captures import BREENIX, LINUX, capture, truth_of

TLS_OF_THE_KERNEL = KERNEL_STACKS + 0x3000_0000  # 2026: in the same slot, no stack (layout.rs)


def kernel_of(name: str) -> Kernel:
    return Kernel(open_snapshot(capture(name) / "core.elf"))


def _hex(value: str) -> int:
    return int(value, 16)


@pytest.mark.parametrize("name", BREENIX)
def test_every_root_is_found_and_nothing_else(name: str) -> None:
    truth: Any = truth_of(name)
    found = {(s.root, s.role) for s in kernel_of(name).spaces}
    assert found == {
        (_hex(truth["master_pml4"]), "master"),
        (_hex(truth["bootloader_pml4"]), "boot"),
        *((_hex(root), "process") for root in truth["process_pml4s"]),
    }


@pytest.mark.parametrize("name", BREENIX)
def test_live_needs_a_second_witness(name: str) -> None:
    truth: Any = truth_of(name)
    alive = {s.root for s in kernel_of(name).spaces if s.live}
    assert alive == {_hex(truth["master_pml4"]), _hex(truth["registers"]["cr3"]) & ~0xFFF}
    assert all(s.live is not False for s in kernel_of(name).spaces), "nothing says who is dead"


@pytest.mark.parametrize("name", LINUX)
def test_linux_has_roots_and_no_breenix(name: str) -> None:
    truth: Any = truth_of(name)
    kernel = kernel_of(name)
    assert not kernel.is_breenix and kernel.master is None
    assert not kernel.stacks and kernel.era is None
    assert {_hex(r["root"]) for r in truth["roots"]} == {s.root for s in kernel.spaces}
    assert {s.root for s in kernel.audited} == {c.root for c in kernel.stop.cpus}


@pytest.mark.parametrize("name", [n for n in BREENIX if n != "breenix-first-gp"])
def test_stacks_are_those_of_the_tables(name: str) -> None:
    truth: Any = truth_of(name)
    told = {(_hex(low), _hex(high)) for low, high in truth["stacks"]}
    told -= {pair for pair in told if pair[0] >= TLS_OF_THE_KERNEL}
    kernel = kernel_of(name)
    assert {(s.bottom, s.top) for s in kernel.stacks} == told
    assert all(s.guard == s.bottom - 0x1000 for s in kernel.stacks)


def test_stacks_of_the_first_fault() -> None:
    """Measured on the running kernel: ten stacks at base + i * 0x11000 + 0x1000, ten slots."""
    stacks = kernel_of("breenix-first-gp").stacks
    assert [(s.bottom, s.top) for s in stacks] == [
        (KERNEL_STACKS + i * 0x11000 + 0x1000, KERNEL_STACKS + (i + 1) * 0x11000) for i in range(10)
    ]


@pytest.mark.parametrize("name", [n for n in BREENIX if n != "breenix-first-gp"])
def test_ist_and_tss(name: str) -> None:
    truth: Any = truth_of(name)
    kernel = kernel_of(name)
    tss = kernel.tss[0]
    assert [hex(top) for top in tss.ist] == truth["tss"]["ist"]
    assert hex(tss.rsp0) == truth["tss"]["rsp0"]
    tops = [_hex(top) for top in truth["tss"]["ist"] if _hex(top)]
    assert [s.top for s in kernel.ist] == tops
    low, high = (_hex(edge) for edge in truth["ist_stacks"][0])
    assert kernel.ist[0].bottom == low and kernel.ist[-1].top == high
    assert [s.name for s in kernel.ist] == ["IST1 (#DF)", "IST2 (#PF)"]


@pytest.mark.parametrize("name", [n for n in BREENIX if n != "breenix-first-gp"])
def test_per_cpu_block(name: str) -> None:
    truth: Any = truth_of(name)
    (block,) = kernel_of(name).percpus
    told = truth["per_cpu"]
    fields = ("base", "kernel_stack_top", "tss", "next_cr3", "kernel_cr3", "saved_process_cr3")
    assert {name: hex(getattr(block, name)) for name in fields} == {n: told[n] for n in fields}


@pytest.mark.parametrize("name", BREENIX)
def test_gates(name: str) -> None:
    truth: Any = truth_of(name)
    gates = kernel_of(name).gates
    told = {int(vector): gate for vector, gate in truth["gates"].items()}
    assert set(gates) == set(told)
    for vector, gate in gates.items():
        assert hex(gate.offset) == told[vector]["handler"]
        assert gate.ist == told[vector]["ist"]


@pytest.mark.parametrize(
    ("name", "era"),
    [
        ("breenix-first-gp", "2025"),
        ("breenix-seed-syscall", "2025"),
        ("breenix-head-cow-fault", "2026"),
    ],
)
def test_the_era_is_recognised_by_its_stacks(name: str, era: str) -> None:
    kernel = kernel_of(name)
    assert kernel.era is not None and kernel.era.name == era
    assert kernel.frames_come_back == (era == "2026")


@pytest.mark.parametrize("name", BREENIX)
def test_what_is_shared_by_design_is_learned(name: str) -> None:
    slots = kernel_of(name).ledger.slots
    assert slots is not None
    # Image, bootstrap stack, framebuffer, physmap, BootInfo, heap, and the whole upper half.
    assert slots.slots == (1, 2, 3, 4, 5, 136, *range(256, 512))


@pytest.mark.parametrize("name", BREENIX)
def test_merged_ranges_of_one_slot(name: str) -> None:
    kernel = kernel_of(name)
    assert kernel.master is not None
    ranges = kernel.ranges(kernel.master.root, 402)
    covered = {
        page for r in ranges for page in range(r.start, r.end, 0x1000) if page < TLS_OF_THE_KERNEL
    }
    assert covered == {page for stack in kernel.stacks for page in stack.pages}
    assert all(r.w and r.nx and not r.u for r in ranges)


@pytest.mark.parametrize("name", BREENIX)
def test_who_maps_the_top_of_a_stack(name: str) -> None:
    kernel = kernel_of(name)
    stack = kernel.stacks[0]
    assert kernel.master is not None
    pa = kernel.walk(kernel.master.root, stack.top - 8).pa
    assert pa is not None
    found = kernel.ledger.who(PhysAddr(pa))
    assert {(m.root, m.va) for m in found.mappings if m.level == 1} >= {
        (s.root, stack.top - 8) for s in kernel.audited
    }
    assert not found.tables
