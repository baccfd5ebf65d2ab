"""The shell's commands that read the current stop: ``context``, ``walk``, ``map``, ``stacks``, ...
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands.shell import context as views
from breenix_gdbagent.commands.shell.line import Line, arguments, count_of, parser_of
from breenix_gdbagent.commands.shell.registers import registers
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.kernel.stack_room import room_of
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.report.mappings import size_text
from breenix_gdbagent.x86.paging import frame_of

if TYPE_CHECKING:
    from breenix_gdbagent.arch.cpu import Cpu
    from breenix_gdbagent.kernel.percpu import PerCpu
    from breenix_gdbagent.kernel.stacks import KernelStack
    from breenix_gdbagent.kernel.view import Kernel
    from breenix_gdbagent.report.model import Report

SERIAL_LINES = 20
STACK_WORDS = 16
MEMORY_BYTES = 128
MOST_BYTES = 1 << 20
ROW = 16


def do_context(session: Session, line: Line) -> int:
    with session.while_stopped():
        arguments(line)
        print(views.context(session, session.event, session.screen.width))
    return 0


def do_registers(session: Session, line: Line) -> int:
    options = arguments(line, ("which", "?"))
    with session.while_stopped():
        stop = session.kernel.stop
        every = options.which == "all"
        if options.which not in (None, "all"):
            raise InputError(f"{options.which!r} is not `all`", fix="one register: print $NAME")
        for cpu in stop.cpus if every else [session.view.stop.cpu]:
            print(f"CPU {cpu.index}, {cpu.privilege}" + (", halted" if cpu.halted else ""))
            print("\n".join(registers(session, cpu, session.screen.width)))
    return 0


def do_cpu(session: Session, line: Line) -> int:
    options = arguments(line, ("number", "?"))
    with session.while_stopped():
        cpus = session.kernel.stop.cpus
        if options.number is None:
            chosen = session.view.stop.cpu.index
            for cpu in cpus:
                mark = "*" if cpu.index == chosen else " "
                print(mark, views.cpu_line(session.kernel, cpu))
            return 0
        number = parse_number(options.number)
        if number not in {cpu.index for cpu in cpus}:
            raise InputError(f"there is no CPU {options.number}", fix="list them: cpu")
        session.cpu = number
        print(views.context(session, session.event, session.screen.width))
    return 0


def do_walk(session: Session, line: Line) -> int:
    from breenix_gdbagent.report.tables import walk_text
    from breenix_gdbagent.views.roots import root_of
    from breenix_gdbagent.views.space_listing import root_label

    options = arguments(line, ("va", ""), ("root", "?"))
    with session.while_stopped():
        kernel = session.view
        root = root_of(kernel, options.root)
        walked = kernel.walk(root, address_of(session, options.va))
        print(walk_text(walked, root_label(kernel, root), kernel.symbol(walked.va)))
    return 0 if walked.mapped else 1


def do_roots(session: Session, line: Line) -> int:
    from breenix_gdbagent.report.tables import spaces_text

    arguments(line)
    with session.while_stopped():
        kernel = session.kernel
        print(spaces_text(kernel.spaces, kernel.no_roots, session.screen.width))
    return 0


def do_map(session: Session, line: Line) -> int:
    from breenix_gdbagent.report.mappings import map_text
    from breenix_gdbagent.views.roots import root_of
    from breenix_gdbagent.views.space_listing import space_listing

    options = arguments(line, ("root", "?"))
    with session.while_stopped():
        kernel = session.view
        root = root_of(kernel, options.root)
        space = kernel.merged.space(root)
        print(map_text(space_listing(kernel, space, space.ranges)))
    return 0


def do_who(session: Session, line: Line) -> int:
    from breenix_gdbagent.report.frame import who_text
    from breenix_gdbagent.views.frame_users import frame_users

    options = arguments(line, ("pa", ""))
    with session.while_stopped():
        kernel = session.kernel
        pa, said = _physical(session, options.pa)
        if said:
            print(said)
        print(who_text(frame_users(kernel, pa)))
    return 0


PHYSICAL = ("cr3",)
"""Registers that hold a physical address."""


def _physical(session: Session, text: str) -> tuple[int, str]:
    """The physical address that is asked for, and a word where it was named by a virtual one: a
    register or a symbol. A number is what it says. Raises `InputError`, `ReadError`."""
    from breenix_gdbagent.evaluation.operands import LOWER, REGISTERS
    from breenix_gdbagent.views.roots import root_of

    kernel, value = session.view, address_of(session, text)
    bare = text.strip().removeprefix("$")
    named = bare in {*REGISTERS, *LOWER} or re.match(r"[A-Za-z_<][\w:<>]*(\+\w+)?\Z", bare)
    if bare in PHYSICAL:
        return int(frame_of(value)), ""
    if not named:
        return value, ""
    walked = kernel.walk(root_of(kernel, None), value)
    if walked.pa is None:
        raise ReadError(
            f"{text} is the virtual address {hex64(value)}, and nothing is mapped there",
            fix="who takes a physical address: walk shows where a virtual one leads",
        )
    return walked.pa, f"{text} is the virtual address {hex64(value)}, physical {hex64(walked.pa)}"


def do_percpu(session: Session, line: Line) -> int:
    """What stands behind GS, CPU by CPU; exit code 1 where no CPU has a block."""
    arguments(line)
    with session.while_stopped():
        kernel = session.kernel
        for cpu in kernel.stop.cpus:
            block = kernel.percpu_of(cpu)
            if block is None:
                print(f"CPU {cpu.index}: GS leads to no per-CPU block")
                continue
            print(f"CPU {cpu.index}, block at {hex64(block.base)}")
            for name, text in _percpu_rows(kernel, cpu, block):
                print(f"  {name:<18} {text}")
    return 0 if kernel.percpus else 1


def _percpu_rows(kernel: Kernel, cpu: Cpu, block: PerCpu) -> Iterator[tuple[str, str]]:
    """(field, value with what it names)."""
    yield "cpu_id", str(block.cpu_id)
    thread = kernel.thread_of(cpu)
    named = f"  {thread.id} {thread.name}" if thread is not None else ""
    yield "current_thread", hex64(block.current_thread) + named
    yield "idle_thread", hex64(block.idle_thread)
    stack = kernel.stack_at(block.kernel_stack_top - 8)
    yield "kernel_stack_top", hex64(block.kernel_stack_top) + (f"  {stack.name}" if stack else "")
    yield "preempt_count", hex64(block.preempt_count)
    yield "need_resched", str(block.need_resched)
    yield "tss", hex64(block.tss)
    for name in ("next_cr3", "kernel_cr3", "saved_process_cr3"):
        root = getattr(block, name)
        space = kernel.space_of(root)
        yield name, hex64(root) + (f"  {space.label}" if root and space is not None else "")


def do_stacks(session: Session, line: Line) -> int:
    arguments(line)
    with session.while_stopped():
        kernel = session.kernel
        on: dict[str, list[int]] = {}
        for cpu in kernel.stop.cpus:
            rsp = cpu.stack
            held = None if rsp is None else kernel.stack_at(rsp)
            if held is not None:
                on.setdefault(held.name, []).append(cpu.index)
        for stack in (*kernel.stacks, *kernel.ist):
            dead = [f"{one.name}, which is over" for one in kernel.dead_owners_of(stack)]
            owners = ", ".join((*kernel.owners_of(stack), *dead)) or "owner not known"
            cpus = ", ".join(str(c) for c in on.get(stack.name, ()))
            here = f"   <- RSP of CPU {cpus}" if cpus else ""
            print(f"{stack.name:<12} {hex64(stack.bottom)}-{hex64(stack.top)}  {owners}{here}")
            print(f"{'':<12} {_room(kernel, stack)}")
    return 0


def _room(kernel: Kernel, stack: KernelStack) -> str:
    """What is free of a stack now, and was at its deepest use."""
    room = room_of(kernel, stack)
    said = "nobody stands on it" if room.free is None else f"{size_text(room.free)} free"
    if room.deepest is not None:
        left = size_text(room.deepest - stack.bottom)
        return f"{said}; used down to {hex64(room.deepest)} so far, {left} above its end"
    return f"{said}; " + (
        f"its use so far is not known: {room.unread}" if room.unread else "no use has left traces"
    )


def do_stack(session: Session, line: Line) -> int:
    options = arguments(line, ("count", "?"))
    with session.while_stopped():
        count = count_of(options.count, "words", STACK_WORDS)
        kernel = session.view
        trace = views.trace_of(kernel)
        print("\n".join(views.stack(kernel, session.screen.ink, count, trace)))
    return 0


def do_memory(session: Session, line: Line) -> int:
    options = arguments(line, ("va", ""), ("length", "?"))
    length = count_of(options.length, "bytes", MEMORY_BYTES)
    if length > MOST_BYTES:
        raise InputError(f"{length} bytes are more than are shown at once", fix=f"{MOST_BYTES}")
    with session.while_stopped():
        kernel = session.view
        va = address_of(session, options.va)
        root = kernel.stop.cpu.root
        if root is None or kernel.stop.cpu.paging is None:
            raise ReadError(kernel.stop.no_paging)
        read = kernel.memory_of(root).read
        for at in range(va, va + length, ROW):
            data = read(at, min(ROW, va + length - at))
            text = "".join(chr(b) if 32 <= b < 127 else "." for b in data)
            print(f"{hex64(at)}  {data.hex(' '):<{3 * ROW}} {text}")
    return 0


def do_audit(session: Session, line: Line) -> int:
    from breenix_gdbagent.commands.formats import verdict
    from breenix_gdbagent.report.text import render

    parser = parser_of(line)
    parser.add_argument("-v", "--verbose", action="store_true")
    verbose = parser.parse_args(line.words).verbose
    with session.while_stopped():
        report = _report(session)
        screen = session.screen
        print(render(report, screen.width, screen.ink.on, verbose))
    return verdict(report, "error")


def _report(session: Session) -> Report:
    """The report of the stop at hand."""
    from breenix_gdbagent import run_report
    from breenix_gdbagent.checks.run import facts_of
    from breenix_gdbagent.commands.target import description
    from breenix_gdbagent.report.document import History, RunRecord

    kernel, target = session.kernel, description(session.target)
    seen = session.examine()
    if not session.target.runs:
        beside = session.target.options.beside
        return run_report.document_of(kernel, beside, target, examined=seen)
    record, facts = RunRecord(seconds=kernel.stop.seconds), facts_of(kernel.stop.reason)
    return run_report.finish(kernel, target, record, facts, History(), seen)


def do_fault(session: Session, line: Line) -> int:
    from breenix_gdbagent.report.causes import fault_of
    from breenix_gdbagent.report.text import render_fault

    arguments(line)
    with session.while_stopped():
        kernel, screen = session.kernel, session.screen
        known = kernel.event is not None or kernel.stop.reason.kind in _FAULTED
        why = None if known else _no_fault(kernel)
        report = None if why is not None else _report(session)
        told = None if report is None else render_fault(report, screen.width, screen.ink.on)
        if report is None or told is None:
            print(why or "this stop is no fault")
            if session.target.runs:
                _say_what_is_caught(session)
            return 1
        print(told)
        found = fault_of(report)
        return int(found is not None and any(f.severity == "error" for f in found.told))


def _say_what_is_caught(session: Session) -> None:
    """Of a guest of somebody else's, and where nothing is caught."""
    vm = session.debugger.vm
    if vm.arming.armed_at is None:
        print(vm.arming.state)
    elif vm.config is None:
        print(f"faults are caught: {vm.arming.state}")


