"""``print`` and its like on the lab guest, against the guest's own word."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from breenix_gdbagent.evaluation.values import value_of
from breenix_gdbagent.symbols.tree_text import one_line
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu
from tests.guest.stopped_lab import StoppedLab, stopped

pytestmark = needs_qemu

SHAPES = "kernel::scenarios::shapes::SHAPES"
# Where we show more than Debug does of what the guest hands out: the value inside a Once or lock.
SHOWN = {"once": "Some(77)", "nothing": "None", "locked": "Some(Busy)"}


@pytest.fixture(scope="module")
def shapes() -> Iterator[StoppedLab]:
    with stopped("shapes", 2025) as found:
        yield found


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("names") / "shapes"
    result = agent("snapshot", "--lab", "shapes", "--until", "LAB COMPLETE", "-o", str(file))
    assert result.code == 0, result.err
    return file


def in_debug_form(text: str) -> str:
    """Our text with numbers as Debug writes them."""
    return re.sub(r"\b0x[0-9a-f]+\b", lambda found: str(int(found[0], 16)), text)


def test_every_shape_is_what_the_guest_says(shapes: StoppedLab) -> None:
    told = shapes.told("value")
    assert len(told) == 47
    kernel = shapes.kernel()
    for line in told:
        path = line["path"]
        shown = one_line(value_of(kernel, f"{SHAPES}.{path}"))
        if path in SHOWN:
            assert line["debug"] == SHOWN[path]
            continue
        assert in_debug_form(shown) == line["debug"], path
    assert one_line(value_of(kernel, f"{SHAPES}.once")) == "77"
    assert one_line(value_of(kernel, f"{SHAPES}.nothing")) == "<not initialised>"
    assert (
        one_line(value_of(kernel, f"{SHAPES}.locked"))
        == "Mutex { lock: 0 (free), data: Some(Busy) }"
    )


def test_print_on_a_snapshot(snapshot: Path) -> None:
    from_file = ("--snapshot", str(snapshot))
    whole = agent("print", *from_file, SHAPES)
    assert whole.code == 0 and whole.out.startswith("Mutex {\n  lock: 0 (free),\n")
    assert agent("print", *from_file, f"{SHAPES}.tree[130].name").out == '"item 13"\n'
    one = agent("print", *from_file, "--json", f"{SHAPES}.tree[160]").document
    assert one["value"]["wide"] == 16 << 100 and one["value"]["result"] == {"Ok": 16}
    assert one["value"]["deep"] == {"Some": None} and one["value"]["flag"] is False
    gone = agent("print", *from_file, f"{SHAPES}.nosuch")
    assert gone.code == 1 and "nosuch" in gone.out


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Processes that have run and were preempted, stopped at a fault in a system call of one."""
    file = tmp_path_factory.mktemp("names") / "running"
    result = agent("snapshot", "--lab", "guard-page", "-o", str(file))
    assert result.code == 1, result.err
    return file


def test_a_thread_is_followed_from_the_copy_with_its_registers(running: Path) -> None:
    from_file = ("--snapshot", str(running), "--json")
    rows = json.loads(agent("threads", *from_file).out)
    saved = {r["id"]: r["rip"] for r in rows if r["copy"] == "process"}
    traces = json.loads(agent("bt", "--all", *from_file).out)
    followed = {
        int(t["of"].split()[1]): t["frames"][0]["pc"]
        for t in traces
        if t["of"].startswith("thread") and t["frames"]
    }
    assert set(saved) & set(followed)
    assert {i: saved[i] for i in saved if i in followed} == {
        i: pc for i, pc in followed.items() if i in saved
    }
    assert [t["of"] for t in traces if t["of"].startswith("CPU")] == ["CPU 0"]


def test_without_types_it_is_said_what_is_missing(running: Path) -> None:
    """Neither serial text nor tables name the lab's pids (Breenix's text does: tests/breenix)."""
    stripped = str(resources.files("breenix_gdbagent") / "lab" / "labguest-stripped.elf")
    from_file = ("--snapshot", str(running), "--kernel", stripped)
    by_pid = agent("bt", "--pid", "2", *from_file)
    assert by_pid.code == 1
    assert "no debug information" in by_pid.out and "names a process 2" in by_pid.out
    everything = agent("bt", "--all", *from_file)
    assert everything.code == 0 and "[simulated]" in everything.out
    assert "threads\n     not checked: the kernel's ELF has no debug information" in everything.out
    for command in ("ps", "threads"):
        said = agent(command, *from_file)
        assert said.code == 0 and "not checked: the kernel's ELF has no debug" in said.out, command
    for command in ("heap", "frames", "print SCHEDULER", "type Process"):
        said = agent(*command.split(), *from_file)
        assert said.code == 1 and "no debug information" in said.out, command
    with_types = json.loads(agent("bt", "--snapshot", str(running), "--json").out)
    without = json.loads(agent("bt", *from_file, "--json").out)
    places = [
        [(f["pc"], f["sp"], f["ring"]) for f in t[0]["frames"]] for t in (with_types, without)
    ]
    assert places[0] == places[1] and len(places[0]) > 60, "the recursion, with and without DWARF"


