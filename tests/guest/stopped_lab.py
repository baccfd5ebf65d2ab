"""The lab guest standing at its end, with its own word for what is true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from breenix_gdbagent.kernel.image import with_image
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols import Image
from tests.guest.live_support import DONE, ELF, lab

DEADLINE = 30


@dataclass(frozen=True)
class StoppedLab:
    """A stop of the lab guest and its truth lines."""

    era: int
    stop: Stop
    truth: list[dict[str, Any]]

    def told(self, kind: str, **fields: object) -> list[dict[str, Any]]:
        """The truth lines of one kind whose fields are as given."""
        return [
            line
            for line in self.truth
            if line["k"] == kind and all(line.get(k) == v for k, v in fields.items())
        ]

    def kernel(self) -> Kernel:
        """A fresh view."""
        return Kernel(self.stop)


@contextmanager
def stopped(scenario: str, era: int) -> Iterator[StoppedLab]:
    """The guest of one era after a scenario; it stands still for as long as this is open."""
    with lab(scenario, era=era) as vm:
        stop = vm.run_until([DONE], DEADLINE)
        assert stop.reason.kind == "marker", stop.reason
        placed, _ = with_image(stop, Image.open(ELF))
        assert placed.image is not None
        lines = stop.serial.port(0).splitlines()
        truth = [json.loads(line[1:]) for line in lines if line.startswith("@{")]
        yield StoppedLab(era, placed, truth)
