"""Commands that look at the stop at hand."""

from __future__ import annotations

import shutil

from breenix_gdbagent import archive
from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.checks.run import RunFacts
from breenix_gdbagent.commands.ptspaces import chosen_root
from breenix_gdbagent.commands.shell.session import Session, arguments, command
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.locations import parse_address, parse_number
from breenix_gdbagent.report.document import History, RunRecord
from breenix_gdbagent.report.mappings import map_text, who_text
from breenix_gdbagent.report.tables import spaces_text, walk_text
from breenix_gdbagent.report.text import render
from breenix_gdbagent.x86.reverse import FrameIndex

SERIAL_LINES = 20
GENERAL = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
    "r13", "r14", "r15", "rip", "eflags", "cs", "ss", "fs_base", "gs_base", "k_gs_base", "cr0",
    "cr2", "cr3", "cr4", "efer",
)  # fmt: skip
PER_LINE = 4


@command("registers", "", "registers of every CPU; * marks what changed", "looking")
def _registers(session: Session, words: list[str]) -> int:
    for cpu in session.kernel.stop.cpus:
        print(f"CPU {cpu.index}, ring {cpu.cpl}" + (", halted" if cpu.halted else ""))
        cells = []
        for name in GENERAL:
            value = cpu.get(name)
            shown = "not known" if value is None else hex64(value)
            changed = session.previous.get(name, value) != value
            cells.append(f"{'*' if changed else ' '}{name:<9} {shown:<20}")
        for first in range(0, len(cells), PER_LINE):
            print("".join(cells[first : first + PER_LINE]).rstrip())
    return 0


@command("walk", "VA [ROOT]", "where an address leads, level by level", "looking")
def _walk(session: Session, words: list[str]) -> int:
    options = arguments("walk", words, ("va", ""), ("root", "?"))
    kernel = session.kernel
    root = chosen_root(kernel, options.root, None)
    if root is None:
        raise InputError("no CPU has paging on, so there is no root to walk from")
    walked = kernel.walk(root, parse_address(options.va, kernel.stop.image))
    print(walk_text(kernel, walked))
    return 0 if walked.mapped else 1


@command("roots", "", "every address space", "looking")
def _roots(session: Session, words: list[str]) -> int:
    print(spaces_text(session.kernel))
    return 0


@command("map", "[ROOT]", "all that one space maps, merged by rights", "looking")
def _map(session: Session, words: list[str]) -> int:
    options = arguments("map", words, ("root", "?"))
    kernel = session.kernel
    root = chosen_root(kernel, options.root, None)
    if root is None:
        raise InputError("no CPU has paging on: nothing is mapped yet")
    space = kernel.merged.space(root)
    print(map_text(kernel, space, space.ranges))
    return 0


@command("who", "PA", "who maps a physical address", "looking")
def _who(session: Session, words: list[str]) -> int:
    pa = parse_number(arguments("who", words, ("pa", "")).pa)
    if pa is None:
        raise InputError(f"{words[0]!r} is no physical address", fix="write it as 0x...")
    kernel = session.kernel
    index = FrameIndex(kernel.tables, [s.root for s in kernel.spaces], kernel.levels, kernel.nxe)
    print(who_text(kernel, index.who(pa)))
    return 0


@command("stacks", "", "kernel and IST stacks, their owners, who stands on them", "looking")
def _stacks(session: Session, words: list[str]) -> int:
    kernel = session.kernel
    on = {s.name: c.index for c in kernel.stop.cpus if (s := kernel.stack_at(c.rsp)) is not None}
    for stack in (*kernel.stacks, *kernel.ist):
        owners = ", ".join(kernel.owners_of(stack)) or "owner not known"
        here = f"   <- RSP of CPU {on[stack.name]}" if stack.name in on else ""
        print(f"{stack.name:<12} {hex64(stack.bottom)}-{hex64(stack.top)}  {owners}{here}")
    return 0


@command("audit", "", "all checks on this stop", "looking")
def _audit(session: Session, words: list[str]) -> int:
    kernel = session.kernel
    document = archive.finish(kernel, {"kind": "shell"}, RunRecord(), RunFacts(), History())
    print(render(document, shutil.get_terminal_size((100, 24)).columns))
    return int(any(f.weight == "error" for f in examine(kernel.stop, kernel).findings))


@command("fault", "", "the fault that the guest stopped at, explained", "looking")
def _fault(session: Session, words: list[str]) -> int:
    return _audit(session, words) if session.kernel.event is not None else _no_fault()


def _no_fault() -> int:
    print("this stop is no fault")
    return 1


@command("serial", "[LINES]", "the last lines of serial text", "looking")
def _serial(session: Session, words: list[str]) -> int:
    options = arguments("serial", words, ("lines", "?"))
    count = parse_number(options.lines) if options.lines else SERIAL_LINES
    if count is None:
        raise InputError(f"{options.lines!r} is no number of lines")
    text = session.kernel.stop.serial
    for port in text.ports:
        print(f"COM{port + 1}:")
        for line in text.port(port).splitlines()[-count:]:
            print(f"  {line}")
    return 0