def test_before_the_kernel_has_loaded_its_idt() -> None:
    """The ELF is known, only not where it runs: names that need no place have their answer."""
    said = agent("shell", "--lab", "-c", "print kernel::task::scheduler::SCHEDULER")
    assert "not known yet" in said.out + said.err and "continue" in said.out + said.err
    assert "no kernel ELF" not in said.out + said.err
    listed = agent("shell", "--lab", "-c", "list kernel_main")
    assert "main.rs" in listed.out
    shape = agent("shell", "--lab", "-c", "type kernel::process::process::Process")
    assert shape.out.startswith("struct kernel::process::process::Process")


def test_source_that_is_not_there_and_source_that_is(snapshot: Path) -> None:
    from_file = ("--snapshot", str(snapshot))
    bare = agent("list", *from_file, "kernel_main")
    assert "main.rs" in bare.out and "--source DIR" in bare.out
    guest = Path(__file__).parents[2] / "fixtures" / "labguest"
    for directory in (guest, guest / "src"):
        shown = agent("list", *from_file, "kernel_main", "--source", str(directory))
        assert ">" in shown.out and "fn kernel_main" in shown.out
    line = agent("list", *from_file, "main.rs:45", "--source", str(guest))
    assert ">   45 " in line.out


def test_the_bottom_of_a_stack_is_said(snapshot: Path) -> None:
    ended = agent("bt", "--snapshot", str(snapshot)).out
    assert "no more: idle_loop began at the top of slot" in ended


def test_types_by_the_end_of_their_path_and_of_statics(snapshot: Path) -> None:
    from_file = ("--snapshot", str(snapshot), "--json")
    whole = agent("type", "kernel::process::process::Process", *from_file).document
    assert agent("type", "Process", *from_file).document == whole
    assert {"name", "state", "page_table"} <= {m["name"] for m in whole["members"]}
    manager = agent("type", "PROCESS_MANAGER", *from_file).document
    assert manager["type"].startswith("kernel::sync::Mutex<")
    assert agent("type", "NoSuchType", *from_file).code == 1


def test_a_file_of_debug_information_alone(running: Path, tmp_path: Path) -> None:
    """It has no code to compare: its build id says whether it is of the kernel that runs."""
    objcopy = shutil.which("objcopy")
    if objcopy is None:
        pytest.skip("no objcopy on this machine")
    elf = Path(str(resources.files("breenix_gdbagent") / "lab" / "labguest.elf"))
    alone = tmp_path / "debug"
    subprocess.run([objcopy, "--only-keep-debug", str(elf), str(alone)], check=True)
    bare, debug = (
        json.loads(agent("bt", "--snapshot", str(running), "--kernel", str(e), "--json").out)
        for e in (elf, alone)
    )
    assert debug == bare and len(bare[0]["frames"]) > 60
    data = alone.read_bytes()
    note = data.find(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0") + 16
    assert note > 16
    other = tmp_path / "other"
    other.write_bytes(data[:note] + bytes(20) + data[note + 20 :])
    refused = agent("bt", "--snapshot", str(running), "--kernel", str(other))
    assert refused.code == 2 and "is not the" in refused.err


def test_a_command_imports_what_it_needs(snapshot: Path) -> None:
    """Start-up is paid at every call: a walk reads no DWARF, a backtrace no values."""

    def imported(*arguments: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "breenix_gdbagent", *arguments],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    symbols, from_file = "breenix_gdbagent.symbols.", ("--snapshot", str(snapshot))
    walk = imported("pt", "walk", "kernel_main", *from_file)
    assert symbols + "symtab" in walk
    assert not {symbols + m for m in ("dwarf", "dwarf_index", "values", "cfi", "lines")} & walk
    bt = imported("bt", *from_file)
    assert symbols + "cfi" in bt and symbols + "values" not in bt
    assert "breenix_gdbagent.kernel.processes" not in bt
