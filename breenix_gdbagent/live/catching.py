"""What all ways of catching faults have in common: since when, and what could not be had."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from breenix_gdbagent.arch.cpu import Cpu, DescriptorTable
from breenix_gdbagent.link.breakpoints import Ledger, Refused
from breenix_gdbagent.link.hmptext import HiddenRegisters
from breenix_gdbagent.live.clock import RunClock
from breenix_gdbagent.stop import StopReason

FAULTS = "fault catching"
"""The owner, in the ledger, of the breakpoints that catch faults."""

POLL_SECONDS = 0.25


class Arms(Protocol):
    """What arming needs of a guest that can be run and stopped."""

    @property
    def ledger(self) -> Ledger:
        """Who wants which breakpoints."""

    def hidden(self) -> Mapping[int, HiddenRegisters]:
        """IDTR and what else the stub lacks, by CPU, of a stopped guest."""

    def hidden_running(self) -> Mapping[int, HiddenRegisters]:
        """The same of a running one, which is not stopped for it."""

    def registers_of(self, cpu: int) -> Mapping[str, int]:
        """Registers of a CPU of a stopped guest."""

    def read(self, va: int, length: int) -> bytes:
        """Virtual memory of a stopped guest. Raises `LinkError`."""

    def read_or_none(self, va: int, length: int) -> bytes | None:
        """The same; None where it is not mapped."""

    def pause_for(self, action: Callable[[], None]) -> None:
        """Do `action` while the guest is stopped."""

    def step_over(self, thread: str) -> None:
        """One instruction of a CPU that is stopped at a breakpoint."""


class Catching(ABC):
    """The breakpoints that catch faults and panics of one guest. `bias` is the kernel's load bias
    once it is proved; `polling`: the guest is looked at whenever serial text arrives; faults of the
    vectors `passing` are not caught; `idtr` is the table in force, of an architecture with one."""

    def __init__(self, vm: Arms, clock: RunClock) -> None:
        self.armed_at: str | None = None
        self.bias: int | None = None
        self.idtr: DescriptorTable | None = None
        self.notes: list[str] = []
        self.passing: frozenset[int] = frozenset()
        self.polling = False
        self.unwatched = ""
        self._vm = vm
        self._clock = clock

    @property
    def state(self) -> str:
        """Since when faults are caught, or why they are not."""
        if self.armed_at is not None:
            return self.armed_at
        why = self.unwatched or next(iter(self.notes[-1:]), "")
        return "fault catching was never armed" + (f": {why}" if why else "")

    @abstractmethod
    def before_start(self, kernel: Path, *, identity: bool, panics: Sequence[int]) -> None:
        """Wait for the ELF `kernel` to say where its handlers are. `panics` are link-time
        addresses; `identity`: QEMU's -kernel loaded it at its physical addresses. Raises
        `InputError`."""

    @abstractmethod
    def now(self, kernel: Path | None, bias: int | None, panics: Sequence[int]) -> None:
        """Of a guest that is stopped and has run. `bias` is that of the ELF `kernel`, where it is
        known. Raises `InputError`."""

    @abstractmethod
    def poll(self) -> None:
        """Serial text has arrived from the running guest."""

    @abstractmethod
    def on_trap(self, thread: str, cpu: int, pc: int) -> StopReason | None:
        """What a stop at `pc` means; None when it was the arming's own and is dealt with."""

    @abstractmethod
    def awaits(self, pc: int) -> bool:
        """Whether a stop at `pc` is the arming's own."""

    @abstractmethod
    def stepped(self, cpu: int, pc: int) -> bool:
        """One instruction at `pc` has run; True where something was learnt by it."""

    @abstractmethod
    def at_stop(self, cpus: Sequence[Cpu]) -> None:
        """All CPUs as a full stop found them."""

    def table_request(self) -> tuple[int, int] | None:
        """(address, length) of memory to read again at a stop; None: of none."""
        return None

    def refresh(self, table: bytes | None) -> None:
        """That memory as it reads now (None: not readable)."""
        raise AssertionError("no memory was asked for")

    def refused(self, refused: Sequence[Refused]) -> None:
        """QEMU has no room for these: faults are not caught there, and we say so."""
        if refused:
            self._vm.ledger.release(FAULTS, *(r.one for r in refused))
            self.notes.append(
                f"{len(refused)} breakpoints that catch faults were refused "
                f"(error {refused[0].number})"
            )
