"""Opening QEMU's own cores: registers, descriptor tables, memory, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from breenix_gdbagent.commands import run
from breenix_gdbagent.errors import InputError, Unreadable
from breenix_gdbagent.memory.ramfile import parse_ram_size
from breenix_gdbagent.snapshot.opening import open_snapshot
from tests.unit.captures import LINUX, NAMES, capture, truth_of


def _numbers(told: dict[str, str]) -> dict[str, int]:
    return {name: int(value, 16) for name, value in told.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_registers_of_a_capture(name: str) -> None:
    truth: Any = truth_of(name)
    stop = open_snapshot(capture(name) / "core.elf")
    told = truth.get("cpu_state") or [truth]
    assert len(stop.cpus) == len(told)
    for cpu, state in zip(stop.cpus, told, strict=True):
        registers = _numbers(state["registers"])
        same = {n: v for n, v in registers.items() if n in cpu.registers}
        assert {n: cpu.registers[n] for n in same} == same
        missing = set(registers) - set(cpu.registers)
        assert missing == {"cr8", "efer"}, "absent from the format, so absent and not 0"
    cpu = stop.cpu
    assert cpu.gdtr and cpu.idtr and cpu.tr
    assert [cpu.gdtr.base, cpu.gdtr.limit] == [int(v, 16) for v in truth["gdtr"]]
    assert [cpu.idtr.base, cpu.idtr.limit] == [int(v, 16) for v in truth["idtr"]]
    assert [cpu.tr.selector, cpu.tr.base] == [int(v, 16) for v in truth["tr"]]
    assert stop.reason.kind == "core"
    assert cpu.paging is not None and cpu.paging.nxe is None


@pytest.mark.parametrize("name", LINUX)
def test_the_local_table_of_a_linux_capture(name: str) -> None:
    truth: Any = truth_of(name)
    ldtr = open_snapshot(capture(name) / "core.elf").cpu.ldtr
    assert ldtr is not None
    assert [ldtr.selector, ldtr.base, ldtr.limit] == [int(v, 16) for v in truth["ldtr"]]


def test_an_elf_of_something_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    core = capture("breenix-first-gp") / "core.elf"
    assert run(["report", str(core), "--kernel", sys.executable]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "is not the kernel that runs" in err


def test_a_ram_map_tells_what_is_beyond_ram_from_what_was_not_kept() -> None:
    core = capture("breenix-first-gp") / "core.elf"
    assert open_snapshot(core).memory.ram is None
    memory = open_snapshot(core, parse_ram_size("512M")).memory
    assert memory.ram is not None and memory.ram.top == 0x2000_0000
    for pa, reason in ((0x1000, "not in this core"), (0x2000_0000, "outside RAM")):
        with pytest.raises(Unreadable) as refused:
            memory.read(pa, 8)  # type: ignore[arg-type]
        assert refused.value.reason == reason


def test_a_raw_ram_file_opens_with_a_ram_map(tmp_path: Path) -> None:
    raw = tmp_path / "ram"
    raw.write_bytes(bytes(0x3000) + b"\x55" * 0x1000)
    stop = open_snapshot(raw, parse_ram_size("16K"))
    assert stop.cpus == ()
    assert stop.memory.read(0x3FFE, 2) == b"\x55\x55"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not an ELF file"):
        open_snapshot(raw)
    with pytest.raises(InputError, match="the RAM map names"):
        open_snapshot(raw, parse_ram_size("1M"))


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"garbage" * 100, bytes(4096)])
def test_what_is_no_core_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "core"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        open_snapshot(path)
    assert refused.value.exit_code == 2
    assert len(str(refused.value).splitlines()) <= 3
    with pytest.raises(InputError):
        open_snapshot(tmp_path / "absent")
    with pytest.raises(InputError):
        open_snapshot(tmp_path)
