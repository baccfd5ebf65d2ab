"""Adapters: which one a kernel has, and what it says of findings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import pytest

from breenix_gdbagent import configs, targets
from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.finding import CODES
from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.kernel import adapters
from breenix_gdbagent.kernel.adapter import Adapter, Advice, Layout
from breenix_gdbagent.kernel.adapters import BREENIX, GENERIC
from breenix_gdbagent.kernel.described import described
from breenix_gdbagent.kernel.stacks import Era
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report.advice import code_of
from breenix_gdbagent.report.document import RunRecord
from breenix_gdbagent.run_report import build
from breenix_gdbagent.snapshot.opening import open_snapshot
from breenix_gdbagent.snapshot.saving import save_snapshot
from breenix_gdbagent.stop import AdapterSource
from breenix_gdbagent.x86.paging import Tables, walk
from tests.writers.machine import NX, PERCPU, SLOT, STACKS, TEXT
from tests.writers.machine import Machine as MadeMachine
from tests.writers.tables import P, W

OF_BREENIX = re.compile(r"Breenix|ProcessPageTable|kernel/src|\.rs\b|gs:\[|PML4\[\d|STACK_BITMAP")


def test_each_word_of_breenix_is_about_a_code_that_there_is() -> None:
    assert set(BREENIX.advice) <= set(all_codes())
    assert any(advice.see for advice in BREENIX.advice.values())


@pytest.mark.parametrize("name", sorted(all_codes()))
def test_what_a_code_says_by_itself_holds_for_any_kernel(name: str) -> None:
    code = CODES[name]
    for text in (code.title, code.arises, code.confirm, code.mend):
        assert not OF_BREENIX.search(text), text
    assert code_of(name, "none") == code and code_of(name, "no such kernel") == code


def test_a_kernel_without_an_adapter_is_told_nothing_of_breenix() -> None:
    machine = MadeMachine()
    assert Kernel(machine.fault(3, TEXT, ring=0)).adapter is BREENIX
    machine.write(PERCPU, bytes(0x60))
    kernel = Kernel(machine.fault(3, TEXT, ring=0))
    assert kernel.adapter is GENERIC
    told = build({"kind": "snapshot"}, RunRecord(), examine(kernel.stop, kernel)).to_json()
    assert told["adapter"] == "none"
    assert all(not f["see"] and not OF_BREENIX.search(f["fix"]) for f in told["findings"])


# A kernel of somebody else's -------------------------------------------------------------------

TOML = f"""
name = "shoebox"
panic = ["kpanic"]
source = "src"
[handlers]
14 = "pf_entry"
[stacks]
start = {STACKS:#x}
size = 0x8000
guard = 0x2000
count = 3
[markers]
success = "SHOEBOX OK"
[exit]
success = [7]
[see]
page-fault = ["mm/fault.c"]
"page-fault.null" = ["null.c"]
[mend]
"page-fault.null" = "Look into the shoebox."
"""


class Shoebox(Adapter):
    """A kernel with code of its own: all that is asked of one."""

    name = "shoebox"
    eras = (Era("shoebox", STACKS, 0x8000, 3, STACKS + 3 * 0xA000, 0x2000),)
    layout = Layout(kernel_stacks=range(STACKS, STACKS + 3 * 0xA000))
    advice: ClassVar = {
        "page-fault.null": Advice(mend="Look into the shoebox.", see=("src/null.c",))
    }


def foreign() -> MadeMachine:
    """A machine without anything of Breenix's, with one stack of 0x8000 bytes above a guard."""
    machine = MadeMachine()
    machine.write(PERCPU, bytes(0x60))
    for va in range(STACKS, STACKS + 2 * SLOT, 0x1000):
        if walk(Tables(machine.memory()), machine.master, va).mapped:
            machine.unmap(va, machine.master)
    for va in range(STACKS + 0x2000, STACKS + 0xA000, 0x1000):
        machine.map(va, P | W | NX, machine.master)
    return machine


@pytest.mark.parametrize("chosen", [AdapterSource("shoebox"), AdapterSource("shoebox", TOML)])
def test_nothing_else_is_asked_of_a_kernel(
    chosen: AdapterSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "_installed", lambda: (Shoebox(),))
    machine = foreign()
    stop = machine.fault(14, TEXT, ring=0, error=2, cr2=STACKS + 0x1FF8)._replace(adapter=chosen)
    kernel = Kernel(stop)
    assert kernel.adapter.name == "shoebox"
    assert [(s.name, s.bottom, s.top, s.guard) for s in kernel.stacks] == [
        ("slot 0", STACKS + 0x2000, STACKS + 0xA000, STACKS)
    ]
    seen = examine(stop, kernel)
    (fault,) = [f for f in seen.findings if f.code.kind == "event"]
    assert fault.code.name == "page-fault.guard-page"
    told = build({"kind": "snapshot"}, RunRecord(), seen).to_json()
    assert told["adapter"] == "shoebox"
    assert not any(OF_BREENIX.search(str(f["fix"])) for f in told["findings"])
    assert {c.status for c in seen.checks if c.name in ("heap", "processes")} == {"not_checked"}


def test_what_is_said_of_a_null_pointer_there() -> None:
    stop = foreign().fault(14, TEXT, ring=0, error=0, cr2=8)
    kernel = Kernel(stop._replace(adapter=AdapterSource("shoebox", TOML)))
    told = build({"kind": "snapshot"}, RunRecord(), examine(kernel.stop, kernel)).to_json()
    (fault,) = [f for f in told["findings"] if f["code"] == "page-fault.null"]
    assert (fault["fix"], fault["see"]) == ("Look into the shoebox.", ["src/null.c"])
    assert kernel.adapter.advice_for("page-fault.smap").see == ("src/mm/fault.c",)


def test_an_installed_adapter_is_found_by_what_it_recognises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapters, "_installed", lambda: (Shoebox(),))
    assert Kernel(foreign().fault(14, TEXT, ring=0, cr2=8)).adapter.name == "shoebox"
    assert Kernel(MadeMachine().fault(3, TEXT, ring=0)).adapter is BREENIX
    assert adapters.source_of("shoebox") == AdapterSource("shoebox")


