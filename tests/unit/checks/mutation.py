"""Break one thing in a copy of a saved stop: the hands that the mutation tests use."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import pytest
from _pytest.mark.structures import ParameterSet

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory.ramfile import parse_ram_size
from breenix_gdbagent.snapshot.opening import open_snapshot
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop
from tests.said import summary
from tests.unit.captures import BREENIX, capture
from tests.writers.overlay import overlaid, with_registers

P, W, U, NX = 1, 2, 4, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
FRESH = 0x1F00_0000
"""Frames from here on are RAM, and in no capture."""
HEAP = 0x4444_4444_0000
BEYOND_RAM = 0x20_0000_0000
IF = 1 << 9


@cache
def saved(name: str) -> Stop:
    """The stop of a capture, with its RAM map and its serial text."""
    folder = capture(name)
    size = json.loads((folder / "truth.json").read_text())["ram_bytes"]
    texts = [folder / n for n in ("serial.txt", "serial2.txt")]
    chunks = [SerialChunk(i, 0, t.read_bytes()) for i, t in enumerate(texts) if t.is_file()]
    stop = open_snapshot(folder / "core.elf", parse_ram_size(f"{size >> 20}M"))
    return stop._replace(serial=SerialText(tuple(chunks)))


def seen(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    """Errors and warnings by fingerprint."""
    return {f.fingerprint: f for f in findings if f.effective_severity != "info"}


@cache
def before(name: str) -> frozenset[str]:
    """What the unbroken stop gives."""
    return frozenset(seen(examine(saved(name)).findings))


class Hand:
    """One stop being broken. `kernel` is the view of the unbroken one."""

    def __init__(self, stop: Stop) -> None:
        self.kernel = Kernel(stop)
        self.stop, self.memory = overlaid(stop)
        self._next = FRESH

    @property
    def master(self) -> Space:
        assert self.kernel.master is not None
        return self.kernel.master

    @property
    def processes(self) -> list[Space]:
        """In order of address; the one in CR3 first."""
        found = [s for s in self.kernel.audited if s.role == "process"]
        return sorted(found, key=lambda s: s.live is not True)

    def fresh(self) -> int:
        """A frame of zeroes that nothing uses."""
        frame = self._next
        self._next += 0x1000
        self.memory.frame(frame, fresh=True)
        return frame

    def entry_pa(self, root: int, va: int, level: int) -> int:
        """Where the entry of `va` at `level` lies under `root` now; all above it must be there."""
        table = root
        for number in range(4, level, -1):
            raw = self.memory.entry(table + 8 * (va >> (3 + 9 * number) & 511))
            assert raw & P, f"no table above level {level} of {va:#x}"
            table = raw & ADDRESS
        return table + 8 * (va >> (3 + 9 * level) & 511)

    def change(self, root: int, va: int, level: int, new: Callable[[int], int]) -> None:
        """Another entry in the place of the one of `va` at `level`."""
        at = self.entry_pa(root, va, level)
        self.memory.set_entry(at, new(self.memory.entry(at)))

    def privatise(self, root: int, va: int) -> None:
        """Tables of its own for `va` in `root`, with the same entries."""
        for level in (4, 3, 2):
            at = self.entry_pa(root, va, level)
            raw, copy = self.memory.entry(at), self.fresh()
            self.memory.copy_frame(raw & ADDRESS, copy)
            self.memory.set_entry(at, raw & ~ADDRESS | copy)

    def frame_of(self, root: int, va: int) -> int:
        pa = self.kernel.walk(root, va).pa
        assert pa is not None, f"{va:#x} is not mapped"
        return pa & ~0xFFF

    def registers(self, **values: int) -> None:
        self.stop = with_registers(self.stop, **values)

    def write(self, va: int, data: bytes) -> None:
        """Bytes of the kernel's memory."""
        pa = self.kernel.walk(self.master.root, va).pa
        assert pa is not None
        self.memory.write(pa, data)

    def user_page(self) -> tuple[Space, int, int]:
        """(space, address, frame) of a writable page of ring 3 that a process has for itself."""
        spaces = {s.root: s for s in self.processes}
        for page in self.kernel.ledger.user_pages():
            if page.node.owner in spaces and page.w and not page.raw & 1 << 9:
                return spaces[page.node.owner], page.va, page.pa
        raise AssertionError("no writable user page")

    def other(self, space: Space) -> Space:
        """Another process."""
        return next(s for s in self.processes if s.root != space.root)

    def free_user_va(self, space: Space) -> int:
        """An address in the last level table of a user page of the space where nothing is."""
        pages = self.kernel.ledger.user_pages()
        va = next(p.va for p in pages if p.node.owner == space.root and p.node.level == 1)
        table = self.entry_pa(space.root, va, 1) & ~0xFFF
        base = va & ~0x1F_FFFF
        return next(
            base + (i << 12) for i in range(511, 0, -1) if not self.memory.entry(table + 8 * i)
        )

    def examined(self, name: str) -> tuple[list[Finding], set[str]]:
        """What is found now and was not before, and the checks that could not look."""
        found = examine(self.stop)
        new = [f for key, f in seen(found.findings).items() if key not in before(name)]
        return new, {c.name for c in found.checks if c.status == "not_checked"}

    def new_findings(self, name: str) -> list[Finding]:
        """What is found now and was not before."""
        return self.examined(name)[0]


@dataclass(frozen=True)
class Mutation:
    """What is broken, and the codes that must be new then; no more and no fewer. `unchecked` is
    the check that has to say that it left something out, where that is why there are none."""

    name: str
    breaks: Callable[[Hand], None]
    codes: frozenset[str]
    captures: tuple[str, ...] = BREENIX
    unchecked: str = ""


SEED = ("breenix-seed-syscall", "breenix-first-gp")
SYSCALL = ("breenix-seed-syscall",)
Breaks = Callable[[Hand], None]


class Enter(Protocol):
    """Enters a function that breaks a stop, with the codes that are due; without any, with the
    check that says what it left out."""

    def __call__(
        self, *codes: str, captures: tuple[str, ...] = BREENIX, unchecked: str = ""
    ) -> Callable[[Breaks], Breaks]: ...


def registry() -> tuple[list[Mutation], Enter]:
    """The mutations of one file, and the decorator that enters them."""
    known: list[Mutation] = []

    def mutation(
        *codes: str, captures: tuple[str, ...] = BREENIX, unchecked: str = ""
    ) -> Callable[[Breaks], Breaks]:
        def enter(breaks: Breaks) -> Breaks:
            name = breaks.__name__.replace("_", "-")
            known.append(Mutation(name, breaks, frozenset(codes), captures, unchecked))
            return breaks

        return enter

    return known, mutation


def cases(mutations: list[Mutation]) -> list[ParameterSet]:
    """Each mutation on each capture that it is for."""
    return [
        pytest.param(one, name, id=f"{one.name}-{name}")
        for one in mutations
        for name in one.captures
    ]


def hold(mutated: Mutation, name: str) -> None:
    """Asserts that exactly the declared codes are new in that capture."""
    hand = Hand(saved(name))
    mutated.breaks(hand)
    found, unchecked = hand.examined(name)
    # A logged error is its own finding, whatever it says.
    new = {f.code.name for f in found} - {"log.error"}
    assert new == mutated.codes, [f"{f.code.name}: {summary(f)}" for f in found]
    assert not mutated.unchecked or mutated.unchecked in unchecked
