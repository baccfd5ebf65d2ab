"""The machines' files, and QEMU's command line out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from breenix_gdbagent import configs
from breenix_gdbagent.architectures import of_program
from breenix_gdbagent.configs import Files
from breenix_gdbagent.errors import InputError, QemuMissing
from breenix_gdbagent.targets.booting import MACHINES

VALUES = {
    "ram": "/run/ram", "run": "/run", "gdb_fd": "3", "qmp_fd": "4",
    "firmware_code": "/fw/code.fd", "firmware_vars": "/run/vars.fd",
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Files:
    for name in ("image", "kernel", "a,b.img", "c.img"):
        (tmp_path / name).write_bytes(b"x")
    return Files(
        image=tmp_path / "image",
        kernel=tmp_path / "kernel",
        disks=(tmp_path / "a,b.img", tmp_path / "c.img"),
    )


def test_the_machines_are_there() -> None:
    ours = ["breenix", "breenix-2026", "lab", "lab-aarch64"]
    assert configs.names() == sorted([*ours, *MACHINES])


@pytest.mark.parametrize("name", configs.names())
def test_every_machine_is_held_by_us_and_listens_to_nobody(name: str, files: Files) -> None:
    config = configs.load(name)
    by_qemu = Files(kernel=files.kernel, append="scenario=clean")
    given = by_qemu if config.needs == ("kernel",) else files
    line = config.command_line(given, VALUES)
    text = " ".join(line)
    assert "{" not in text
    assert "-S" in line
    assert line[line.index("-action") + 1] == "reboot=shutdown,shutdown=pause"
    assert "tcp" not in text and "hostfwd" not in text and "-s" not in line
    assert "share=on" in text and "mem-path=/run/ram" in text
    assert text.count("-serial chardev:serial") == config.serial_ports
    assert (config.success is None) == (name in MACHINES)
    if of_program(config.program).descriptor_tables:
        assert 33 in config.exit_success, "by isa-debug-exit, which other machines do not have"


def test_disks_get_numbers_and_their_commas_doubled(files: Files) -> None:
    line = configs.load("breenix-2026").command_line(files, VALUES)
    drives = [a for a in line if "id=disk" in a]
    assert [d.rpartition("/")[2] for d in drives] == ["a,,b.img", "c.img"]
    assert all("snapshot=on" in d for d in drives)
    assert sum("disable-modern=on,disable-legacy=off" in a for a in line) == 3


def test_an_argument_that_is_one_value_keeps_its_commas(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"x")
    line = configs.load("lab").command_line(Files(kernel=kernel, append="a=1,b=2"), VALUES)
    assert line[-2:] == ["-append", "a=1,b=2"]


def test_settings(files: Files) -> None:
    config = configs.load("breenix").with_settings(
        memory="1G", accel=None, deterministic=True, network=False
    )
    assert config.settings.memory_bytes == 1 << 30
    assert config.settings.accel == "tcg"
    line = config.command_line(files, VALUES)
    assert line[line.index("-m") + 1] == "1G"
    assert "shift=3,sleep=off" in line and line[line.index("-nic") + 1] == "none"
    assert "user,id=net0" not in line
    for wrong in ({"memory": 5}, {"smp": "2"}, {"colour": "red"}):
        with pytest.raises(InputError):
            config.with_settings(**wrong)  # type: ignore[arg-type]
    for wrong_size in ("0", "", "lots", "-1M"):
        with pytest.raises(InputError, match="no size"):
            _ = config.with_settings(memory=wrong_size).settings.memory_bytes


def test_exit_statuses() -> None:
    config = configs.load("breenix")
    assert config.debug_exit(33) == 0x10 and config.debug_exit(35) == 0x11
    assert config.debug_exit(0) is None and config.debug_exit(1) is None
    assert [config.outcome(s) for s in (33, 35, 0)] == ["success", "failed", "unexpected"]


def test_files_that_are_missing_or_not_wanted(files: Files, tmp_path: Path) -> None:
    lab, breenix = configs.load("lab"), configs.load("breenix")
    with pytest.raises(InputError, match="needs --kernel"):
        lab.command_line(Files(), VALUES)
    with pytest.raises(InputError, match="no file"):
        breenix.command_line(Files(image=tmp_path / "none"), VALUES)
    with pytest.raises(InputError, match="no --disk"):
        lab.command_line(files, VALUES)
    with pytest.raises(InputError, match="no kernel command line"):
        breenix.command_line(Files(image=files.image, append="x"), VALUES)


def test_no_firmware_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(
        'name = "other"\nprogram = "q"\narguments = []\n'
        '[[firmware]]\ncode = "/nowhere/code.fd"\nvars = "/nowhere/vars.fd"\n'
    )
    with pytest.raises(QemuMissing, match="apt install ovmf"):
        configs.load(str(path)).find_firmware()


@pytest.mark.parametrize(
    "text",
    [
        "", "name = [", "name = 1\nprogram = 2\narguments = 3", 'name = "x"', "\udcff",
        'name="x"\nprogram="q"\narguments=["a"]\ncolour="red"',
        'name="x"\nprogram="q"\narguments=[1]',
        'name="x"\nprogram="q"\narguments=[]\nfirmware=3',
        'name="x"\nprogram="q"\narguments=[]\nfirmware=[3]',
        'name="x"\nprogram="q"\narguments=[]\nserial_ports=9',
        'name="x"\nprogram="q"\narguments=[]\n[settings]\nmemory=3',
        'name="x"\nprogram="q"\narguments=[]\n[exit]\nsuccess=["no"]',
    ],
)  # fmt: skip
def test_files_that_describe_no_machine(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as raised:
        configs.load(str(path))
    assert len(str(raised.value).splitlines()) <= 3


@pytest.mark.parametrize("name", ["nothing", "../lab", "/nowhere/x.toml"])
def test_machines_that_there_are_not(name: str) -> None:
    with pytest.raises(InputError):
        configs.load(name)


def test_a_placeholder_that_nothing_fills_in(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text('name = "odd"\nprogram = "q"\narguments = ["{colour}"]\n')
    with pytest.raises(InputError, match="colour"):
        configs.load(str(path)).command_line(Files(), {})
