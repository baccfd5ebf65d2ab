"""The captures of the real kernel, bare cores: what was known when they were taken."""

from __future__ import annotations

from typing import Any

import pytest

from breenix_gdbagent.checks.faults import check
from breenix_gdbagent.kernel.reason import with_reason
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.memory.ramfile import parse_ram_size
from breenix_gdbagent.snapshot.opening import open_snapshot
from breenix_gdbagent.stop import SerialChunk, SerialText, Stop
from tests.said import evidence, summary
from tests.unit.captures import BREENIX, LINUX, capture, truth_of


def opened(name: str) -> Stop:
    folder = capture(name)
    stop = open_snapshot(folder / "core.elf", parse_ram_size("512M"))
    texts = [folder / "serial.txt", folder / "serial2.txt"]
    chunks = [SerialChunk(i, 0.0, p.read_bytes()) for i, p in enumerate(texts) if p.is_file()]
    return with_reason(stop._replace(serial=SerialText(tuple(chunks))))


@pytest.mark.parametrize("name", BREENIX[:2])
def test_the_reason_is_inferred(name: str) -> None:
    truth: Any = truth_of(name)
    stop = opened(name)
    assert (stop.reason.kind, stop.reason.vector) == ("fault", truth["stop"]["vector"])
    event = Kernel(stop).event
    frame = truth["stop"]["frame"]
    assert event is not None
    assert event.error_code == int(frame["error_code"], 16)
    told = [event.rip, event.cs, event.rflags, event.rsp, event.ss]
    assert told == [int(frame[n], 16) for n in ("rip", "cs", "rflags", "rsp", "ss")]


@pytest.mark.parametrize("name", (BREENIX[2], *LINUX))
def test_an_ordinary_moment_stays_one(name: str) -> None:
    stop = opened(name)
    assert stop.reason.kind == "core"
    assert list(check(Kernel(stop))) == []


def test_the_first_general_protection_fault_of_ring_3() -> None:
    (finding,) = check(Kernel(opened("breenix-first-gp")))
    assert finding.code.name == "general-protection"
    assert (evidence(finding)["ring"], evidence(finding)["error_code"]) == (3, "0x0")
    assert evidence(finding)["process"] == "smoke_hello_time (pid 1)"
    # Its instruction is in no frame that the capture has: which it was can only be supposed.
    assert evidence(finding)["instruction"] is None and finding.confidence == "likely"


def test_the_copy_on_write_fault_is_recognised() -> None:
    (finding,) = check(Kernel(opened("breenix-head-cow-fault")))
    assert (finding.code.name, finding.effective_severity) == ("page-fault.handled", "info")
    assert finding.confidence == "proved"
    assert "copy-on-write" in summary(finding)
    assert finding.where.entry is not None and finding.where.entry & 1 << 9
    truth: Any = truth_of("breenix-head-cow-fault")
    assert finding.where.va == int(truth["registers"]["cr2"], 16)
    assert finding.where.root == int(truth["registers"]["cr3"], 16)


def test_without_its_mark_the_same_fault_is_a_defect() -> None:
    """The leaf's bit 9 cleared in the core: nothing says copy-on-write any more."""
    kernel = Kernel(opened("breenix-head-cow-fault"))
    (finding,) = check(kernel)
    place = finding.where.entry_pa
    assert place is not None
    table = bytearray(kernel.tables.table(place & ~0xFFF).tobytes())
    table[place & 0xFFF | 1] &= ~2
    kernel.tables._frames[place & ~0xFFF] = memoryview(table).cast("Q")
    (changed,) = check(kernel)
    assert changed.code.name == "page-fault.write-protected"
