"""What the kernel's own tests came to: as its log says, and as its table of results has it.

Four suites, as far as a kernel has them (Breenix kernel/src: contract_runner.rs,
syscall/handlers.rs, test_framework/executor.rs, btrt.rs and ktap.rs). Each is the kernel's word:
nothing is judged again here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import SerialText

PROGRAMS, CONTRACTS, BOOT, TABLE = (
    "user programs",
    "contract tests",
    "boot tests",
    "boot tests in its result table",
)

_TALLY = re.compile(r"TEST_TALLY: exited=(\d+) nonzero=(\d+) failed=\[([^\]]*)\]")
_RUNNER = re.compile(r"TEST RUNNER: FAILED(?: - (\d+) of (\d+))?")
_CONTRACTS = re.compile(r"Contract Tests Complete: (\d+) passed, (\d+) failed")
_CONTRACT = re.compile(r"  \[(PASS|FAIL|SKIP)\] ([^\r\n]*)")
_BOOT = re.compile(r"\[TEST:([\w:]+?):(PASS|FAIL|SKIP)(?::([^\]]*))?\]")
_KTAP = re.compile(r"(?m)^(?:not )?ok (\d+) ([^\s#]+)")
_TABLE_AT = re.compile(r"Boot Test Result Table at phys (0x[0-9a-f]+)")

TABLE_SYMBOL = "BTRT_TABLE"
MAGIC = 0x4254_5254_0001_0001
"""``BTRT``, version 1.1 of its layout."""
SLOTS = 512
_RUNNING, _PASS, _FAIL, _SKIP, _TIMEOUT = range(1, 6)
_WHY = {
    1: "panic", 2: "assertion", 3: "timeout", 4: "not found", 5: "I/O error", 6: "permission",
    7: "no memory", 8: "cannot be executed", 9: "signal", 10: "deadlock", 11: "corrupt",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite of the kernel's own tests. `failures` name what failed, with what was said of it;
    `unfinished` those that had begun and not ended. `failed` counts also what is not named."""

    name: str
    passed: int
    failed: int
    skipped: int = 0
    failures: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()


def own_tests(kernel: Kernel) -> tuple[Suite, ...]:
    """Every suite that this boot has said something of."""
    serial = kernel.stop.serial
    text = "\n".join(serial.port(port) for port in serial.ports)
    found = [*_contracts(text), *_boot(text), *_table(kernel, serial, text), *_programs(text)]
    return tuple(found)


def _programs(text: str) -> Iterator[Suite]:
    """The tally of exit codes; the last one counts (programs start others)."""
    tallies = _TALLY.findall(text)
    if tallies:
        exited, nonzero, failed = int(tallies[-1][0]), int(tallies[-1][1]), tallies[-1][2]
        names = tuple(name.strip() for name in failed.split(",") if name.strip())
        yield Suite(PROGRAMS, exited - nonzero, nonzero, failures=names)
    elif said := _RUNNER.search(text):
        failed, of = int(said[1] or 1), int(said[2] or said[1] or 1)
        yield Suite(PROGRAMS, of - failed, failed)


def _contracts(text: str) -> Iterator[Suite]:
    done = _CONTRACTS.search(text)
    lines = [(how, name.strip()) for how, name in _CONTRACT.findall(text)]
    if done is None and not lines:
        return
    failures = tuple(name for how, name in lines if how == "FAIL")
    skipped = sum(how == "SKIP" for how, _ in lines)
    passed = int(done[1]) if done else sum(how == "PASS" for how, _ in lines)
    yield Suite(CONTRACTS, passed, int(done[2]) if done else len(failures), skipped, failures)


def _boot(text: str) -> Iterator[Suite]:
    """``[TEST:subsystem:name:PASS]``; a test that says so twice counts once, as it last said."""
    last = {name: (how, why) for name, how, why in _BOOT.findall(text)}
    if not last:
        return
    count = {how: sum(said == how for said, _ in last.values()) for how in ("PASS", "FAIL", "SKIP")}
    failures = tuple(
        f"{name} ({why})" if why else name for name, (how, why) in last.items() if how == "FAIL"
    )
    yield Suite(BOOT, count["PASS"], count["FAIL"], count["SKIP"], failures)


def _table(kernel: Kernel, serial: SerialText, text: str) -> Iterator[Suite]:
    """The table in the kernel's memory: found by its symbol, else where the kernel said it is."""
    try:
        data = _table_bytes(kernel, text)
    except ReadError:
        return
    # Its import takes 50 ms, which only a kernel with such a table costs.
    from construct import Array, Int8ul, Int16ul, Int32ul, Int64ul, Padding, Struct

    entry = Struct(
        "test_id" / Int16ul, "status" / Int8ul, "error" / Int8ul, "duration_us" / Int32ul,
        "detail" / Int32ul, Padding(4),
    )  # fmt: skip
    layout = Struct(
        "magic" / Int64ul, "total" / Int32ul, "completed" / Int32ul, "passed" / Int32ul,
        "failed" / Int32ul, "began_ns" / Int64ul, "ended_ns" / Int64ul, Padding(8),
        "entries" / Array(SLOTS, entry),
    )  # fmt: skip
    table = layout.parse(data)
    names = {int(number) - 1: name for number, name in _KTAP.findall(text)}

    def named(status: int) -> list[tuple[str, int, int]]:
        return [
            (names.get(i, f"test {i}"), e.error, e.detail)
            for i, e in enumerate(table.entries)
            if e.status == status
        ]

    failures = [f"{name} ({_WHY.get(e, 'unknown')} {d:#x})" for name, e, d in named(_FAIL)]
    failures += [f"{name} (timeout)" for name, _, _ in named(_TIMEOUT)]
    yield Suite(
        TABLE,
        len(named(_PASS)),
        len(failures),
        len(named(_SKIP)),
        tuple(failures),
        tuple(name for name, _, _ in named(_RUNNING)),
    )


HEADER_BYTES = 48
ENTRY_BYTES = 16
TABLE_BYTES = HEADER_BYTES + SLOTS * ENTRY_BYTES


def _table_bytes(kernel: Kernel, text: str) -> bytes:
    """The table, where the kernel has filled in its head. Raises `ReadError`."""
    said = _TABLE_AT.search(text)
    if said is not None:
        pa = PhysAddr(int(said[1], 16))
        head = kernel.stop.memory.read(pa, 8)
        if int.from_bytes(head, "little") == MAGIC:
            return kernel.stop.memory.read(pa, TABLE_BYTES)
    root = kernel.reference_root
    if root is None:
        raise ReadError(kernel.stop.no_paging)
    va = kernel.stop.loaded.va_of(TABLE_SYMBOL)
    read = kernel.memory_of(root).read
    if int.from_bytes(read(va, 8), "little") != MAGIC:
        raise ReadError("the kernel has not begun its table of boot-test results")
    return read(va, TABLE_BYTES)