def test_a_choice_that_is_none() -> None:
    with pytest.raises(InputError, match="no adapter 'shoebox'"):
        adapters.source_of("shoebox")
    with pytest.raises(InputError, match="cannot read"):
        adapters.source_of("/nowhere/shoebox.toml")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "name is no text"),
        ('name = "x"\ncolour = 1', "unknown key colour"),
        ('name = "x"\n[stacks]\nstart = 0', "lacks size, count"),
        ('name = "x"\n[stacks]\nstart = 1\nsize = 4096\ncount = 1', "no multiple of a page"),
        ('name = "x"\n[stacks]\nstart = 0xfffffffffffff000\nsize = 8192\ncount = 9', "64 bits"),
        ('name = "x"\n[handlers]\npf = "a"', "no vector"),
        ('name = "x"\n[handlers]\n256 = "a"', "no vector"),
        ('name = "x"\npanic = "kpanic"', "no list of texts"),
        ('name = "x"\n[exit]\nsuccess = ["0"]', "no list of numbers"),
        ('name = "x"\nmarkers = 3', "no table"),
        ("name = ", "Invalid value"),
    ],
)
def test_a_file_that_describes_no_kernel(text: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        described(text)
    assert why in caught.value.why


def test_a_file_beside_a_machine(tmp_path: Path) -> None:
    kernel = (configs.directory() / "kernel.toml").read_text("utf-8")
    machine = tmp_path / "box.toml"
    machine.write_text('adapter = "shoebox.toml"\n' + kernel.partition("[markers]")[0])
    (tmp_path / "shoebox.toml").write_text(TOML)
    config = targets._config(str(machine), {})
    assert config.adapter == AdapterSource("shoebox", TOML)
    assert config.success == "SHOEBOX OK" and config.exit_success == {7}
    assert targets._config(str(machine), {"adapter": "none"}).adapter == AdapterSource("none")


def test_a_snapshot_keeps_what_was_chosen(tmp_path: Path) -> None:
    chosen = AdapterSource("shoebox", TOML)
    stop = foreign().fault(14, TEXT, ring=0, error=0, cr2=8)._replace(adapter=chosen)
    save_snapshot(stop, tmp_path / "one.core")
    assert open_snapshot(tmp_path / "one.core").adapter == chosen
