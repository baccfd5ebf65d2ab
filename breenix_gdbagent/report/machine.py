"""The machine at a stop, for a page: CPUs with registers and code, and the kernel's own tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.scheduler import Scheduler
from breenix_gdbagent.kernel.threads import Thread
from breenix_gdbagent.report.names import frames_text, heap_text
from breenix_gdbagent.views.code_around import CodeAround
from breenix_gdbagent.views.machine_state import CpuState, MachineState

Table = dict[str, Any]
"""``title``, ``heads``, ``rows`` (or ``lines`` of text), ``note``: what there is not, and why."""


def cpu_cells(state: MachineState | None, index: int) -> Table:
    """``registers`` [(name, value)], ``code`` lines and ``code_lacking`` of one CPU."""
    found = None if state is None else _cpu(state, index)
    if found is None:
        return {"general": [], "code": [], "code_lacking": ""}
    return {
        "general": [(name, hex64(value)) for name, value in found.registers],
        "code": list(_code(found.code)),
        "code_lacking": found.code.lacking,
    }


def _cpu(state: MachineState, index: int) -> CpuState | None:
    return next((one for one in state.cpus if one.index == index), None)


def _code(code: CodeAround) -> list[dict[str, Json]]:
    """A line an instruction; ``here`` is the one that is looked at."""
    return [
        {"address": hex64(i.address), "text": i.text, "here": i.address == code.at}
        for i in code.instructions
    ]


def tables_of(state: MachineState | None) -> list[Table]:
    """Processes, threads, heap and frame allocator; what is not there with its reason."""
    if state is None:
        return []
    lacking = dict(state.lacking)
    names = dict(state.names)
    parts = (
        _processes(state),
        _threads(state, names),
        _text("Kernel heap", state.heap, heap_text),
        _text("Frame allocator", state.frames, frames_text),
    )
    keys = ("processes", "threads", "heap", "frames")
    made = [{**part, "note": lacking.get(key, "")} for part, key in zip(parts, keys, strict=True)]
    # Where nothing is known of the kernel, one sentence four times helps nobody.
    return made if any(part["rows"] or part["lines"] for part in made) else []


def _processes(state: MachineState) -> Table:
    rows = [
        (
            str(p.pid),
            p.name,
            p.state + (f" ({p.exit_code})" if p.exit_code is not None else ""),
            hex64(p.effective_root) if p.effective_root else "-",
            "-" if p.parent is None else str(p.parent),
            ", ".join(map(str, p.thread_ids or ([p.thread.id] if p.thread else []))) or "-",
        )
        for p in state.processes or ()
    ]
    heads = ("pid", "name", "state", "root", "parent", "threads")
    return {"title": "Processes", "heads": heads, "rows": rows, "lines": []}


def _threads(state: MachineState, names: dict[int, str]) -> Table:
    rows = [_thread(t, state.scheduler, names) for t in state.threads or ()]
    heads = ("id", "name", "state", "CPU", "kernel stack below", "saved RIP", "saved RSP")
    return {"title": "Threads", "heads": heads, "rows": rows, "lines": []}


def _thread(
    thread: Thread, scheduler: Scheduler | None, names: dict[int, str]
) -> Sequence[str]:
    current = () if scheduler is None else scheduler.current
    rip, top = int(thread.context.rip), thread.kernel_stack_top
    return (
        str(thread.id),
        thread.name,
        thread.state,
        f"runs on {current.index(thread.id)}" if thread.id in current else "-",
        "-" if top is None else hex64(top),
        names.get(rip, hex64(rip)),
        hex64(thread.context.rsp),
    )


def _text(title: str, value: Any, text: Callable[[Any], str]) -> Table:
    lines = [] if value is None else [line.strip() for line in text(value).splitlines()]
    return {"title": title, "heads": (), "rows": [], "lines": lines}
