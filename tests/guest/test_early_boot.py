"""Before long mode: a state that every boot passes through, live and in QEMU's own cores."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from breenix_gdbagent.link.qmp import Qmp
from breenix_gdbagent.live import attach
from breenix_gdbagent.memory.core import ElfCore
from breenix_gdbagent.memory.elf import EM_386, EM_X86_64
from breenix_gdbagent.snapshot.opening import open_snapshot
from breenix_gdbagent.x86.core_notes import cpus_of_notes
from tests.guest.labrun import agent
from tests.guest.live_support import ELF, Beside, beside, needs_qemu

pytestmark = needs_qemu

PVH_ENTRY = 18
"""XEN_ELFNOTE_PHYS32_ENTRY: QEMU's -kernel jumps there in 32-bit mode without paging."""
NAMES = {"EIP": "rip", "ESP": "rsp", "EAX": "rax", "EBX": "rbx", "EFL": "eflags", "CR0": "cr0"}


def entry() -> int:
    """Where the lab guest begins, out of its note."""
    data = ELF.read_bytes()
    at = data.index(struct.pack("<III", 4, 8, PVH_ENTRY) + b"Xen\0")
    return int.from_bytes(data[at + 16 : at + 24], "little")


def dump(qemu: Beside, path: Path, *, paging: bool) -> dict[str, int]:
    """A core written by QEMU, and its own word on the registers."""
    qmp = Qmp(str(qemu.room / "qmp"))
    qmp.execute("dump-guest-memory", {"paging": paging, "protocol": f"file:{path}"}, 60)
    text = qmp.hmp("info registers")
    qmp.close()
    found = {k: int(v, 16) for k, v in re.findall(r"\b([A-Z0-9]{3}) ?=\s*([0-9a-f]+)", text)}
    return {ours: found[k] for k, ours in NAMES.items() if k in found}


@pytest.fixture(params=["real mode", "ring 0, paging off"])
def early(request: pytest.FixtureRequest, tmp_path: Path) -> Beside:  # type: ignore[misc]
    with beside(tmp_path, "hang", paused=True) as qemu:
        if request.param != "real mode":
            with attach(qemu.gdb, qmp=qemu.qmp) as vm:
                vm.insert(entry())
                assert vm.run_until([], 20).reason.kind == "breakpoint"
                assert vm.stop().cpu.rip == entry()
        yield qemu, request.param  # type: ignore[misc]


COMMANDS = {
    ("audit", "--json"): 0,
    ("pt", "roots"): 1,
    ("pt", "roots", "--json"): 1,
    ("pt", "map"): 2,
    ("pt", "walk", "0x1000", "--json"): 2,
    ("pt", "walk", "0x1000", "--root", "0x1000"): None,
    ("pt", "who", "0x1000"): 1,
    ("bt",): None,
    ("ps",): None,
    ("threads", "--json"): None,
    ("heap",): None,
    ("disassemble",): None,
}


def asked(command: tuple[str, ...], code: int | None, *target: str) -> str:
    result = agent(*command, *target)
    assert result.code in ((0, 1) if code is None else (code,)), (command, result)
    assert "Traceback" not in result.err and "a defect" not in result.err, result.err
    assert len(result.err.splitlines()) <= 3
    if "--json" in command and result.code < 2:
        json.loads(result.out)
    return result.out + result.err


def test_every_command_says_the_state(early: tuple[Beside, str], tmp_path: Path) -> None:
    qemu, mode = early
    targets = [("--gdb", qemu.gdb, "--qmp", qemu.qmp), ("--gdb", qemu.gdb)]
    wanted: dict[str, int] = {}
    for paging in (False, True):
        core = tmp_path / f"core-{paging}"
        wanted = dump(qemu, core, paging=paging)
        targets.append(("--snapshot", str(core)))
    ours = tmp_path / "ours"
    taken = agent("snapshot", "--now", "-o", str(ours), *targets[0], "--json")
    assert taken.code == 0, taken.err
    targets.append(("--snapshot", str(ours)))
    for number, target in enumerate(targets):
        for command, code in list(COMMANDS.items())[number % 2 :: 2]:
            said = asked(command, code, *target)
            if command == ("pt", "map"):
                assert f"CPU 0 is in {mode}: early boot" in said
        document = agent("audit", "--json", *target).document
        assert document["findings"] == []
        (cpu,) = document["stops"][0]["cpus"]
        assert int(cpu["rip"], 16) == wanted["rip"]
        assert int(cpu["cr0"], 16) == wanted["cr0"]
        assert cpu["cpl"] == 0
        statuses = {c["name"]: c["status"] for c in document["checks"]}
        for name in (
            "faults",
            "page-tables",
            "frames-in-ram",
            "frames-of-tables",
            "descriptor-tables",
        ):
            assert statuses[name] == "not_checked", (target, name)
        assert f"CPU 0 in {mode}: RIP" in agent("audit", *target).out


