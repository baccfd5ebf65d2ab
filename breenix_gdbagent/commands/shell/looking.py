"""Commands that look at the stop at hand."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands.shell import context as views
from breenix_gdbagent.commands.shell.registers import registers
from breenix_gdbagent.commands.shell.session import Line, Session, arguments, count_of
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.locations import parse_address, parse_number

SERIAL_LINES = 20
STACK_WORDS = 16
MEMORY_BYTES = 128
MOST_BYTES = 1 << 20
ROW = 16


def do_context(session: Session, line: Line) -> int:
    with session.standing():
        arguments(line)
        print(views.context(session, session.halt, session.screen.width))
    return 0


def do_registers(session: Session, line: Line) -> int:
    options = arguments(line, ("which", "?"))
    with session.standing():
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
    with session.standing():
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
        print(views.context(session, session.halt, session.screen.width))
    return 0


def do_walk(session: Session, line: Line) -> int:
    from breenix_gdbagent.commands.ptspaces import chosen_root
    from breenix_gdbagent.commands.ptwalk import no_root
    from breenix_gdbagent.report.tables import walk_text

    options = arguments(line, ("va", ""), ("root", "?"))
    with session.standing():
        kernel = session.view
        root = chosen_root(kernel, options.root, None)
        if root is None:
            raise no_root(kernel.stop)
        walked = kernel.walk(root, parse_address(options.va, kernel.stop.image))
        print(walk_text(kernel, walked))
    return 0 if walked.mapped else 1


def do_roots(session: Session, line: Line) -> int:
    from breenix_gdbagent.report.tables import spaces_text

    arguments(line)
    with session.standing():
        print(spaces_text(session.kernel))
    return 0


def do_map(session: Session, line: Line) -> int:
    from breenix_gdbagent.commands.ptspaces import chosen_root
    from breenix_gdbagent.commands.ptwalk import no_root
    from breenix_gdbagent.report.mappings import map_text

    options = arguments(line, ("root", "?"))
    with session.standing():
        kernel = session.view
        root = chosen_root(kernel, options.root, None)
        if root is None:
            raise no_root(kernel.stop)
        space = kernel.merged.space(root)
        print(map_text(kernel, space, space.ranges))
    return 0


def do_who(session: Session, line: Line) -> int:
    from breenix_gdbagent.report.mappings import who_text
    from breenix_gdbagent.x86.reverse import FrameIndex

    options = arguments(line, ("pa", ""))
    pa = parse_number(options.pa)
    if pa is None:
        raise InputError(f"{options.pa!r} is no physical address", fix="write it as 0x...")
    with session.standing():
        kernel = session.kernel
        roots = [s.root for s in kernel.spaces]
        index = FrameIndex(kernel.tables, roots, kernel.levels, kernel.nxe)
        print(who_text(kernel, index.who(pa)))
    return 0


def do_stacks(session: Session, line: Line) -> int:
    arguments(line)
    with session.standing():
        kernel = session.kernel
        on: dict[str, list[int]] = {}
        for cpu in kernel.stop.cpus:
            rsp = cpu.get("rsp")
            held = None if rsp is None else kernel.stack_at(rsp)
            if held is not None:
                on.setdefault(held.name, []).append(cpu.index)
        for stack in (*kernel.stacks, *kernel.ist):
            owners = ", ".join(kernel.owners_of(stack)) or "owner not known"
            cpus = ", ".join(str(c) for c in on.get(stack.name, ()))
            here = f"   <- RSP of CPU {cpus}" if cpus else ""
            print(f"{stack.name:<12} {hex64(stack.bottom)}-{hex64(stack.top)}  {owners}{here}")
    return 0


def do_stack(session: Session, line: Line) -> int:
    options = arguments(line, ("count", "?"))
    with session.standing():
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
    with session.standing():
        kernel = session.view
        va = parse_address(options.va, kernel.stop.image)
        root = kernel.stop.cpu.root
        if root is None or kernel.stop.cpu.paging is None:
            raise ReadError("paging is not on yet: there are no virtual addresses")
        read = kernel.memory_of(root).read
        for at in range(va, va + length, ROW):
            data = read(at, min(ROW, va + length - at))
            text = "".join(chr(b) if 32 <= b < 127 else "." for b in data)
            print(f"{hex64(at)}  {data.hex(' '):<{3 * ROW}} {text}")
    return 0


def do_audit(session: Session, line: Line) -> int:
    from breenix_gdbagent import archive
    from breenix_gdbagent.checks.examine import examine
    from breenix_gdbagent.checks.run import RunFacts
    from breenix_gdbagent.report.document import History, RunRecord
    from breenix_gdbagent.report.text import render

    arguments(line)
    with session.standing():
        kernel = session.kernel
        seen = examine(kernel.stop, kernel)
        record, facts, history = RunRecord(), RunFacts(), History()
        document = archive.finish(kernel, {"kind": "shell"}, record, facts, history, seen)
        print(render(document, session.screen.width, session.screen.ink.on))
    return int(any(f.weight == "error" for f in seen.findings))


def do_fault(session: Session, line: Line) -> int:
    arguments(line)
    with session.standing():
        kind = session.kernel.stop.reason.kind
        if session.kernel.event is None and kind not in ("shutdown", "panic", "handler"):
            print("this stop is no fault")
            return 1
        return do_audit(session, line)


def do_serial(session: Session, line: Line) -> int:
    options = arguments(line, ("lines", "?"))
    count = count_of(options.lines, "lines", SERIAL_LINES)
    text = session.debugger.vm.serial if session.arbiter is not None else session.kernel.stop.serial
    for port in text.ports:
        print(f"COM{port + 1}:")
        for one in text.port(port).splitlines()[-count:]:
            print(f"  {one}")
    return 0
