"""Which build of a checkout is taken: the newest image and the ELF that is really in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from breenix_gdbagent.commands import run
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.targets.checkout import find_build, verify
from tests.writers.elf import SHF_ALLOC, SHF_EXECINSTR, Elf, Sec

SECTOR = 512


def elf(mark: int, machine: int = 62) -> bytes:
    """A kernel with four sectors of code of its own."""
    code = bytes((mark + i * 7 + (i >> 8)) & 0xFF for i in range(4 * SECTOR))
    text = Sec(".text", code, 0x1000, SHF_ALLOC | SHF_EXECINSTR)
    return Elf([text], machine=machine).build()


def image(*files: bytes) -> bytes:
    """A disk with files in whole sectors, one behind another."""
    out = bytes(SECTOR - 2) + b"\x55\xaa"
    for data in files:
        out += bytes(7 * SECTOR) + data + bytes(-len(data) % SECTOR)
    return out + bytes(SECTOR)


class Checkout:
    """A directory laid out as cargo leaves it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "kernel").mkdir(parents=True)

    def add(self, name: str, data: bytes, age: int) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1e9 - age, 1e9 - age))
        return path

    def image(self, build: str, data: bytes, age: int, profile: str = "release") -> Path:
        return self.add(f"target/{profile}/build/breenix-{build}/out/breenix-uefi.img", data, age)

    def kernel(self, build: str, data: bytes, age: int, profile: str = "release") -> Path:
        room = f"target/x86_64-unknown-none/{profile}/deps/artifact/kernel-{build}/bin"
        self.add(f"{room}/kernel-{build}.d", b"kernel: main.rs", age)
        return self.add(f"{room}/kernel-{build}", data, age)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "breenix")


def test_the_only_build(checkout: Checkout) -> None:
    kernel, disk = checkout.kernel("a", elf(1), 1), checkout.image("a", image(elf(1)), 0)
    build = find_build(checkout.path, None)
    assert (build.image, build.kernel) == (disk, kernel)
    assert build.only and not build.passed_over


def test_the_newest_image_with_its_own_elf_and_not_the_newest_elf(checkout: Checkout) -> None:
    """`cargo build` after `cargo test`: the newest ELF belongs to the older image."""
    wanted = checkout.kernel("right", elf(1), 50)
    checkout.kernel("wrong", elf(2), 1)
    checkout.image("old", image(elf(2)), 60)
    disk = checkout.image("new", image(elf(1)), 10)
    build = find_build(checkout.path, None)
    assert (build.image, build.kernel) == (disk, wanted)
    assert (build.images, build.kernels, build.only) == (2, 2, False)
    assert build.passed_over == ()


def test_profiles_are_one_choice(checkout: Checkout) -> None:
    checkout.kernel("r", elf(1), 5)
    checkout.image("r", image(elf(1)), 5)
    kernel = checkout.kernel("d", elf(2), 1, "debug")
    disk = checkout.image("d", image(elf(2)), 1, "debug")
    build = find_build(checkout.path, None)
    assert (build.image, build.kernel) == (disk, kernel)


def test_a_newer_image_whose_elf_is_gone_is_passed_over_and_named(checkout: Checkout) -> None:
    kernel = checkout.kernel("a", elf(1), 9)
    disk = checkout.image("a", image(elf(1)), 9)
    newer = checkout.image("b", image(elf(3)), 1)
    build = find_build(checkout.path, None)
    assert (build.image, build.kernel, build.passed_over) == (disk, kernel, (newer,))


def test_the_choice_is_said(
    checkout: Checkout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.kernel("a", elf(1), 9)
    checkout.image("a", image(elf(1)), 9)
    checkout.image("b", image(elf(3)), 1)
    monkeypatch.setattr("breenix_gdbagent.live.launch", lambda *args, **more: None)
    from breenix_gdbagent.commands.machines import open_machine
    from breenix_gdbagent.commands.target import Target

    options = __import__("argparse").Namespace(
        breenix=checkout.path, image=None, kernel=None, disk=[], config=None, accel=None,
        deterministic=False, smp=None,
    )  # fmt: skip
    open_machine(Target("breenix", options))
    first, second, third = capsys.readouterr().err.splitlines()
    assert "breenix-a/out/breenix-uefi.img with kernel-a" in first
    assert "2 image(s)" in first and "1 kernel ELF(s)" in first
    assert "breenix-b/out/breenix-uefi.img" in second
    assert "machine breenix: kernel-a has none of" in third


def test_links_to_nothing_and_empty_files_are_no_builds(checkout: Checkout) -> None:
    kernel, disk = checkout.kernel("a", elf(1), 9), checkout.image("a", image(elf(1)), 9)
    checkout.image("cut", b"", 0)
    checkout.kernel("cut", b"", 0)
    lost = checkout.image("lost", b"x", 0)
    lost.unlink()
    lost.symlink_to(checkout.path / "nowhere")
    build = find_build(checkout.path, None)
    assert (build.image, build.kernel) == (disk, kernel)


def refused(checkout: Checkout, kernel: Path | None = None) -> InputError:
    with pytest.raises(InputError) as raised:
        find_build(checkout.path, kernel)
    assert len(str(raised.value).splitlines()) <= 3
    return raised.value


def test_what_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    assert "has no built UEFI image" in str(refused(checkout))
    checkout.image("a", image(elf(1)), 1)
    assert "no kernel ELF" in str(refused(checkout))
    checkout.kernel("b", elf(2), 1)
    assert "none of the 1 kernel ELFs" in str(refused(checkout))
    assert "no kernel ELF" in str(refused(checkout, tmp_path / "nothing"))
    other = tmp_path / "other"
    other.write_bytes(elf(3))
    assert "other is packed in none of the 1 images" in str(refused(checkout, other))
    with pytest.raises(InputError, match="no directory"):
        find_build(tmp_path / "none", None)
    with pytest.raises(InputError, match="no Breenix checkout"):
        find_build(tmp_path, None)


def test_aarch64_only_in_one_sentence(checkout: Checkout) -> None:
    checkout.add("target/aarch64-breenix-kernel/release/kernel-aarch64", elf(1, 183), 1)
    what = refused(checkout).what
    assert what.endswith("is built for aarch64 only, and the agent reads x86-64")


def test_both_architectures_built_is_no_reason_to_refuse(checkout: Checkout) -> None:
    checkout.add("target/aarch64-breenix-kernel/release/kernel-aarch64", elf(1, 183), 0)
    checkout.kernel("a", elf(1), 1)
    disk = checkout.image("a", image(elf(1)), 1)
    assert find_build(checkout.path, None).image == disk


def test_an_image_and_an_elf_are_held_against_each_other(tmp_path: Path) -> None:
    disk, right, wrong = (tmp_path / name for name in ("img", "right", "wrong"))
    pieces = elf(1)
    # A file in fragments: its sectors are all there, and not one behind another.
    disk.write_bytes(image(*(pieces[i : i + SECTOR] for i in range(0, len(pieces), SECTOR))))
    right.write_bytes(elf(1))
    wrong.write_bytes(elf(2))
    verify(disk, right)
    with pytest.raises(InputError, match="wrong is not the kernel in img"):
        verify(disk, wrong)
    with pytest.raises(InputError, match="no disk image"):
        verify(right, right)


def test_the_command_refuses_before_anything_is_started(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ci", "--breenix", str(checkout.path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and 1 <= len(err.splitlines()) <= 3
