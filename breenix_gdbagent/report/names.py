"""Frames, processes, threads and allocators in words and in JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.lock_state import LockState, LockUser
from breenix_gdbagent.report.mappings import size_text
from breenix_gdbagent.report.wording.base import lock_holder
from breenix_gdbagent.symbols.backtrace import Frame
from breenix_gdbagent.views.call_trace import CallTrace
from breenix_gdbagent.x86.vectors import VECTOR_NAMES

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.allocators import FrameAllocator, Heap
    from breenix_gdbagent.kernel.percpu import PerCpu
    from breenix_gdbagent.kernel.processes import Process
    from breenix_gdbagent.kernel.scheduler import Scheduler
    from breenix_gdbagent.kernel.spaces import Space
    from breenix_gdbagent.kernel.threads import Thread
    from breenix_gdbagent.symbols.spot import Spot
    from breenix_gdbagent.views.variables import ReadVariable

FEW_REGIONS = 4
FEW = 3  # frames of a stack overflow that are named as its largest


def trace_json(found: CallTrace) -> dict[str, Json]:
    """`bt --json`: frames from the innermost out, and why they end."""
    trace = found.trace
    frames: list[Json] = [
        {
            "pc": hex64(frame.pc),
            "sp": hex64(frame.sp),
            "name": frame.symbol.name if frame.symbol is not None else None,
            "offset": None if frame.symbol is None else hex64(frame.symbol.offset),
            "how": frame.how,
            "ring": frame.ring,
            "vector": frame.vector,
            "size": trace.size(number),
            "lines": lines_json(found, number),
            **_named_by(frame),
        }
        for number, frame in enumerate(trace.frames)
    ]
    return {"frames": frames, "end": trace.end}


def lines_json(found: CallTrace, number: int) -> list[Json]:
    """The functions of one frame, innermost first; with their variables where they were read."""
    variables = found.variables[number] if number < len(found.variables) else ()
    rows: list[Json] = []
    for depth, s in enumerate(found.spots[number]):
        row: dict[str, Json] = {
            "function": s.function, "file": s.file, "line": s.line, "inlined": s.inlined
        }  # fmt: skip
        if depth < len(variables):
            row["variables"] = [variable_json(one) for one in variables[depth]]
        rows.append(row)
    return rows


def _named_by(frame: Frame) -> dict[str, Json]:
    """What a frame of another architecture than x86-64 has besides."""
    if frame.names is None:
        return {}
    return {"level": frame.level if frame.ring else "EL1", "by": frame.by or None}


def variable_json(one: ReadVariable) -> dict[str, Json]:
    """A variable: its value in words, null where it has none, for the `reason`."""
    return {
        "name": one.name,
        "argument": one.argument,
        "type": one.type,
        "value": one.text,
        "reason": one.reason or None,
    }


def trace_text(found: CallTrace, most: int = 0) -> str:
    """One line a frame, its inlined callees above it; how each was found, why there are no more. A
    recursion is folded to its first round and its last. The innermost `most` frames alone, or with
    a negative number the outermost."""
    trace = found.trace
    lines = []
    folded = trace.folded()
    shown = folded if not most else folded[:most] if most > 0 else folded[most:]
    for number in shown:
        if isinstance(number, tuple):
            left, rounds = number
            told = f"{counted(rounds, 'more round')}, {counted(left, 'frame')}"
            lines.append(f"      ---- {told} ----")
        else:
            inner = found.variables[number] if number < len(found.variables) else ()
            lines += frame_lines(number, trace.frames[number], found.spots[number], inner)
    if most > 0 and len(shown) < len(folded):
        lines.append(f"     {counted(len(folded) - len(shown), 'more frame')}")
        return "\n".join(lines)
    lines.append(f"     no more: {trace.end}")
    circle = trace.cycle()
    if circle is not None:
        names, rounds = circle
        lines.append(f"     recursion: {' -> '.join(names)}, {rounds} rounds")
        largest = ", ".join(f"{f.name} {size} bytes each" for size, f in trace.largest(FEW))
        lines.append(f"     largest frames: {largest}")
    return "\n".join(lines)


def frame_lines(
    number: int,
    frame: Frame,
    chain: Sequence[Spot],
    variables: Sequence[Sequence[ReadVariable]] = (),
) -> list[str]:
    """One frame: what it was interrupted by, the calls inlined in it, itself; below each its
    variables where they were read."""
    inner = [[f"        {v.name} = {v.told}" for v in one] for one in variables]
    inner += [[]] * (max(len(chain), 1) - len(inner))
    lines = []
    if frame.vector is not None:
        name = frame.by or VECTOR_NAMES.get(frame.vector, f"vector {frame.vector}")
        lines.append(f"      ---- {name} interrupted: ----")
    elif frame.by:
        lines.append(f"      ---- {frame.by} interrupted: ----")
    for depth, spot in enumerate(chain[:-1]):
        lines.append(f"#{number:<3} {'(inlined)':>18}  {spot.function}{_place(spot)}")
        lines += inner[depth]
    place = _place(chain[-1]) if chain else ""
    lines.append(f"#{number:<3} {hex64(frame.pc):>18}  {_called(frame)}{place}   [{frame.how}]")
    return lines + inner[-1]


def _called(frame: Frame) -> str:
    if frame.ring:
        return frame.level
    return frame.name if frame.symbol is None else str(frame.symbol)


def _place(spot: Spot) -> str:
    return f" at {spot.file}:{spot.line}" if spot.file and spot.line else ""


def process_json(process: Process) -> dict[str, Json]:
    """One row of `ps --json`."""
    return {
        "pid": process.pid,
        "name": process.name,
        "state": process.state,
        "exit_code": process.exit_code,
        "root": _hex(process.root),
        "inherited_root": _hex(process.inherited_root),
        "threads": list[Json](process.thread_ids),
        "main_thread": process.thread.id if process.thread is not None else None,
        "parent": process.parent,
        "children": list[Json](process.children),
        "entry_point": _hex(process.entry_point),
        "memory": process.memory,
    }


def processes_text(processes: Sequence[Process], locked: bool | None) -> str:
    """`ps` as a table."""
    lines = [f"{'pid':>5} {'name':<26} {'state':<16} {'root':<12} {'parent':>6} threads"]
    for p in processes:
        state = p.state + (f"({p.exit_code})" if p.exit_code is not None else "")
        root = p.effective_root
        parent = "-" if p.parent is None else str(p.parent)
        ids = [str(t) for t in p.thread_ids] or ([str(p.thread.id)] if p.thread else [])
        lines.append(
            f"{p.pid:>5} {p.name:<26} {state:<16} {hex64(root) if root else '-':<12} {parent:>6} "
            f"{', '.join(ids) or '-'}"
        )
    if locked:
        lines.append("PROCESS_MANAGER is locked at this stop: a row may be half changed")
    return "\n".join(lines)


def root_json(space: Space) -> dict[str, Json]:
    """One row of `ps --json` where the kernel's types are not known: a root and its name."""
    return {
        "pid": space.pid,
        "name": space.name,
        "state": None,
        "root": hex64(space.root),
        "live": space.live,
        "source": space.source,
    }


