"""Places that a run looks at on the way: checkpoints and invariants where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from breenix_gdbagent.checks.examine import CHECKS
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.control.waypoints import Checkpoint, Invariant
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop


@dataclass(slots=True)
class Waypoints:
    """Checkpoints and invariants by the addresses where their breakpoints stand."""

    places: dict[int, list[Checkpoint | Invariant]] = field(default_factory=dict)
    hits: int = 0

    def add(self, one: Checkpoint | Invariant, addresses: Iterable[int]) -> None:
        """Look at `one` where any of these addresses is reached."""
        for address in addresses:
            self.places.setdefault(address, []).append(one)

    def here(self, stop: Stop) -> bool:
        """Whether the stop is at one of them."""
        return stop.cpu.get("rip") in self.places

    def violated(self, kernel: Kernel, say: Callable[[str], None]) -> bool:
        """Print what the checkpoints say, run the invariants; whether one of them is broken. A
        check that cannot look is said, and is no violation."""
        self.hits += 1
        broken = False
        for one in self.places[kernel.stop.cpu.rip]:
            if isinstance(one, Checkpoint):
                line = one.line(kernel)
                if line is not None:
                    say(f"{kernel.stop.seconds:9.3f}  {line}")
                continue
            try:
                errors = [f for f in dict(CHECKS)[one.check](kernel) if f.weight == "error"]
            except (NotChecked, ReadError) as why:
                say(f"{kernel.stop.seconds:9.3f}  {one.check} is not checked: {why}")
                continue
            broken |= bool(errors)
        return broken
