"""Why a check could not look, in words."""

from __future__ import annotations

from typing import assert_never

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.checks import reasons as why
from breenix_gdbagent.checks.reasons import Reason, State

STATES: dict[State, str] = {
    State.NO_PERCPU: "no Breenix per-CPU block",
    State.GATES_NOT_KNOWN: (
        "no Breenix per-CPU block: which gates there should be is not known"
    ),
    State.NO_TSS: "no TSS could be read",
    State.NO_RING_3: "no CPU has a TSS with RSP0 set: ring 3 is not used yet",
    State.NO_THREAD_YET: (
        "no thread runs yet, and TSS.RSP0 is not set: nothing needs it so far"
    ),
    State.NO_KERNEL_STACK_YET: "no kernel stack is mapped yet: early boot",
    State.SWITCHING_THREADS: "no CPU is surely outside a switch of threads",
    State.SCHEDULER_LOCKED: "the scheduler's lock is taken: its state may be half changed",
    State.FREE_LIST_LOCKED: (
        "the free list's lock is taken: a frame is on its way in or out"
    ),
    State.HEAP_LOCKED: "the heap's lock is taken: its list may be half changed",
    State.ALLOCATOR_LOCKED: "an allocator's lock is taken",
    State.PROCESS_MANAGER_LOCKED: (
        "the process manager's lock is taken: a process may be half made"
    ),
    State.FIVE_LEVELS: "5-level paging: Breenix has slots of a PML4 only",
    State.TOO_MANY_TABLES: (
        "more page tables than any kernel has: the rest was not looked at"
    ),
    State.END_OF_RAM_NOT_KNOWN: "where RAM ends is not known (give --ram-size)",
    State.NO_SERIAL_TEXT: "there is no serial text",
    State.AT_NO_VECTOR: "the CPU that stopped stands at none of the vectors of VBAR_EL1",
    State.MEMORY_TYPES_NOT_KNOWN: "MAIR_EL1 is not known: which pages are of devices",
}


def reason_words(reason: Reason) -> str:
    """The reason as the report document has it."""
    match reason:
        case State():
            return STATES[reason]
        case why.NotRead(said):
            return said
        case why.FaultNotRead(cpu, said):
            return f"the fault of CPU {cpu}: {said}"
        case why.HandlerNotRead(arch):
            return f"whether a handler is at work is not read on {arch} yet"
        case why.TablesOf(arch):
            return f"this check does not read the page tables of {arch} yet"
        case why.ShutdownNotRead(said):
            return f"triple fault or reboot: {said}"
        case why.IdtNotRead(said):
            return f"the IDT: {said}"
        case why.TablesNotRead(space, said):
            return f"tables of {space or 'the master'}: {said}"
        case why.SharingNotRead(said):
            return f"what processes share on purpose is not known: {said}"
        case why.TableNotReached(what, cpu, va):
            place = f"{what} of CPU {cpu} at {hex64(va)}"
            return f"the tables on the way to {place} are not in the memory we have"
        case why.TableOfFirmware(what, va):
            gone = f"the {what} at {hex64(va)} is not mapped"
            return f"{gone}: the firmware's, it seems, and not replaced yet"
        case why.StackInTransit(stack):
            moving = f"{stack} is mapped in part and nobody's"
            return f"{moving}: being made or given back, it seems"
        case why.BottomsMissing(count):
            return f"the bottom of {counted(count, 'stack')} is not in the memory we have"
        case why.TablesMissing(count, first):
            many = counted(count, "table")
            return f"not in the memory we have: {many}, the first at {hex64(first)}"
        case why.TablesInTheMaking(count, first):
            many = f"{count} page tables have" if count > 1 else "a page table has"
            bare = f"{many} nothing of a process yet ({hex64(first)})"
            return f"{bare}: in the making, it seems, and not held to anything"
        case why.RootsLeftOut(count):
            alive = f"whether {count} of the roots found in RAM are alive is not known"
            return f"frames are used again here, and {alive}: their user halves were not looked at"
        case why.FrameNotRead(cpu):
            return f"the frame that CPU {cpu} was interrupted with cannot be read"
        case why.ProcessesUnscheduled(count):
            lost = "have a thread that the scheduler does not have: not held to anything"
            return f"{counted(count, 'process', 'processes')} {lost}"
        case why.HalfSaved(thread):
            return f"the process manager's lock is taken: {thread}'s may be half saved"
        case _:
            assert_never(reason)