def roots_text(spaces: Sequence[Space], lacking: str) -> str:
    """`ps` of those rows."""
    lines = [f"{'pid':>5} {'name':<26} {'root':<12} {'runs':<5} known by"]
    told = [one for one in spaces if one.name is not None or one.live]
    for one in told:
        pid = "-" if one.pid is None else str(one.pid)
        lives = "?" if one.live is None else "yes" if one.live else "no"
        lines.append(
            f"{pid:>5} {one.name or '-':<26} {hex64(one.root):<12} {lives:<5} {one.source}"
        )
    if left := len(spaces) - len(told):
        lines.append(f"and {counted(left, 'root')} that nobody has a name for: pt roots")
    lines.append(f"states, threads and parents are not checked: {lacking}")
    return "\n".join(lines)


def running_json(cpu: int, block: PerCpu, name: str | None) -> dict[str, Json]:
    """One row of `threads --json` where the kernel's types are not known."""
    return {
        "cpu": cpu,
        "address": hex64(block.current_thread),
        "name": name,
        "kernel_stack_top": hex64(block.kernel_stack_top),
    }


def running_text(rows: Sequence[tuple[int, PerCpu, str | None]], lacking: str) -> str:
    """`threads` of those rows."""
    lines = [
        f"CPU {cpu} runs the thread at {hex64(block.current_thread)}"
        + (f", {name}" if name else "")
        + f", kernel stack top {hex64(block.kernel_stack_top)}"
        for cpu, block, name in rows
    ]
    return "\n".join([*lines, f"other threads are not checked: {lacking}"])


def thread_json(thread: Thread, scheduler: Scheduler) -> dict[str, Json]:
    """One row of `threads --json`; `cpu` is the CPU that runs it, `queued` its place in the ready
    queue of a CPU, the next to run first."""
    queued: Json = None
    for cpu, queue in enumerate(scheduler.ready):
        if thread.id in queue:
            queued = {"cpu": cpu, "position": queue.index(thread.id)}
    current = scheduler.current
    return {
        "id": thread.id,
        "name": thread.name,
        "copy": thread.copy,
        "state": thread.state,
        "privilege": thread.privilege,
        "cpu": current.index(thread.id) if thread.id in current else None,
        "rip": hex64(thread.context.rip),
        "rsp": hex64(thread.context.rsp),
        "kernel_stack_top": _hex(thread.kernel_stack_top),
        "kernel_stack_slot": thread.kernel_stack_slot,
        "owner_pid": thread.owner_pid,
        "queued": queued,
    }


