"""Rust names, legacy and v0; `c++filt` is the judge where binutils is at hand."""

from __future__ import annotations

import random
import re
import shutil
import subprocess

import pytest

from breenix_gdbagent.symbols.demangle import components, demangle

NAMES = dict(
    [
        (
            "_ZN6kernel10interrupts18page_fault_handler17h0123456789abcdefE",
            "kernel::interrupts::page_fault_handler",
        ),
        (
            (
                "_ZN60_$LT$alloc..string..String$u20$as$u20$core..fmt..Display$GT$3fmt17h0123456789ab"
                "cdefE"
            ),
            "<alloc::string::String as core::fmt::Display>::fmt",
        ),
        (
            (
                "_ZN4core3ptr42drop_in_place$LT$alloc..string..String$GT$17h0123456789abcdefE.llvm.12"
                "3"
            ),
            "core::ptr::drop_in_place<alloc::string::String>",
        ),
        (
            "_RNvNtCs2La8Fr68ogn_6kernel10interrupts20double_fault_handler",
            "kernel::interrupts::double_fault_handler",
        ),
        (
            "_RNCNCNvNtCs2La8Fr68ogn_6kernel6serial9try_print00B7_",
            "kernel::serial::try_print::{closure#0}::{closure#0}",
        ),
        (
            (
                "_RINvNtCseg3CTUvUwHq_4core3ptr13drop_in_placeINtNtCshHflCQborB5_4spin5mutex10MutexGu"
                "ardAyj4_EECs2La8Fr68ogn_6kernel"
            ),
            "core::ptr::drop_in_place::<spin::mutex::MutexGuard<[u64; 4]>>",
        ),
        (
            (
                "_RNvMsY_NtNtNtCsczj8XfDX2nW_5alloc11collections5btree4nodeINtB5_7NodeRefNtNtB5_6mark"
                "er3MutNtNtCs2La8Fr68ogn_6kernel4task6TaskIdNtB1r_4TaskNtB19_14LeafOrInternalE16choos"
                "e_parent_kvB1t_"
            ),
            (
                "<alloc::collections::btree::node::NodeRef<alloc::collections::btree::node::marker::M"
                "ut, kernel::task::TaskId, kernel::task::Task, "
                "alloc::collections::btree::node::marker::LeafOrInternal>>::choose_parent_kv"
            ),
        ),
        (
            "_RNvXCs1_4demoINtB2_3FooDG_INtNtB2_4TokeRL0_hEL_FUKCjEuTlmERShQeE4Bar",
            "_RNvXCs1_4demoINtB2_3FooDG_INtNtB2_4TokeRL0_hEL_FUKCjEuTlmERShQeE4Bar",
        ),
        (
            "syscall_entry",
            "syscall_entry",
        ),
        (
            "_ZN3foo",
            "_ZN3foo",
        ),
        (
            "_ZN99999999999999foo17h0123456789abcdefE",
            "_ZN99999999999999foo17h0123456789abcdefE",
        ),
        (
            "_R",
            "_R",
        ),
        (
            "_RNv",
            "_RNv",
        ),
        (
            "_RB_",
            "_RB_",
        ),
    ]
)


@pytest.mark.parametrize(("raw", "path"), NAMES.items())
def test_names(raw: str, path: str) -> None:
    assert demangle(raw) == path


def test_equal_to_cxxfilt() -> None:
    if shutil.which("c++filt") is None:
        pytest.skip("no c++filt (binutils) to judge by")
    raws = [r for r, path in NAMES.items() if r != path and ".llvm." not in r]
    out = subprocess.run(
        ["c++filt", "-s", "rust"], input="\n".join(raws), text=True, capture_output=True, check=True
    ).stdout.splitlines()
    for raw, theirs in zip(raws, out, strict=True):
        theirs = re.sub(r"::h[0-9a-f]{16}$|\[[0-9a-f]{5,16}\]", "", theirs)
        theirs = re.sub(r"(; \d+): usize", r"\1", theirs)
        assert demangle(raw) == theirs


def test_hostile_names_end_quickly() -> None:
    rng = random.Random(3)
    alphabet = "CNMXYIBRQPOSATFDEvs_0123456789abK"
    for _ in range(3000):
        raw = "_R" + "".join(rng.choice(alphabet) for _ in range(rng.randrange(200)))
        assert isinstance(demangle(raw), str)
    # Each level doubles what the one before it printed: 2**40 characters if nothing bounds it.
    bomb, at = "_RIC1a", []
    for _ in range(40):
        at.append(len(bomb) - 2)
        back = f"B{_base62(at[-2])}" if len(at) > 1 else "h"
        bomb += f"T{back}{back}E"
    bomb += "E"
    assert demangle(bomb) == bomb
    assert demangle("_RNv" + "RIS" * 5000) == "_RNv" + "RIS" * 5000


def _base62(value: int) -> str:
    if value == 0:
        return "_"
    value -= 1
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    digits = ""
    while True:
        digits = alphabet[value % 62] + digits
        value //= 62
        if not value:
            return digits + "_"


def test_components() -> None:
    assert components("a::B<u8>::c::<T>") == ("a", "B", "c")
    assert components("<a::B as c::D>::fmt") == ("<a::B as c::D>", "fmt")
    assert components("<a::B<c::D>>::fmt") == ("a", "B", "fmt")
    assert components("<[T]>::len") == ("[T]", "len")
    assert components("f::{closure#0}") == ("f", "{closure#0}")
    assert components("x::<fn() -> y::Z>::w") == ("x", "w")
    assert components("") == ()
