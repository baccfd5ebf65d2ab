"""Commands that let the guest run."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands.shell.session import Session, arguments, command
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.report.code import code_text, instructions

DEFAULT_SECONDS = 3600.0


@command(
    "continue", "[REGEX]", "run to a fault, a breakpoint or matching serial text", "running"
)
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


@command("step", "[COUNT]", "one instruction (by line where the ELF has lines)", "running")
def _step(session: Session, words: list[str]) -> int:
    return _stepi(session, words)


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
    print(code_text(kernel, instructions(kernel.memory_of(cpu.root).read, cpu.rip, 1)))