def threads_text(
    threads: Sequence[Thread], scheduler: Scheduler, describe: Callable[[int], str]
) -> str:
    """`threads` as a table: both copies of a thread where two exist; then each CPU's queue.
    `describe` gives an address with its symbol."""
    current = scheduler.current
    lines = [
        f"{'id':>4} {'name':<24} {'copy':<10} {'state':<20} {'cpu':<4} {'kernel stack below':<18}  "
        "saved RIP, RSP"
    ]
    for t in threads:
        cpu = str(current.index(t.id)) if t.id in current and t.copy == "scheduler" else ""
        top = "-" if t.kernel_stack_top is None else hex64(t.kernel_stack_top)
        lines.append(
            f"{t.id:>4} {t.name:<24} {t.copy:<10} {t.state:<20} {cpu:<4} {top:<18}  "
            f"{describe(t.context.rip)}, {hex64(t.context.rsp)}"
        )
    for number, queue in enumerate(scheduler.ready):
        runs, idle = scheduler.current_of(number), scheduler.idle[number : number + 1]
        lines.append(
            f"CPU {number} runs {'nothing' if runs is None else f'thread {runs}'}, "
            f"ready: {', '.join(map(str, queue)) or 'none'}, "
            f"idle thread: {idle[0] if idle and idle[0] is not None else 'none'}"
        )
    if scheduler.locked:
        lines.append("SCHEDULER is locked at this stop: a row may be half changed")
    return "\n".join(lines)


def heap_json(heap: Heap) -> dict[str, Json]:
    """`heap --json`."""
    return {
        "kind": heap.kind,
        "start": hex64(heap.start),
        "end": hex64(heap.end),
        "size": heap.size,
        "used": heap.used,
        "free": heap.free,
        "next": _hex(heap.next),
        "allocations": heap.allocations,
        "first_hole": _hex(heap.first),
        "locked": heap.locked,
    }


def heap_text(heap: Heap) -> str:
    """`heap` in a few lines."""
    lines = [
        f"kernel heap ({heap.kind} allocator) {hex64(heap.start)}-{hex64(heap.end)}, "
        f"{size_text(heap.size)}",
        f"  used {size_text(heap.used)}, free {size_text(heap.free)}",
    ]
    if heap.next is not None:
        lines.append(f"  next block at {hex64(heap.next)}, {heap.allocations} live blocks")
    if heap.first is not None:
        lines.append(f"  first hole at {hex64(heap.first)}")
    if heap.locked:
        lines.append("  the heap is locked at this stop: its account may be half changed")
    return "\n".join(lines)


def frames_json(frames: FrameAllocator) -> dict[str, Json]:
    """`frames --json`."""
    return {
        "total": frames.total,
        "used": frames.used,
        "free": frames.free,
        "frontier": frames.frontier,
        "free_list": len(frames.free_list) if frames.has_free_list else None,
        "ledger": frames.ledger is not None,
        "regions": [{"start": hex64(a), "end": hex64(b)} for a, b in frames.regions],
        "locked": frames.locked,
    }


def frames_text(frames: FrameAllocator) -> str:
    """`frames` in a few lines."""
    lines = [
        f"{frames.used} of {frames.total} frames in use ({size_text(frames.used * 4096)}), "
        f"{frames.free} free",
        f"  frontier: {frames.frontier} were given out once",
    ]
    if frames.has_free_list:
        lines.append(f"  {len(frames.free_list)} came back and wait in the free list")
    shown = frames.regions[:FEW_REGIONS]
    lines += [f"  usable RAM {hex64(a)}-{hex64(b)}" for a, b in shown]
    if len(frames.regions) > len(shown):
        more = len(frames.regions) - len(shown)
        lines.append(f"  and {counted(more, 'more region')}, up to {hex64(frames.regions[-1][1])}")
    return "\n".join(lines)


def _hex(value: int | None) -> str | None:
    return None if value is None else hex64(value)


def locks_json(states: Sequence[LockState]) -> list[Json]:
    """`locks --json`."""
    return [
        {
            "name": one.name,
            "address": hex64(one.address),
            "taken": one.taken,
            "waiting": [_lock_user(user) for user in one.waiting],
            "holder": None if one.holder is None else _lock_user(one.holder),
        }
        for one in states
    ]


def _lock_user(user: LockUser) -> dict[str, Json]:
    return {"cpu": user.cpu, "function": user.function}


def lock_lines(lock: LockState) -> list[str]:
    """Who holds a lock that is taken, and who spins on it."""
    spin = [f"  CPU {user.cpu} spins on it, in {user.function}" for user in lock.waiting]
    return [f"  {lock_holder(lock.holder)}", *spin]


def locks_text(states: Sequence[LockState]) -> str:
    """`locks`: each that is taken, who spins on it and who holds it; how many are free."""
    lines = []
    for one in states:
        if one.taken:
            lines += [f"{one.name} at {hex64(one.address)}: taken", *lock_lines(one)]
    free = sum(not one.taken for one in states)
    lines.append(f"{counted(free, 'lock')} {'is' if free == 1 else 'are'} free")
    return "\n".join(lines)
