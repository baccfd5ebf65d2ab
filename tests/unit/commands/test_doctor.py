"""``doctor``: what it says of a kernel's ELF, and of KVM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from breenix_gdbagent import targets
from breenix_gdbagent.commands import doctor, run
from breenix_gdbagent.errors import AgentError, InputError, QemuDied, QemuGaveUp
from breenix_gdbagent.lab import elf
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.stop import StopReason
from breenix_gdbagent.symbols.elf import ElfFile


def items(capsys: pytest.CaptureFixture[str], path: Path) -> dict[str, dict[str, object]]:
    run(["doctor", "--json", "--kernel", str(path)])
    return {item["name"]: item for item in json.loads(capsys.readouterr().out)}


def test_an_elf_with_types(capsys: pytest.CaptureFixture[str]) -> None:
    found = items(capsys, elf(stripped=False))
    assert found["kernel machine"]["ok"] and found["kernel symbols"]["ok"]
    assert found["kernel types"]["ok"] and "DWARF" in str(found["kernel types"]["found"])


def test_an_elf_without(capsys: pytest.CaptureFixture[str]) -> None:
    found = items(capsys, elf(stripped=True))
    assert found["kernel symbols"]["ok"]
    assert not found["kernel types"]["ok"]


def test_both_readers_agree_on_the_lab_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    found = items(capsys, elf(stripped=False))
    assert len(str(found["kernel build-id"]["found"])) == 40
    assert found["kernel, read twice"]["ok"]


def test_where_our_reader_differs_it_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "own_build_id", lambda elf: "00" * 20)
    found = items(capsys, elf(stripped=False))["kernel, read twice"]
    assert not found["ok"] and not found["needed"]
    assert found["found"] == "pyelftools reads other build-id than we do"


@pytest.mark.parametrize(
    ("machine", "name"), [(243, "RISC-V"), (0xFEFE, "65278")]
)
def test_the_machine_of_a_foreign_kernel_is_named(machine: int, name: str, tmp_path: Path) -> None:
    data = bytearray(elf(stripped=True).read_bytes())
    data[18:20] = machine.to_bytes(2, "little")
    foreign = tmp_path / "kernel"
    foreign.write_bytes(data)
    with pytest.raises(InputError, match=f"is built for .*{name}"):
        ElfFile(foreign)


def test_what_is_no_elf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kernel"
    file.write_bytes(b"no elf at all")
    assert run(["doctor", "--kernel", str(file)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) <= 3


class Run(NamedTuple):
    """A guest that comes to `end`, as machine and as `vm`."""

    end: StopReason | AgentError
    config: None = None
    clock: RunClock = RunClock()

    @property
    def vm(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, patterns: list[str], seconds: float) -> StopReason:
        if isinstance(self.end, AgentError):
            raise self.end
        return self.end


@pytest.mark.parametrize(
    ("end", "ok", "said"),
    [
        (StopReason("marker"), True, "the lab guest ran under it"),
        (StopReason("deadline"), False, "did not come to its end under it: deadline"),
        (StopReason("shutdown"), False, "did not come to its end under it: shutdown"),
        (
            QemuGaveUp("internal-error", "KVM internal error. Suberror: 1\nemulation failure", ""),
            False,
            "runs no guest of ours: KVM internal error. Suberror: 1, emulation failure",
        ),
        (QemuDied(1, "failed to initialize kvm: busy"), False, "failed to initialize kvm: busy"),
    ],
)
def test_kvm_is_there_where_a_guest_has_run_under_it(
    end: StopReason | AgentError, ok: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: True)
    monkeypatch.setattr(targets, "lab", lambda *_, **settings: Run(end))
    item = doctor._kvm()
    assert item.ok is ok and said in item.found


def test_without_the_device_no_guest_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    monkeypatch.setattr(targets, "lab", lambda *_, **settings: pytest.fail("started"))
    assert not doctor._kvm().ok
