"""Kernels of others with mistakes that people reported (`BREENIX_FOREIGN`, else beside the
checkout): what is said of them after their death. They are no part of this project."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest.labrun import agent
from tests.guest.smallguest import booted

BESIDE = Path(__file__).parents[2].parent / "shared" / "foreign"
FOREIGN = Path(os.environ.get("BREENIX_FOREIGN", BESIDE))
DIED = b"EXCEPTION"

pytestmark = pytest.mark.skipif(
    not (FOREIGN / "kit").is_dir()
    or None in map(shutil.which, ("gcc", "ld", "qemu-system-x86_64")),
    reason="no kernels of others (BREENIX_FOREIGN), no gcc or no QEMU",
)


@pytest.mark.parametrize("with_elf", [True, False], ids=["elf", "no elf"])
@pytest.mark.parametrize(
    ("case", "knobs", "code"),
    [
        ("03-nx-without-nxe-handled", ("-DBOOT_NXE=0",), "page-fault.reserved-bit"),
        ("07-pic-not-remapped", (), "pic.not-remapped"),
        ("08-upper-level-not-user", (), "page-fault.supervisor-only"),
    ],
)
def test_a_kernel_that_died_in_its_own_handler(
    tmp_path: Path, case: str, knobs: tuple[str, ...], code: str, with_elf: bool
) -> None:
    kernel = tmp_path / "kernel.elf"
    source = FOREIGN / "cases" / case / "case.c"
    build = [FOREIGN / "kit" / "build.sh", source, kernel, "-DHIGH", *knobs]
    subprocess.run(["bash", *map(str, build)], check=True, capture_output=True)
    with booted(kernel, tmp_path, until=DIED, told="serial") as guest:
        elf = ["--kernel", str(kernel)] if with_elf else []
        seen = agent("audit", *guest.options, *elf, "--json")
        judges = [one.vector for one in guest.exceptions]
    found = {f["code"] for f in seen.document["findings"] if f["severity"] == "error"}
    # A tick of the PIC, which is not remapped in any of them, may come before the fault.
    ticked = {"pic.not-remapped"} if 8 in judges else set()
    assert (seen.code, found) == (1, {code} | ticked)
