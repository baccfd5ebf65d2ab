"""What people write: expressions, scripts, machines, numbers, lines; and what a guest logs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from breenix_gdbagent import configs
from breenix_gdbagent.commands.expectations import parse_expectation, read_baseline
from breenix_gdbagent.commands.shell.line import Line
from breenix_gdbagent.commands.shell.texts import COMMANDS
from breenix_gdbagent.debugger.script import parse_script
from breenix_gdbagent.errors import AgentError
from breenix_gdbagent.evaluation.evaluation import Evaluation
from breenix_gdbagent.evaluation.expressions import parse, parse_list
from breenix_gdbagent.kernel.serial_log import read_log
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.link.address import Address
from breenix_gdbagent.locations import parse_address, parse_number
from breenix_gdbagent.memory.ramfile import parse_ram_size
from breenix_gdbagent.report import pasted
from breenix_gdbagent.stop import SerialChunk, SerialText
from tests.fuzz.target import Target, as_file
from tests.writers.machine import DATA, TEXT, Machine


@cache
def _kernel() -> Kernel:
    machine = Machine()
    machine.write(DATA, bytes(range(64)), machine.root)
    stop = machine.fault(14, TEXT + 0x100, ring=3, error=4, cr2=0x1234)
    return Kernel(stop)


def expression(data: bytes) -> None:
    told = data.decode("latin-1")
    for one in parse_list(told):
        one.shown(Evaluation.of(_kernel()))
    found = parse(told)
    try:
        found.holds(Evaluation.of(_kernel()))
    except AgentError:
        return


def expression_seeds() -> Iterator[bytes]:
    yield b"rdi == 3 and cpu != 2 or not ring >= 0x3"
    yield f"u64[{DATA:#x} + 8] & 0xfff == 0 || u8[rip] << 3 > -1".encode()
    yield b'process.name == "init", &syscall_entry, SCHEDULER.list[0].1'
    yield b"k::task::Thread@rdi.state == 'Ready' && $eax % 7 / 2 ^ ~1 <= None"
    yield b"`odd name`@(1 - 2 * 3), true, false, tid, pid"


def script(data: bytes) -> None:
    parse_script(data.decode("latin-1").split("\n"))


def script_seeds() -> Iterator[bytes]:
    yield b"# a comment\nexpect login: \nsend root\nexpect (ok|done) [0-9]{1,3}\nsend \n"
    yield b"expect ^(?:a*?)+\\d(?=x)(?P<n>.)(?i:y)$\n"


def machine(data: bytes) -> None:
    path = _folder() / "fuzzed.toml"
    path.write_bytes(data)
    found = configs.load(str(path))
    found.with_settings(smp=2, memory="1G")
    found.command_line(configs.Files(), {})


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-machine-"))


def machine_seeds() -> Iterator[bytes]:
    for path in sorted(configs.directory().glob("*.toml")):
        yield path.read_bytes()
    yield (
        b'name = "x"\nprogram = "qemu-system-x86_64"\nserial_ports = 2\nneeds = []\n'
        b'arguments = ["-m", "{memory}", "-smp", "{smp}"]\n[settings]\nsmp = 2\n'
        b'memory = "64M"\n[when]\nnetwork = ["-net"]\n[markers]\nsuccess = "ok"\nprogress = ["a"]\n'
        b'[exit]\nsuccess = [33]\nfailed = [35]\n[[firmware]]\ncode = "/c"\nvars = "/v"\n'
    )


def words(data: bytes) -> None:
    """The first byte says what the rest is: all that is short and typed by people."""
    told = data[1:].decode("latin-1")
    readers = (
        lambda: parse_number(told),
        lambda: parse_address(told, None),
        lambda: Address.parse(told),
        lambda: parse_ram_size(told),
        lambda: parse_expectation(told),
        lambda: Line(next(iter(COMMANDS.values())), told).words,
        lambda: pasted.read(told),
    )
    readers[(data[0] if data else 0) % len(readers)]()


def words_seeds() -> Iterator[bytes]:
    yield b"\0" + b"0xffff_c900_0000_1000"
    yield b"\1" + b"kernel::main+0x10"
    yield b"\2" + b"tcp:[::1]:1234"
    yield b"\3" + b"0-0xa0000,1M-512M"
    yield b"\4" + b"page-fault.unmapped@init"
    yield b"\5" + b"walk 'a b' --root 0x1000 # note"
    yield b"\6" + b"PAGE FAULT at 0x1234 Error Code: 0x6 (PageFaultErrorCode(CAUSED_BY_WRITE))"


def log(data: bytes) -> None:
    found = read_log(SerialText((SerialChunk(0, 0.0, data), SerialChunk(1, 0.0, data[::-1]))))
    assert all(p.pid >= 0 for p in found.processes)


def log_seeds() -> Iterator[bytes]:
    yield (
        b"Allocated L4 frame: 0x1000\nCreated process init (PID 1)\nForking process 1 'init' -> "
        b"child PID 2\nKilling process a (PID 3)\nProcess 1 (init) exited\nKERNEL PANIC: x\xff\n"
    )


def baseline(data: bytes) -> None:
    with as_file(data) as path:
        read_baseline(path)


def baseline_seeds() -> Iterator[bytes]:
    yield b'{"schema": 1, "fingerprints": ["heap.leak:kernel", "panic:init"]}'


TARGETS = (
    Target("expression", expression, expression_seeds, longest=4096),
    Target("script", script, script_seeds, longest=2048),
    Target("machine", machine, machine_seeds),
    Target("words", words, words_seeds, longest=512),
    Target("baseline", baseline, baseline_seeds, longest=512),
    Target("log", log, log_seeds, longest=1024),
)