def test_qemus_core_of_a_cpu_before_long_mode(early: tuple[Beside, str], tmp_path: Path) -> None:
    """The short NT_PRSTATUS says the same as QEMU's own note and its monitor."""
    qemu, _ = early
    wanted = dump(qemu, tmp_path / "core", paging=False)
    core = ElfCore.open(tmp_path / "core")
    assert core.headers.machine == EM_386
    (full,) = open_snapshot(tmp_path / "core").cpus
    (short,) = cpus_of_notes(note for note in core.notes if note.owner == "CORE")
    for name, value in wanted.items():
        assert full.registers[name] == value, name
        if name != "cr0":
            assert short.registers[name] == value, name
    for name in short.registers:
        assert short.registers[name] == full.registers[name], name
    assert short.paging is None and full.paging is None and full.long_mode is False


def test_thirty_two_bit_paging_is_not_taken_for_four_levels(tmp_path: Path) -> None:
    """PAE paging outside long mode: CR0.PG and CR4.PAE are set as they are in long mode. A core
    has no EFER: that it is one of an i386 tells."""
    with beside(tmp_path, "hang", paused=True) as qemu:
        with attach(qemu.gdb, qmp=qemu.qmp) as vm:
            vm.insert(entry())
            vm.run_until([], 20)
            for name, value in (("cr3", 0x1000), ("cr4", 0x20)):
                vm.stub.write_register(name, value)
            vm.stub.write_register("cr0", 0x8000_0011)
            live = vm.stop()
            assert live.paging is None
            assert live.no_paging.startswith("CPU 0 is under 32-bit paging")
        dump(qemu, tmp_path / "core", paging=False)
    stop = open_snapshot(tmp_path / "core")
    assert "efer" not in stop.cpu.registers
    assert stop.paging is None
    assert stop.no_paging == "CPU 0 is under 32-bit paging (PAE), in ring 0: early boot"
    said = agent("pt", "walk", "0x1000", "--snapshot", str(tmp_path / "core"))
    assert said.code == 2 and "under 32-bit paging" in said.err


def test_a_core_in_long_mode_says_so(tmp_path: Path) -> None:
    with beside(tmp_path, "hang") as qemu:
        with attach(qemu.gdb, qmp=qemu.qmp, serial=qemu.serial) as vm:
            vm.run_until(["Memory management initialized"], 20)
        dump(qemu, tmp_path / "core", paging=False)
    assert ElfCore.open(tmp_path / "core").headers.machine == EM_X86_64
    cpu = open_snapshot(tmp_path / "core").cpu
    assert cpu.long_mode is True and cpu.paging is not None


def test_a_copy_of_ram_without_any_cpu_says_so(tmp_path: Path) -> None:
    """A RAM file that outlived its QEMU, with `--ram-size`: tables are walked from a root that is
    given, and what wants a CPU says that there is none."""
    with beside(tmp_path, "hang") as qemu, attach(qemu.gdb, serial=qemu.serial) as vm:
        vm.run_until(["Memory management initialized"], 20)
        cpu = vm.stop().cpu
        assert cpu.root is not None
        root, rip = hex(cpu.root), hex(cpu.rip)
        target = ("--snapshot", str(qemu.ram), "--ram-size", "128M")
        found = agent("pt", "walk", rip, "--root", root, "--json", *target)
        assert found.code == 0 and json.loads(found.out)[0]["reason"] is None, found.err
        for command in (("pt", "roots"), ("pt", "map"), ("bt",)):
            said = agent(*command, *target)
            assert said.code == (2 if command == ("pt", "map") else 1)
            assert "no CPU's registers are known: this is RAM alone" in said.out + said.err
