"""Snapshots of a live guest: gdb with the kernel's ELF, and the dumps that QEMU writes itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent.errors import Unreadable
from breenix_gdbagent.kernel.image import attach_image
from breenix_gdbagent.lab import elf
from breenix_gdbagent.link.qmp import Qmp
from breenix_gdbagent.live import attach
from breenix_gdbagent.snapshot.opening import open_snapshot, read_snapshot
from breenix_gdbagent.snapshot.saving import save_snapshot
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.x86.mapped_space import Spaces
from breenix_gdbagent.x86.paging import Tables, walk
from tests.gdb import gdb_command
from tests.guest.labrun import agent
from tests.guest.live_support import ELF, beside, lab, needs_qemu

pytestmark = needs_qemu


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """A fault of the lab guest, saved whole; a static's bytes and address as they were live."""
    path = tmp_path_factory.mktemp("snapshot") / "fault"
    with lab("page-fault-unmapped") as vm:
        vm.arm(ELF)
        stop = attach_image(vm.run_until(deadline=20), ELF)
        assert stop.reason.kind == "fault" and stop.image is not None
        where = stop.image.va_of("kernel::gdt::TSS")
        root = stop.cpu.root
        assert root is not None
        pa = walk(Tables(stop.memory), root, where).pa
        assert pa is not None
        save_snapshot(stop, path, extra={})
        return path, stop.memory.read(pa, 32), where


def test_gdb_with_the_elf_needs_nothing_else(saved: tuple[Path, bytes, int]) -> None:
    """Registers, a backtrace through the exception, and a static, at the address they ran at."""
    if shutil.which("gdb") is None:
        pytest.skip("no gdb here")
    path, told, where = saved
    asked = ("set language c", "print/x $rip", "bt", "info symbol $rip", f"x/4gx {where:#x}")
    said = subprocess.run(
        gdb_command("-batch", *(f"-ex={one}" for one in asked), str(ELF), str(path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    assert f"{open_snapshot(path).cpu.rip:#x}" in said
    assert "page_fault_handler" in said
    assert "kernel::scenarios::page_faults::unmapped" in said, said
    for at in range(0, 32, 8):
        assert f"{int.from_bytes(told[at : at + 8], 'little'):#018x}" in said


def test_gdb_prints_a_static_by_its_name(tmp_path: Path) -> None:
    """``p STATIC`` with the DWARF that the kernel was built with: value and address."""
    if shutil.which("gdb") is None:
        pytest.skip("no gdb here")
    path = tmp_path / "fault"
    assert agent("snapshot", "--lab", "guard-page", "-o", str(path)).code == 1
    asked = ("set language rust", "print kernel::gdt::TSS", "bt")
    said = subprocess.run(
        gdb_command("-batch", *(f"-ex={one}" for one in asked), str(elf(False)), str(path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    stop = attach_image(open_snapshot(path), elf(False))
    root = stop.cpu.root
    assert stop.image is not None and root is not None
    pa = walk(Tables(stop.memory), root, stop.image.va_of("kernel::gdt::TSS")).pa
    assert pa is not None
    rsp0 = int.from_bytes(stop.memory.read(pa, 12)[4:], "little")
    assert rsp0 > 1 << 63 and f"privilege_stack_table: [{rsp0}, 0, 0]" in said
    assert "in kernel::scenarios::probes::recurse" in said, said


def test_the_image_and_its_place_are_in_the_file(saved: tuple[Path, bytes, int]) -> None:
    record = read_snapshot(saved[0]).image
    stop = attach_image(open_snapshot(saved[0]), ELF)
    assert record is not None and stop.image is not None
    assert record.bias == stop.image.bias
    assert record.build_id == stop.image.image.build_id
    assert record.sha256 == stop.image.image.sha256


def _same_spaces(live: Stop, dumped: Stop) -> None:
    root = live.cpu.root
    assert root is not None
    mine = Spaces(Tables(dumped.memory)).space(root)
    assert mine == Spaces(Tables(live.memory)).space(root) and mine.ranges


@pytest.mark.parametrize("paging", [False, True])
def test_qemus_own_dump(tmp_path: Path, paging: bool) -> None:
    """Same registers, same page tables; what is no RAM is in neither, and never zero."""
    with beside(tmp_path, "hang") as qemu, attach(qemu.gdb, qmp=qemu.qmp, ram=qemu.ram) as vm:
        live = vm.run_until([], 1.0)
        holds: Any = vm
        qmp: Qmp = holds._holds.qmp
        path = tmp_path / "dump"
        qmp.execute("dump-guest-memory", {"paging": paging, "protocol": f"file:{path}"})
        dumped = open_snapshot(path)
        for cpu, told in zip(live.cpus, dumped.cpus, strict=True):
            same = {n: v for n, v in cpu.registers.items() if n in told.registers}
            assert {n: told.registers[n] for n in same} == same and "cr3" in same
            assert (told.gdtr, told.idtr) == (cpu.gdtr, cpu.idtr)
        _same_spaces(live, dumped)
        compared = 0
        for pa, piece in live.memory.filled():
            for at in range(0, min(len(piece), 4 << 20), 0x1000):
                if not _in_dump(dumped, pa + at):
                    assert paging, "a dump without paging has all of RAM"
                    continue
                page: Any = pa + at
                assert dumped.memory.read(page, 0x1000) == bytes(piece[at : at + 0x1000])
                compared += 1
        assert compared > 200
        with pytest.raises(Unreadable):
            dumped.memory.read(0x4000_0000, 8)  # type: ignore[arg-type]
        again = tmp_path / "again"
        save_snapshot(dumped, again)
        _same_spaces(live, open_snapshot(again))


def _in_dump(stop: Stop, pa: int) -> bool:
    try:
        stop.memory.read(pa, 0x1000)  # type: ignore[arg-type]
    except Unreadable:
        return False
    return True
