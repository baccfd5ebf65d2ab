"""Code that an interrupt enters by, told by the augmentation of its frame: as readelf has it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from breenix_gdbagent.lab import elf
from breenix_gdbagent.symbols import Image


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_signal_frames_are_those_of_readelf() -> None:
    """Every description of the lab guest's, at its first and last byte."""
    path = elf(False)
    done = subprocess.run(["readelf", "-wf", str(path)], capture_output=True, text=True, check=True)
    augmentation: dict[str, str] = {}
    checked = {True: 0, False: 0}
    cie = ""
    frames = Image.open(path).frames
    for line in done.stdout.splitlines():
        if found := re.match(r"([0-9a-f]+) [0-9a-f]+ [0-9a-f]+ CIE", line):
            cie = found[1]
        elif found := re.match(r'\s+Augmentation: +"(\w*)"', line):
            augmentation[cie] = found[1]
        elif found := re.search(r"FDE cie=([0-9a-f]+) pc=([0-9a-f]+)\.\.([0-9a-f]+)", line):
            expected = "S" in augmentation[found[1]]
            low, high = int(found[2], 16), int(found[3], 16)
            if low == 0 or low >= high:
                continue
            assert frames.is_signal_frame(low) == expected
            assert frames.is_signal_frame(high - 1) == expected
            checked[expected] += 1
    assert checked[True] > 2
    assert checked[False] > 100
