"""Commands that let the guest run."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands.shell.session import Session, arguments, command
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.kernel import trace
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_address, parse_number
from breenix_gdbagent.report.code import code_text, instructions
from breenix_gdbagent.report.names import spots
from breenix_gdbagent.stop import Stop

DEFAULT_SECONDS = 3600.0
MOST_STEPS = 20_000


@command("continue", "[REGEX]", "run to a fault, a breakpoint or matching serial text", "running")
def _continue(session: Session, words: list[str]) -> int:
    options = arguments("continue", words, ("until", "?"))
    vm = session.live().vm
    patterns = [options.until] if options.until else []
    session.show(vm.run_until(patterns, DEFAULT_SECONDS))
    where(session)
    return 0


@command("stepi", "[COUNT]", "one instruction, or several", "running")
def _stepi(session: Session, words: list[str]) -> int:
    options = arguments("stepi", words, ("count", "?"))
    count = parse_number(options.count) if options.count else 1
    if count is None or count < 1:
        raise InputError(f"{options.count!r} is no number of steps")
    vm = session.live().vm
    for _ in range(count):
        reason = vm.step()
        if reason.kind != "step":
            break
    session.show(vm.stop(reason))
    where(session)
    return 0


@command("step", "", "to the next source line, into calls", "running")
def _step(session: Session, words: list[str]) -> int:
    arguments("step", words)
    return _by_line(session, over=False)


@command("next", "", "to the next source line, over calls", "running")
def _next(session: Session, words: list[str]) -> int:
    arguments("next", words)
    return _by_line(session, over=True)


@command("finish", "", "until this function has returned", "running")
def _finish(session: Session, words: list[str]) -> int:
    arguments("finish", words)
    traced = trace.of_cpu(session.kernel, session.kernel.stop.cpu)
    if len(traced.frames) < 2 or traced.frames[1].ring:
        raise ReadError("there is no caller to return to", traced.end)
    caller = traced.frames[1]
    session.show(_run_to(session, caller.pc, caller.sp))
    where(session)
    return 0


@command("until", "LOCATION", "run to an address or symbol", "running")
def _until(session: Session, words: list[str]) -> int:
    options = arguments("until", words, ("location", ""))
    va = parse_address(options.location, session.kernel.stop.image)
    session.show(_run_to(session, va, 0))
    where(session)
    return 0


def _by_line(session: Session, *, over: bool) -> int:
    """Single steps until the source line is another; one instruction where no line is known."""
    vm = session.live().vm
    kernel = session.kernel
    begin = _line(kernel, kernel.stop.cpu.rip)
    floor = kernel.stop.cpu.rsp
    for _ in range(MOST_STEPS):
        reason = vm.step()
        stop = session.live().placed(vm.stop(reason))
        cpu = stop.cpu
        entered = stop.image.symbol_at(cpu.rip) if stop.image is not None else None
        if over and reason.kind == "step" and cpu.rsp < floor and entered and not entered.offset:
            back = int.from_bytes(vm.read(cpu.rsp, 8), "little")
            session.show(stop)
            stop = _run_to(session, back, cpu.rsp + 8)
            reason = stop.reason
        here = _line(Kernel(stop), stop.cpu.rip)
        if begin is None or reason.kind not in ("step", "breakpoint") or here not in (None, begin):
            break
    session.show(stop)
    where(session)
    return 0


def _line(kernel: Kernel, va: int) -> tuple[str | None, int | None] | None:
    """(file, line) of a kernel address, None where no line is known."""
    chain = spots(kernel.stop.image, va)
    return (chain[0].file, chain[0].line) if chain and chain[0].line else None


def _run_to(session: Session, va: int, sp: int) -> Stop:
    """Run to `va`, and on while the stack is deeper than `sp` there (a recursion): the stop."""
    vm = session.live().vm
    known = {b.address for b in vm.users}
    one = vm.insert(va)
    try:
        while True:
            stop = vm.run_until([], DEFAULT_SECONDS)
            if stop.reason.kind != "breakpoint" or stop.cpu.rip != va or stop.cpu.rsp >= sp:
                return session.live().placed(stop)
    finally:
        if va not in known and not vm.exited:
            vm.remove(one)


@command("break", "[LOCATION]", "stop at an address or symbol; without one: list them", "running")
def _break(session: Session, words: list[str]) -> int:
    options = arguments("break", words, ("location", "?"))
    control = session.live()
    if options.location is None:
        for number, one in enumerate(sorted(control.vm.users, key=lambda b: b.address), 1):
            name = control.describe(one.address)
            print(f"{number:>3}  {hex64(one.address)}  {name or ''}  {one.kind}")
        return 0
    control.stop_at(options.location)
    print(f"breakpoint at {options.location}")
    return 0


@command("delete", "[NUMBER]", "remove a breakpoint, or all", "running")
def _delete(session: Session, words: list[str]) -> int:
    options = arguments("delete", words, ("number", "?"))
    vm = session.live().vm
    users = sorted(vm.users, key=lambda b: b.address)
    if options.number is not None:
        number = parse_number(options.number)
        if number is None or not 1 <= number <= len(users):
            raise InputError(f"there is no breakpoint {options.number}", fix="list them: break")
        users = [users[number - 1]]
    for one in users:
        vm.remove(one)
    return 0


@command("send", "TEXT", "type into the guest's first serial port, with a newline", "running")
def _send(session: Session, words: list[str]) -> int:
    session.live().vm.send((" ".join(words) + "\n").encode())
    return 0


def where(session: Session) -> None:
    """Why the guest stopped and where: one line, and the instruction."""
    kernel = session.kernel
    stop = kernel.stop
    reason = stop.reason
    vector = f" vector {reason.vector}" if reason.vector is not None else ""
    text = f": {reason.text}" if reason.text else ""
    print(f"{reason.kind}{vector}{text} after {stop.seconds:.3f} s")
    cpu = stop.cpu
    if "rip" not in cpu.registers or cpu.root is None:
        if reason.exit_status is not None:
            print(f"QEMU has ended with status {reason.exit_status}")
        return
    line = _line(kernel, cpu.rip)
    if line is not None:
        print(f"{line[0]}:{line[1]}")
    print(code_text(kernel, instructions(kernel.memory_of(cpu.root).read, cpu.rip, 1)))
