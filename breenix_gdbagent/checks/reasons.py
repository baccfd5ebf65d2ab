"""Why a check could not look, as values: report/wording/reasons.py has the words.

`said` is the sentence of a reader below (`ReadError.what`), which is handed on as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from breenix_gdbagent.addresses import PhysAddr


class State(Enum):
    """What the guest was doing, or what was not given to us; nothing more is to be told."""

    NO_PERCPU = auto()
    GATES_NOT_KNOWN = auto()
    NO_TSS = auto()
    NO_RING_3 = auto()
    NO_THREAD_YET = auto()
    NO_KERNEL_STACK_YET = auto()
    SWITCHING_THREADS = auto()
    SCHEDULER_LOCKED = auto()
    FREE_LIST_LOCKED = auto()
    HEAP_LOCKED = auto()
    ALLOCATOR_LOCKED = auto()
    PROCESS_MANAGER_LOCKED = auto()
    FIVE_LEVELS = auto()
    TOO_MANY_TABLES = auto()
    END_OF_RAM_NOT_KNOWN = auto()
    NO_SERIAL_TEXT = auto()
    AT_NO_VECTOR = auto()
    MEMORY_TYPES_NOT_KNOWN = auto()


@dataclass(frozen=True, slots=True)
class NotRead:
    """What every part of the check needs could not be read."""

    said: str


@dataclass(frozen=True, slots=True)
class FaultNotRead:
    """What a CPU's fault is explained from could not be read."""

    cpu: int
    said: str


@dataclass(frozen=True, slots=True)
class HandlerNotRead:
    """Whether a handler is at work is not read of CPUs of an architecture."""

    arch: str


@dataclass(frozen=True, slots=True)
class TablesOf:
    """The check does not read the page tables of an architecture."""

    arch: str


@dataclass(frozen=True, slots=True)
class ShutdownNotRead:
    """A triple fault and a reset could not be told apart."""

    said: str


@dataclass(frozen=True, slots=True)
class IdtNotRead:
    """The IDT could not be read."""

    said: str


@dataclass(frozen=True, slots=True)
class TablesNotRead:
    """The tables of a space could not be read, None for the master."""

    space: str | None
    said: str


@dataclass(frozen=True, slots=True)
class SharingNotRead:
    """Which pages processes share on purpose could not be read."""

    said: str


@dataclass(frozen=True, slots=True)
class TableNotReached:
    """The way to a table (``IDT``) or handler of a CPU leads through memory that we lack."""

    what: str
    cpu: int
    va: int


@dataclass(frozen=True, slots=True)
class TableOfFirmware:
    """A table that is not mapped and that a bootloader may have left as it was."""

    what: str
    va: int


@dataclass(frozen=True, slots=True)
class StackInTransit:
    """A stack that is mapped in part, and no thread's."""

    stack: str


@dataclass(frozen=True, slots=True)
class BottomsMissing:
    """The bottoms of `count` stacks are not in the memory we have."""

    count: int


@dataclass(frozen=True, slots=True)
class TablesMissing:
    """`count` page tables are not in the memory we have."""

    count: int
    first: PhysAddr


@dataclass(frozen=True, slots=True)
class TablesInTheMaking:
    """`count` roots of processes have nothing of their own yet."""

    count: int
    first: PhysAddr


@dataclass(frozen=True, slots=True)
class RootsLeftOut:
    """`count` roots found in RAM may be dead, where frames are used again."""

    count: int


@dataclass(frozen=True, slots=True)
class FrameNotRead:
    """The exception frame of an interrupted CPU could not be read."""

    cpu: int


@dataclass(frozen=True, slots=True)
class ProcessesUnscheduled:
    """`count` processes have a thread that the scheduler does not have."""

    count: int


@dataclass(frozen=True, slots=True)
class HalfSaved:
    """A thread's context is wrong while the process manager's lock is taken."""

    thread: str


Reason = (
    State
    | NotRead
    | FaultNotRead
    | HandlerNotRead
    | TablesOf
    | ShutdownNotRead
    | IdtNotRead
    | TablesNotRead
    | SharingNotRead
    | TableNotReached
    | TableOfFirmware
    | StackInTransit
    | BottomsMissing
    | TablesMissing
    | TablesInTheMaking
    | RootsLeftOut
    | FrameNotRead
    | ProcessesUnscheduled
    | HalfSaved
)
