"""What the kernel says of its own tests, in each of the forms that it has for it."""

from __future__ import annotations

import struct

from breenix_gdbagent.addresses import PhysAddr
from breenix_gdbagent.kernel.own_tests import MAGIC, TABLE_BYTES, Suite, own_tests
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop
from tests.unit.checks.test_fault_mutations import quiet
from tests.writers.machine import Machine


def suites(*lines: str, stop: Stop | None = None) -> list[Suite]:
    text = "".join(f"{line}\n" for line in lines).encode()
    made = stop or quiet(Machine())
    return list(own_tests(Kernel(made._replace(serial=SerialText((SerialChunk(1, 0.0, text),))))))


def test_a_kernel_that_says_nothing() -> None:
    assert suites("all is well") == []


def test_the_last_tally_counts_and_names_what_failed() -> None:
    first = "[ INFO] k: TEST_TALLY: exited=1 nonzero=0 failed=[]"
    last = "[ INFO] k: TEST_TALLY: exited=102 nonzero=2 failed=[dns_test:2, http_test:-1]"
    assert suites(first, last) == [
        Suite("user programs", 100, 2, failures=("dns_test:2", "http_test:-1"))
    ]
    assert suites(first)[0].failed == 0


def test_the_runner_without_a_tally() -> None:
    (suite,) = suites("TEST RUNNER: FAILED - 1 of 9 userspace processes exited nonzero")
    assert (suite.passed, suite.failed) == (8, 1)


def test_contract_tests() -> None:
    (suite,) = suites(
        "[ INFO] kernel::contract_runner:   [PASS] TSS RSP0 valid",
        "[ERROR] kernel::contract_runner:   [FAIL] IST stacks valid: IST[0] is zero",
        "[ INFO] kernel::contract_runner:   [SKIP] No processes to test",
        "[ INFO] kernel::contract_runner: === Contract Tests Complete: 8 passed, 1 failed ===",
    )
    assert suite == Suite("contract tests", 8, 1, 1, ("IST stacks valid: IST[0] is zero",))


def test_boot_tests_behind_a_trace_on_the_same_line() -> None:
    (suite,) = suites(
        "<S>[SW]<T>[TEST:process:cohort:START]",
        "<S>[TEST:process:cohort:FAIL:balance=1]",
        "[TEST:userspace:wake:PASS][TEST:net:udp:SKIP]",
    )
    assert suite == Suite("boot tests", 1, 1, 1, ("process:cohort (balance=1)",))


def test_the_table_at_the_place_that_the_kernel_names() -> None:
    machine = Machine()
    stop = quiet(machine)
    place = 0x30000
    entries = [(0, 2, 0, 0, 0), (1, 3, 4, 9, 5), (2, 5, 3, 0, 0), (3, 1, 0, 0, 0), (4, 4, 0, 0, 0)]
    data = struct.pack("<Q4I3Q", MAGIC, 5, 4, 1, 2, 0, 0, 0)
    data += b"".join(struct.pack("<HBBII4x", *entry) for entry in entries)
    data = data.ljust(TABLE_BYTES, b"\0")

    class WithTable:
        ram = stop.memory.ram

        def read(self, pa: PhysAddr, length: int) -> bytes:
            if place <= pa < place + TABLE_BYTES:
                return data[pa - place : pa - place + length]
            return stop.memory.read(pa, length)

        def table(self, pa: PhysAddr) -> memoryview:
            return stop.memory.table(pa)

        def filled(self):  # type: ignore[no-untyped-def]
            return stop.memory.filled()

    (suite,) = suites(
        f"[btrt] Boot Test Result Table at phys {place:#018x} (8240 bytes)",
        "not ok 2 pci_enumeration # FAIL error_code=4 detail=0x5",
        stop=stop._replace(memory=WithTable()),
    )
    assert suite == Suite(
        "boot tests in its result table",
        1,
        2,
        1,
        ("pci_enumeration (not found 0x5)", "test 2 (timeout)"),
        ("test 3",),
    )