_FAULTED = ("shutdown", "panic", "handler")


def _no_fault(kernel: Kernel) -> str | None:
    """Why `fault` has nothing to tell of a stop; None where there is something after all: a CPU
    may stand in a handler, and the kernel may have panicked before."""
    from breenix_gdbagent.checks import faults
    from breenix_gdbagent.checks.finding import NotChecked
    from breenix_gdbagent.kernel.reason import in_panic
    from breenix_gdbagent.report.wording.reasons import reason_words

    try:
        if in_panic(kernel) or kernel.log.panics or next(faults.check(kernel), None) is not None:
            return None
    except NotChecked as lacking:
        return f"whether a fault led to this stop is not known: {reason_words(lacking.reason)}"
    return "this stop is no fault"


def do_serial(session: Session, line: Line) -> int:
    options = arguments(line, ("lines", "?"))
    if options.lines in ("on", "off"):
        session.serial_off = options.lines == "off"
        how = "kept and not shown" if session.serial_off else "shown"
        print(f"the guest's serial text is {how}")
        return 0
    count = count_of(options.lines, "lines", SERIAL_LINES)
    text = session.debugger.vm.serial if session.arbiter is not None else session.kernel.stop.serial
    for port in text.ports:
        print(f"COM{port + 1}:")
        for one in text.port(port).splitlines()[-count:]:
            print(f"  {one}")
    return 0


def address_of(session: Session, text: str) -> int:
    """A number, a register, a symbol or an expression. Raises `InputError`, `ReadError`."""
    from breenix_gdbagent.evaluation.expressions import address_at

    return address_at(session.evaluation, text)
