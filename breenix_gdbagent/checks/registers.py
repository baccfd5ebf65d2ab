"""Registers that an interrupted thread got back, as `ci --check-interrupts` counted them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from breenix_gdbagent.addresses import Hex, VirtAddr, hex64
from breenix_gdbagent.checks.facts import IF_KNOWN, Facts
from breenix_gdbagent.checks.finding import CheckResult, Finding, Where, declare
from breenix_gdbagent.checks.reasons import NotRead
from breenix_gdbagent.kernel.view import Kernel

if TYPE_CHECKING:
    from breenix_gdbagent.entrycode.lint import Defect

CHANGED = declare(
    "context.registers-changed",
    "error",
    "an interrupt gave a thread other registers back",
    arises="Code behind the last restore of an entry writes a register or calls a function that "
    "may; a path restores less than it saved, or in another order; or a switch loads a thread's "
    "registers from elsewhere than they were saved to.",
    confirm="lint --kernel ELF shows what the entry's code loses; shell --replay on a recording, "
    "break at the iretq, and compare with the registers at the handler's first instruction.",
    mend="Do everything before the registers are restored, and restore on every path what was "
    "saved, in the opposite order.",
)
NAME = "interrupts"


@dataclass(frozen=True, slots=True)
class Example:
    """One return with other registers: where to, in whose space, each register before and after."""

    rip: int
    rsp: int
    root: int
    registers: Mapping[str, tuple[int, int]]


@dataclass(slots=True)
class Tally:
    """The returns to one ring by the instruction at `leave`. `handlers` are those that had been
    entered, with their vectors; `each` is how often each register was another, `values` what it was
    and became the first time."""

    ring: int
    leave: int
    handlers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    returns: int = 0
    changed: int = 0
    each: dict[str, int] = field(default_factory=dict)
    first: Example | None = None
    values: dict[str, tuple[int, int]] = field(default_factory=dict)

    def note(self, example: Example) -> None:
        """A return that changed something."""
        self.changed += 1
        self.first = self.first or example
        for name, values in example.registers.items():
            self.each[name] = self.each.get(name, 0) + 1
            self.values.setdefault(name, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFacts(Facts):
    """One register: how often it was another, and its values the first time."""

    register: str
    times: int
    before: Hex
    after: Hex


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterFacts(Facts):
    """An instruction on that way that puts something else into registers."""

    at: str
    code: str
    registers: tuple[str, ...]
    file: Annotated[str | None, IF_KNOWN] = None
    line: Annotated[int | None, IF_KNOWN] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnteredFacts(Facts):
    """A handler, and the vectors whose gates lead to it."""

    handler: str
    vectors: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistersFacts(Facts):
    """How many of how many returns to a ring by one instruction changed what, whose the first was,
    and the code that did it, where reading the ways to that instruction shows it. `entered`: the
    handlers, with their vectors, that those threads had been interrupted by."""

    returned_by: str
    entered: tuple[EnteredFacts, ...]
    ring: int
    returns: int
    changed: int
    registers: tuple[ChangedFacts, ...]
    rip: VirtAddr
    rsp: VirtAddr
    thread_of: Annotated[str | None, IF_KNOWN]
    loaded_by: tuple[WriterFacts, ...]


def found(kernel: Kernel, tallies: tuple[Tally, ...]) -> Iterator[Finding]:
    """A finding for each handler and ring with a return that changed registers."""
    for tally in tallies:
        if tally.first is not None:
            yield _finding(kernel, tally, tally.first)


def result(tallies: tuple[Tally, ...], lacking: str) -> CheckResult:
    """What came of the check; `lacking` is why nothing could be compared, where that is so."""
    if lacking:
        return CheckResult(NAME, "not_checked", NotRead(lacking))
    failed = any(tally.changed for tally in tallies)
    return CheckResult(NAME, "failed" if failed else "passed")


def _finding(kernel: Kernel, tally: Tally, first: Example) -> Finding:
    names = tuple(tally.each)
    returned_by = _named(kernel, tally.leave)
    registers = tuple(
        ChangedFacts(register=n, times=tally.each[n], before=Hex(before), after=Hex(after))
        for n in names
        for before, after in [tally.values[n]]
    )
    facts = RegistersFacts(
        returned_by=returned_by,
        entered=tuple(
            EnteredFacts(handler=_named(kernel, at), vectors=vectors)
            for at, vectors in tally.handlers.items()
        ),
        ring=tally.ring,
        returns=tally.returns,
        changed=tally.changed,
        registers=registers,
        rip=VirtAddr(first.rip),
        rsp=VirtAddr(first.rsp),
        thread_of=_label(kernel, first.root) if tally.ring else None,
        loaded_by=tuple(_writers(kernel, tally, names)),
    )
    subject = f"{returned_by.partition('+')[0]} to ring {tally.ring}"
    return Finding(CHANGED, subject, facts, Where(root=first.root, va=first.rip), check=NAME)


def _named(kernel: Kernel, va: int) -> str:
    return kernel.symbol(va) or hex64(va)


def _label(kernel: Kernel, root: int) -> str | None:
    return next((s.label for s in kernel.spaces if s.root == root), None)


def _writers(kernel: Kernel, tally: Tally, names: tuple[str, ...]) -> Iterator[WriterFacts]:
    """What the ways to that instruction write to those registers, back to that ring."""
    image = kernel.stop.image
    if image is None:
        return
    from breenix_gdbagent.entrycode.lint import lint_leaving

    for one in lint_leaving(image.image, image.link(tally.leave)):
        lost = tuple(n for n in names if n in one.registers)
        if lost and (not one.rings or tally.ring in one.rings) and not one.spares:
            yield WriterFacts(
                at=_at(one), code=one.code, registers=lost, file=one.file, line=one.line
            )


def _at(one: Defect) -> str:
    return f"{one.symbol}+{one.offset:#x}" if one.offset else one.symbol
