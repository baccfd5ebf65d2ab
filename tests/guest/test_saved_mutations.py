"""A stop that was saved, with one piece of its evidence changed in the file: the verdict follows.

The emulator walks the tables again whenever its TLB misses, so that a stale translation cannot be
had from it: here the tables change after the fault.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu

pytestmark = needs_qemu

P, W, U, PS = 1, 2, 4, 1 << 7
LARGE = 0x40_0000 | P | W | U | PS
"""An entry of the PD: a page of 2 MiB that is RAM."""
PT_LOAD = 1
HLT, READ, WRITE = b"\xf4", b"\x8a\x07", b"\x88\x07"


@dataclass(frozen=True)
class Saved:
    """A snapshot, its document, and the bytes of its memory by physical address."""

    path: Path
    document: dict[str, Any]

    def report(self) -> dict[str, Any]:
        return agent("report", str(self.path), "--json").document

    def finding(self, code: str) -> dict[str, Any]:
        return next(f for f in self.document["findings"] if f["code"] == code)

    @property
    def cpu(self) -> dict[str, Any]:
        return dict(self.document["stops"][-1]["cpus"][0])

    def physical(self, va: str | int) -> int:
        where = hex(va) if isinstance(va, int) else va
        root = self.cpu["cr3"]
        told = agent("pt", "walk", where, "--root", root, "--snapshot", str(self.path), "--json")
        return int(json.loads(told.out)[0]["pa"], 16)

    def write(self, pa: int, data: bytes) -> None:
        """By the program headers (ELF-64 Object File Format, 5)."""
        raw = bytearray(self.path.read_bytes())
        at, size, count = (*struct.unpack_from("<Q", raw, 32), *struct.unpack_from("<HH", raw, 54))
        for header in range(at, at + size * count, size):
            kind, _, offset, _, paddr, length = struct.unpack_from("<IIQQQQ", raw, header)
            if kind == PT_LOAD and paddr <= pa < paddr + length:
                raw[offset + pa - paddr : offset + pa - paddr + len(data)] = data
                self.path.write_bytes(raw)
                return
        raise AssertionError(f"{pa:#x} is not in the file")


def saved(scenario: str, room: Path) -> Saved:
    file = room / "stop"
    took = agent("ci", "--lab", scenario, "-o", str(file), "--memory", "all", "--json")
    assert took.code == 1, took.err
    again = Saved(file, took.document).report()
    assert [f["code"] for f in again["findings"]] == [f["code"] for f in took.document["findings"]]
    return Saved(file, took.document)


def entry(stop: Saved, code: str, raw: int) -> None:
    """The entry that ended the walk is another one."""
    stop.write(int(stop.finding(code)["where"]["entry_pa"], 16), struct.pack("<Q", raw))


def pushed(stop: Saved, error_code: int) -> None:
    stop.write(stop.physical(stop.cpu["rsp"]), struct.pack("<Q", error_code))


def instruction(stop: Saved, code: str, data: bytes) -> None:
    stop.write(stop.physical(stop.finding(code)["evidence"]["rip"]), data)


UNMAPPED, STALE = "page-fault.unmapped", "page-fault.stale-tlb"
CASES: dict[str, tuple[str, Callable[[Saved], None], str, str]] = {
    "the page was mapped since": (
        "page-fault-unmapped", lambda s: entry(s, UNMAPPED, LARGE), STALE, "likely",
    ),
    "the CPU says that it was there": (
        "page-fault-unmapped", lambda s: pushed(s, 0x1), STALE, "likely",
    ),
    "the CPU says it was a write": (
        "page-fault-unmapped", lambda s: pushed(s, 0x2), UNMAPPED, "likely",
    ),
    "the instruction writes": (
        "page-fault-unmapped", lambda s: instruction(s, UNMAPPED, WRITE), UNMAPPED, "likely",
    ),
    "the instruction touches nothing": (
        "page-fault-unmapped", lambda s: instruction(s, UNMAPPED, HLT), UNMAPPED, "likely",
    ),
    "the page is writable now": (
        "write-protected",
        lambda s: entry(s, "page-fault.write-protected", LARGE & ~PS), STALE, "likely",
    ),
    "the reserved bit is gone": (
        "reserved-bit", lambda s: entry(s, "page-fault.reserved-bit", LARGE), STALE, "likely",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_follows_the_evidence(name: str, tmp_path: Path) -> None:
    scenario, change, code, confidence = CASES[name]
    stop = saved(scenario, tmp_path)
    change(stop)
    told = [f for f in stop.report()["findings"] if f["code"].startswith("page-fault.")]
    assert [(f["code"], f["confidence"]) for f in told] == [(code, confidence)], told


def test_a_stack_that_is_there_is_no_cause(tmp_path: Path) -> None:
    """The stack of the push that failed is mapped again: what the double fault began with is not
    known any more, and is not invented."""
    stop = saved("kernel-stack-unmapped", tmp_path)
    assert stop.finding("double-fault")["cause"] == "kernel-stack.unmapped"
    where = stop.finding("kernel-stack.unmapped")["where"]
    top = int(stop.finding("kernel-stack.unmapped")["evidence"]["top"], 16)
    first = int(where["va"], 16)
    frame = 0x40_0000
    for number, va in enumerate(range(first, top, 0x1000)):
        raw = struct.pack("<Q", frame + number * 0x1000 | P | W | 1 << 63)
        stop.write(int(where["entry_pa"], 16) + 8 * ((va - first) >> 12), raw)
    told = {f["code"]: f for f in stop.report()["findings"]}
    assert told["double-fault"]["cause"] is None
    assert told["double-fault"]["confidence"] == "possible"


def test_without_the_code_the_tables_speak_alone(tmp_path: Path) -> None:
    file = tmp_path / "stop"
    live = agent(
        "ci", "--lab", "page-fault-unmapped", "-o", str(file), "--memory", "tables", "--json"
    )
    told = agent("report", str(file), "--json").document
    (fault,) = [f for f in told["findings"] if f["code"] == UNMAPPED]
    assert fault["where"] == next(
        f["where"] for f in live.document["findings"] if f["code"] == UNMAPPED
    )
