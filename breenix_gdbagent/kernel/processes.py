"""The process table (Breenix: kernel/src/process/manager.rs, process.rs), shapes of both eras."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.addresses import PhysAddr, VirtAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.threads import Thread, read_thread
from breenix_gdbagent.kernel.typed import field, held, number, numbers, optional, static_of
from breenix_gdbagent.symbols.values import Value, Values
from breenix_gdbagent.x86.paging import frame_of

MOST_PROCESSES = 1 << 14
MOST_THREADS = 1 << 12
MOST_AREAS = 1 << 12
MAP_SHARED = 1  # kernel/src/memory/vma.rs (2026), MmapFlags

MANAGER = "kernel::process::PROCESS_MANAGER"
RECLAIMS = (
    # 2026: address spaces of the dead, kept while a CPU may still stand on them (process_task.rs).
    "kernel::task::process_task::PENDING_PROCESS_RECLAIMS",
    "kernel::task::process_task::PARKED_PROCESS_RECLAIMS",
)


@dataclass(frozen=True, slots=True)
class Process:
    """One row of the process table. `root` is its own page table, `inherited_root` that of the
    parent whose address space it uses (2026, CLONE_VM); `old_roots` wait to be freed (after exec).
    `shared` are [start, end) that it shares on purpose (2026, MAP_SHARED).
    """

    pid: int
    name: str
    state: str
    exit_code: int | None
    entry_point: VirtAddr | None
    root: PhysAddr | None
    inherited_root: PhysAddr | None
    old_roots: tuple[PhysAddr, ...]
    thread: Thread | None
    thread_ids: tuple[int, ...]
    parent: int | None
    children: tuple[int, ...]
    memory: int | None
    user_stack: tuple[VirtAddr, VirtAddr] | None
    shared: tuple[tuple[VirtAddr, VirtAddr], ...] = ()

    @property
    def alive(self) -> bool:
        return self.state != "Terminated"

    @property
    def effective_root(self) -> PhysAddr | None:
        """What CR3 has to be while it runs (Process::cr3_value)."""
        return self.root if self.root is not None else self.inherited_root


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """All processes in order of pid, and roots of the dead that are still kept on purpose.

    `locked` is the manager's lock byte: what is read while it is taken may be half changed.
    """

    processes: tuple[Process, ...]
    reclaiming: tuple[tuple[int, PhysAddr], ...]
    locked: bool | None
    current: int | None

    def by_pid(self, pid: int) -> Process | None:
        return next((p for p in self.processes if p.pid == pid), None)

    def by_thread(self, thread_id: int) -> Process | None:
        """The process that a thread belongs to."""
        for process in self.processes:
            own = process.thread
            if (own is not None and own.id == thread_id) or thread_id in process.thread_ids:
                return process
        return None


def read_processes(values: Values) -> ProcessTable:
    """The process table. Raises `ReadError` when it does not exist yet or cannot be read."""
    manager = static_of(values, MANAGER, "PROCESS_MANAGER")
    inside = manager.some()
    if inside is None:
        raise ReadError("the kernel has no process manager yet")
    found = [
        read_process(pid.integer(), row) for pid, row in inside["processes"].entries(MOST_PROCESSES)
    ]
    return ProcessTable(
        tuple(found), _reclaiming(values), held(manager), optional(inside, "current_pid")
    )


def has_manager(values: Values) -> bool:
    """Whether the process table was made (`process::init`). Raises `ReadError`."""
    return static_of(values, MANAGER, "PROCESS_MANAGER").some() is not None


def read_process(pid: int, row: Value) -> Process:
    """One `Process`. Raises `ReadError`."""
    thread = row["main_thread"].some()
    name, payload = row["state"].variant()
    usage = row.field("memory_usage")
    sizes = ("code_size", "heap_size", "stack_size")
    return Process(
        pid=pid,
        name=row["name"].text(256),
        state=name,
        exit_code=_exit_code(row, payload),
        entry_point=_address(number(row, "entry_point")),
        root=_root(row.field("page_table")),
        inherited_root=_physical(optional(row, "inherited_cr3")),
        old_roots=_old_roots(row.field("pending_old_page_tables")),
        thread=None if thread is None else read_thread(thread, "process"),
        thread_ids=numbers(row.field("threads"), MOST_THREADS),
        parent=optional(row, "parent"),
        children=numbers(row.field("children"), MOST_PROCESSES),
        memory=None if usage is None else sum(usage[part].integer() for part in sizes),
        user_stack=_user_stack(row),
        shared=_shared(row.field("vmas")),
    )


def _exit_code(row: Value, state: Value | None) -> int | None:
    code = optional(row, "exit_code")
    if code is None and state is not None and state.type.members:
        code = state.part(state.type.members[0]).integer()
    return code


def _user_stack(row: Value) -> tuple[VirtAddr, VirtAddr] | None:
    bottom, top = number(row, "user_stack_bottom"), number(row, "user_stack_top")
    if bottom is None or top is None:
        stack = row.field("stack")
        inside = None if stack is None else stack.some()
        if inside is None:
            return None
        bottom, top = number(inside, "bottom", "stack_bottom"), number(inside, "top", "stack_top")
    if not bottom or not top:
        return None
    return VirtAddr(bottom), VirtAddr(top)


def _shared(areas: Value | None) -> tuple[tuple[VirtAddr, VirtAddr], ...]:
    if areas is None:
        return ()
    return tuple(
        (VirtAddr(area["start"].integer()), VirtAddr(area["end"].integer()))
        for area in areas.items(MOST_AREAS)
        if area["flags"].integer() & MAP_SHARED
    )


def _root(page_table: Value | None) -> PhysAddr | None:
    inside = None if page_table is None else page_table.some()
    return None if inside is None else _frame_of(inside)


def _frame_of(page_table: Value) -> PhysAddr:
    """The PML4 of a ``ProcessPageTable`` (PhysFrame -> PhysAddr -> u64)."""
    found = field(page_table, "level_4_frame")
    if found is None:
        raise ReadError(f"{page_table.type.name} has no level_4_frame")
    return frame_of(found["start_address"].integer())


def _old_roots(tables: Value | None) -> tuple[PhysAddr, ...]:
    if tables is None:
        return ()
    return tuple(_frame_of(table) for table in tables.items(MOST_PROCESSES))


def _reclaiming(values: Values) -> tuple[tuple[int, PhysAddr], ...]:
    found: list[tuple[int, PhysAddr]] = []
    for path in RECLAIMS:
        try:
            rows = static_of(values, path)
        except ReadError:
            continue
        for row in rows.peel().items(MOST_PROCESSES):
            pid = row["pid"].integer()
            own = _root(row.field("page_table"))
            roots = [*([own] if own is not None else []), *_old_roots(row.field("old_page_tables"))]
            found += [(pid, root) for root in roots]
    return tuple(found)


def _address(value: int | None) -> VirtAddr | None:
    return None if value is None else VirtAddr(value)


def _physical(value: int | None) -> PhysAddr | None:
    return frame_of(value) if value else None
