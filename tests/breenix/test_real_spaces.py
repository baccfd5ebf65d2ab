"""Every address space of the user's own Breenix, each byte of it: QEMU is the judge, with that root
in CR3. See `test_real_breenix` for how a build is named."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.live import launch
from breenix_gdbagent.targets.checkout import find_build
from tests.breenix.test_real_breenix import MARKER, SECONDS, TARGET
from tests.guest.oracle import judge

pytestmark = [
    pytest.mark.skipif(not TARGET, reason="no Breenix: set BREENIX_DIR or BREENIX_IMAGE"),
    pytest.mark.timeout(300),
]
LATER = (0.5, 2.0)
"""Seconds from the marker to a further stop, wherever the kernel is then."""


def _files() -> tuple[Path, Path, list[Path]]:
    """Image, kernel ELF and further disks."""
    given = dict(zip(TARGET[::2], TARGET[1::2], strict=True))
    disks = [Path(d) for d in filter(None, os.environ.get("BREENIX_DISKS", "").split(":"))]
    if "--breenix" not in given:
        return Path(given["--image"]), Path(given["--kernel"]), disks
    build = find_build(Path(given["--breenix"]), None)
    return build.image, build.kernel, disks


def test_every_space_is_as_qemu_has_it() -> None:
    image, kernel, disks = _files()
    config = os.environ.get("BREENIX_CONFIG", "breenix")
    dice = random.Random(image.name)
    with launch(config, image=image, kernel=kernel, disks=disks) as vm:
        vm.arm(kernel)
        reason = vm.run([MARKER], float(SECONDS), on_fault=lambda fault: True)
        assert reason.kind == "marker", reason
        for seconds in (*LATER, None):
            stop = vm.stop(reason)
            roots = [s.root for s in Kernel(stop).spaces]
            assert roots
            # One that is being copied when the deadline stops the guest has few pages yet.
            pages = [judge(vm, stop, root, dice) for root in roots[:16]]
            assert min(pages) > 0 and max(pages) > 1000
            if seconds is not None:
                reason = vm.run([], seconds, on_fault=lambda fault: True)
                if reason.kind == "exit":
                    break
