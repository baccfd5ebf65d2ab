"""The lab guest under our run control, as a test's subject."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from breenix_gdbagent.debugger.debugger import Catching, Debugger
from breenix_gdbagent.debugger.points import Point
from breenix_gdbagent.debugger.stop_event import StopEvent
from breenix_gdbagent.debugger.user_breakpoints import breakpoint_of, checkpoint_of, invariant_of
from breenix_gdbagent.symbols import Image
from tests.guest.live_support import ELF, lab

BASE = 0x8000000000
"""Where the lab guest is loaded; it never moves (fixtures/labguest/src/boot.s)."""

SYSCALL = "kernel::interrupts::handlers::syscall"


@cache
def image() -> Image:
    return Image.open(ELF)


def va(symbol: str) -> int:
    """Where the lab guest has a symbol, as readelf would say it."""
    return image().addresses_of(symbol)[0] + BASE


@contextmanager
def debugged(
    scenario: str = "clean",
    *,
    deterministic: bool = False,
    catching: Catching = "unexpected",
    said: list[str] | None = None,
) -> Iterator[Debugger]:
    """The guest before its first instruction; `said` takes what goes on without a stop."""
    with lab(scenario, deterministic=deterministic) as vm:
        debugger = Debugger(vm, image(), (lambda line: None) if said is None else said.append)
        debugger.catching = catching
        debugger.start()
        yield debugger


def set_break(debugger: Debugger, text: str) -> Point:
    return debugger.add(breakpoint_of(text, image().loaded(BASE), debugger.table.number()))


def set_checkpoint(debugger: Debugger, text: str) -> Point:
    return debugger.add(checkpoint_of(text, image().loaded(BASE), debugger.table.number()))


def set_invariant(debugger: Debugger, text: str) -> Point:
    return debugger.add(invariant_of(text, image().loaded(BASE), debugger.table.number()))


def go(debugger: Debugger, *patterns: str, seconds: float = 20) -> StopEvent:
    """Run on, and look at the stop as the shell does."""
    event = debugger.go(patterns, seconds)
    debugger.stop(event.reason)
    return event


def hits_told(line: str) -> int:
    """A line of its own, or the number of those that said the same as the one before."""
    folded = re.search(r": (\d+) more hits?, the same$", line)
    return 1 if folded is None else int(folded[1])
