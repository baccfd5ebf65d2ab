"""What an address is called."""

from __future__ import annotations

import pytest

from breenix_gdbagent.checks.faults.address_kind import direct_map_base, kind_of
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.wording.addresses import address
from breenix_gdbagent.stop import StopReason
from tests.writers.machine import (
    CODE,
    DIRECT_MAP,
    GDT,
    HEAP,
    IDT,
    IST,
    PERCPU,
    STACKS,
    TEXT,
    TSS,
    USER_STACK,
    Machine,
    stack_top,
)


def kernel() -> Kernel:
    m = Machine()
    cpu = m.cpu(rip=TEXT, rsp=stack_top(1) - 64, cs=8, ss=0, eflags=2)
    return Kernel(m.stop(StopReason("attached"), cpu))


@pytest.mark.parametrize(
    ("va", "name", "words"),
    [
        (0x8, "null-page", "null pointer"),
        (1 << 63, "non-canonical", "canonical"),
        (STACKS + 0x11000 + 8, "guard-page", "slot 1 (the current thread's on CPU 0)"),
        (STACKS + 8, "guard-page", "slot 0"),
        (stack_top(1) - 8, "kernel-stack", "slot 1"),
        (stack_top(1), "guard-page", "slot 2"),
        (STACKS + 9 * 0x11000 + 0x1000, "kernel-stack", "not in use"),
        (IST + 8, "ist-stack", "IST1 (#DF)"),
        (IST + 0x2008, "ist-stack", "IST2 (#PF)"),
        (IST - 16, "below-ist-stack", "IST1 (#DF)"),
        (GDT + 8, "gdt", "GDT"),
        (IDT + 8, "idt", "IDT"),
        (TSS + 8, "tss", "TSS"),
        (PERCPU + 8, "per-cpu", "per-CPU"),
        (HEAP + 0x5000, "kernel-heap", "heap"),
        (HEAP + (1 << 30), "kernel-memory", "beside the heap"),
        (TEXT + 0x9000, "kernel-image", "image"),
        (DIRECT_MAP + 0x1234, "direct-map", "physical 0x1234"),
        (CODE, "user-memory", "init (pid 1)"),
        (USER_STACK, "user-stack", "init (pid 1)"),
        (0xFFFF_8000_0000_0000, "kernel-memory", "nothing known"),
    ],
)
def test_names(va: int, name: str, words: str) -> None:
    found = kind_of(kernel(), va)
    assert found.name == name
    assert words in address(found)


def test_the_direct_map_is_found_by_what_it_maps() -> None:
    assert direct_map_base(kernel()) == DIRECT_MAP


def test_in_another_space_user_memory_is_that_process() -> None:
    view = kernel()
    shell = next(s for s in view.spaces if s.name == "shell")
    assert "shell (pid 2)" in address(kind_of(view, CODE, shell.root))
