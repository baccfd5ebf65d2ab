"""Which machine a kernel gets, and its disks, by what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.targets.machine_choice import choose


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A checkout whose kernel loads its programs from a disk, with both disks."""
    target = tmp_path / "breenix" / "target"
    target.mkdir(parents=True)
    (target / "kernel").write_bytes(b"\x7fELF..BXTEST..")
    (target / "breenix-uefi.img").write_bytes(b"image")
    (target / "test_binaries.img").write_bytes(b"programs")
    (target / "ext2.img").write_bytes(b"files")
    return target


def names(disks: tuple[Path, ...]) -> list[str]:
    return [disk.name for disk in disks]


@pytest.mark.parametrize("named", [True, False])
def test_the_disks_of_a_checkout_in_the_kernels_order(built: Path, named: bool) -> None:
    """Also those beside an image that was named by itself, in the checkout that it lies in."""
    directory = built.parent if named else None
    chosen = choose(built / "kernel", built / "breenix-uefi.img", directory, None, ())
    assert (chosen.config, names(chosen.disks)) == (
        "breenix-2026", ["test_binaries.img", "ext2.img"],
    )  # fmt: skip
    assert "its programs come from a test disk" in str(chosen.why)


def test_a_kernel_with_its_programs_in_it_takes_no_disk(built: Path) -> None:
    (built / "kernel").write_bytes(b"\x7fELF..")
    chosen = choose(built / "kernel", built / "breenix-uefi.img", built.parent, None, ())
    assert (chosen.config, chosen.disks) == ("breenix", ())
    assert "kernel has none of 'BXTEST'" in str(chosen.why)


def test_a_kernel_that_logs_on_the_second_port(built: Path) -> None:
    (built / "kernel").write_bytes(b"\x7fELF.._RNvNtCs_6kernel6serial7SERIAL2..")
    chosen = choose(built / "kernel", built / "breenix-uefi.img", built.parent, None, ())
    assert chosen.config == "breenix-2026" and "COM2" in str(chosen.why)


@pytest.mark.parametrize("config", [None, "breenix-2026"])
def test_a_disk_that_the_kernel_needs_is_missed_before_the_boot(
    built: Path, config: str | None
) -> None:
    (built / "test_binaries.img").unlink()
    with pytest.raises(InputError, match="boots with target") as refused:
        choose(built / "kernel", built / "breenix-uefi.img", built.parent, config, ())
    assert "create-test-disk" in str(refused.value) and len(str(refused.value).splitlines()) == 3
    none = choose(built / "kernel", built / "breenix-uefi.img", None, config, [Path("none")])
    assert none.disks == ()


def test_a_disk_that_it_boots_without_is_said_to_lack(built: Path) -> None:
    (built / "ext2.img").unlink()
    image = built / "breenix-uefi.img"
    chosen = choose(built / "kernel", image, built.parent, None, ())
    assert [disk.path for disk in chosen.lacking] == ["target/ext2.img"]
    (built.parent / "testdata").mkdir()
    (built.parent / "testdata/ext2.img").write_bytes(b"files")
    again = choose(built / "kernel", image, built.parent, None, ())
    assert again.disks[1].parent.name == "testdata" and again.lacking == ()


def test_what_the_user_names_is_taken(built: Path) -> None:
    mine = [built / "mine.img"]
    chosen = choose(built / "kernel", built / "breenix-uefi.img", built.parent, "breenix", mine)
    assert (chosen.config, chosen.why, chosen.disks, chosen.found) == (
        "breenix", None, tuple(mine), (),
    )  # fmt: skip
