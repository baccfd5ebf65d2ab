"""A machine made recordable: what is changed of it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from breenix_gdbagent import configs, lab
from breenix_gdbagent.configs import Config, Files, Firmware
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.recording.machine import Recordable, recordable

ELF = lab.elf(False)


@pytest.fixture
def breenix(tmp_path: Path) -> Config:
    """The machine of Breenix with firmware that is there."""
    code, variables = tmp_path / "code.fd", tmp_path / "vars.fd"
    code.write_bytes(b"code")
    variables.write_bytes(b"vars")
    return replace(configs.load("breenix"), firmware=(Firmware(code, variables),))


def made(config: Config, tmp_path: Path, disks: int = 0) -> Recordable:
    image = tmp_path / "a,b.img"
    image.write_bytes(b"image")
    more = tuple(tmp_path / f"disk-{n}.img" for n in range(disks))
    for path in more:
        path.write_bytes(b"disk")
    return recordable(config, Files(image, None, more), ELF)


def test_nothing_of_this_machine_is_left_in_the_words(breenix: Config, tmp_path: Path) -> None:
    plan = made(breenix, tmp_path, disks=2)
    words = plan.machine("record").arguments
    assert not [word for word in words if str(tmp_path) in word]
    assert [path.name for path in plan.disks.values()] == [
        "vars.fd", "a,b.img", "disk-0.img", "disk-1.img",
    ]  # fmt: skip
    assert {path.name for path in plan.copies.values()} == {"labguest.elf", "code.fd"}
    drives = [words[n + 1] for n, word in enumerate(words) if word == "-drive"]
    assert not [one for one in drives if "snapshot=on" in one]
    written = [one for one in drives if "readonly=on" not in one]
    assert all("format=qcow2" in one and "file={disks}/" in one for one in written)
    assert "if=pflash,unit=0,format=raw,readonly=on,file={recording}/code.fd" in drives


def test_what_cannot_be_played_is_changed_and_said(breenix: Config, tmp_path: Path) -> None:
    plan = made(breenix, tmp_path)
    assert not [word for word in plan.words if "e1000" in word]
    assert plan.words[plan.words.index("-nic") :][:2] == ["-nic", "none"]
    assert any("no network" in change for change in plan.changes)
    assert "apic-common.vapic=off" in plan.words


def test_another_network_card_stays_and_is_recorded(breenix: Config, tmp_path: Path) -> None:
    network = ("-netdev", "user,id=n", "-device", "rtl8139,netdev=n")
    plan = made(replace(breenix, when={**breenix.when, "network": network}), tmp_path)
    assert "rtl8139,netdev=n" in plan.words
    assert "filter-replay,id=replay-n,netdev=n" in plan.words


def test_the_clock_of_a_deterministic_machine_is_kept(breenix: Config, tmp_path: Path) -> None:
    plan = made(breenix.with_settings(deterministic=True), tmp_path)
    assert plan.icount == "shift=3,sleep=off"
    words = plan.machine("replay").arguments
    assert [w for w in words if w.startswith("shift=3,sleep=off,rr=replay,")]
    assert words.count("-icount") == 1


def test_a_card_that_nobody_named_is_taken_out() -> None:
    config = replace(configs.load("lab"), arguments=("-kernel", "{kernel}"))
    plan = recordable(config, Files(None, ELF), ELF)
    assert plan.words[:4] == ["-kernel", "{recording}/kernel.elf", "-nic", "none"]


@pytest.mark.parametrize(
    ("settings", "says"), [({"smp": 2}, "2 CPUs"), ({"accel": "kvm"}, "under kvm")]
)
def test_what_cannot_be_recorded_is_refused(settings: dict[str, str | int], says: str) -> None:
    config = configs.load("lab").with_settings(**settings)
    with pytest.raises(InputError, match=says) as refused:
        recordable(config, Files(None, ELF), ELF)
    assert refused.value.fix


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-device", "virtio-gpu-pci"), "does not replay: virtio-gpu-pci"),
        (("-enable-kvm",), "not run by tcg"),
        (("-chardev", "socket,id=s,path=/x"), "by socket does not replay"),
        (("-drive", "if=ide,format=qcow2,file=/x/y.qcow2"), "y.qcow2 is qcow2"),
    ],
)
def test_a_machine_that_has_what_does_not_replay(words: tuple[str, ...], says: str) -> None:
    config = replace(configs.load("lab"), arguments=words, needs=())
    with pytest.raises(InputError, match=says) as refused:
        recordable(config, Files(), ELF)
    assert refused.value.fix
