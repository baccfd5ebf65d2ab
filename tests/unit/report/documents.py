"""Report documents made by hand: the story of Breenix d90ed3bd, and a clean run."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from breenix_gdbagent.report.fields import from_json
from breenix_gdbagent.report.model import Report

Document = dict[str, Any]


def report(document: Document | Report) -> Report:
    """A document as output formats read it."""
    return document if isinstance(document, Report) else from_json(Report, document)


MASTER, INIT, CHILD = "0x144000", "0x283000", "0x2b1000"
HOSTILE = "<script>alert(1)</script>"

_WALK = {
    "va": "0xffffc90000010ff8",
    "root": CHILD,
    "pa": None,
    "size": None,
    "levels": [
        {"level": 4, "entry_pa": "0x2b1c90", "entry": "0x145023", "flags": ["P", "W", "A"]},
        {"level": 3, "entry_pa": "0x145000", "entry": "0x0", "flags": []},
    ],
    "effective": None,
    "stopped_at": 3,
    "reason": "not-present",
}

_MAPPED = {
    "va": "0x40000000",
    "root": INIT,
    "pa": "0x300000",
    "size": 4096,
    "levels": [
        {"level": 4, "entry_pa": "0x283000", "entry": "0x284007", "flags": ["P", "W", "U"]},
        {"level": 3, "entry_pa": "0x284008", "entry": "0x285007", "flags": ["P", "W", "U"]},
        {"level": 2, "entry_pa": "0x285000", "entry": "0x286007", "flags": ["P", "W", "U"]},
        {"level": 1, "entry_pa": "0x286000", "entry": "0x300005", "flags": ["P", "U"]},
    ],
    "effective": {"w": False, "u": True, "nx": False},
    "stopped_at": None,
    "reason": None,
}


def finding(code: str, **fields: Any) -> Document:
    """One finding; what is not given is as plain as can be."""
    made: Document = {
        "code": code,
        "severity": "error",
        "stop": 0,
        "title": f"title of {code}",
        "summary": f"summary of {code}",
        "cause": None,
        "chain": [],
        "evidence": {},
        "where": {
            "root": None, "va": None, "pa": None, "entry": None, "entry_pa": None, "level": None,
        },
        "confidence": "proved",
        "fix": f"mend {code}",
        "see": [],
        "fingerprint": f"{code}@child",
        "because": [],
        "kind": "state",
        "check": None,
    }  # fmt: skip
    made.update(fields)
    return made


def _space(root: str, role: str, pid: int | None, name: str | None) -> Document:
    return {"root": root, "role": role, "live": True, "pid": pid, "name": name, "source": "scan"}


def _region(start: str, slot: int, **fields: Any) -> Document:
    region: Document = {
        "start": start, "last": start[:-3] + "fff", "slots": [slot, slot], "mapped": 4096,
        "rights": ["rw-s"], "holds": None, "in_master": True,
    }  # fmt: skip
    region.update(fields)
    return region


def clean() -> Document:
    """A run that passed with nothing found."""
    return {
        "schema": 1,
        "target": {"kind": "lab", "scenario": "clean", "stripped": False},
        "run": {
            "outcome": "passed", "exit": 0, "seconds": 0.412, "agent_stops": 1,
            "markers": [{"text": "LAB COMPLETE", "seconds": 0.4}], "benign_faults": 0, "armed": "",
        },
        "stops": [
            {
                "id": 0, "seconds": 0.412, "reason": "marker", "vector": None, "error_code": None,
                "cr2": None, "text": "LAB COMPLETE", "serial": [{"port": 0, "line": 2}],
                "cpus": [
                    {
                        "id": 0, "rip": "0x8000001000", "rsp": "0xffffc90000011000",
                        "cr0": "0x80010033", "cr2": "0x0", "cr3": MASTER, "cr4": "0x6e8",
                        "efer": "0xd00", "cpl": 0, "symbol": "kernel::idle", "process": "master",
                        "thread": None,
                    }
                ],
            }
        ],
        "spaces": [
            _space(MASTER, "master", None, None),
            _space(INIT, "process", 1, "init"),
            _space(CHILD, "process", 2, "child"),
        ],
        "findings": [],
        "checks": [
            {"name": "kernel-stacks", "stop": 0, "status": "passed", "reason": None},
            {"name": "tables", "stop": 0, "status": "passed", "reason": None},
        ],
        "serial": {
            "tail": [
                {"port": 0, "line": 1, "text": "[ INFO] kernel: hello"},
                {"port": 0, "line": 2, "text": "[ INFO] kernel: LAB COMPLETE"},
            ],
            "markers": [{"port": 0, "line": 2, "text": "[ INFO] kernel: LAB COMPLETE"}],
        },
        "maps": {
            "spaces": [MASTER, INIT, CHILD],
            "left_out": 0,
            "stacks": [
                {
                    "stack": f"slot {n}", "bottom": hex(0xFFFFC90000001000 + n * 0x11000),
                    "top": hex(0xFFFFC90000011000 + n * 0x11000),
                    "guard": hex(0xFFFFC90000000000 + n * 0x11000), "ist": None, "cells": "...",
                    "users": [],
                }
                for n in range(3)
            ],
            "common": [
                _region("0x8000000000", 1, holds="kernel image", rights=["r-xs", "rw-s"]),
                _region("0xffffc90000001000", 402, holds="kernel stacks", mapped=196608),
            ],
            "own": [
                [_region("0x131000", 0, holds="identity map")],
                [_region("0x40000000", 0, holds="user memory", rights=["r-xu"], in_master=False)],
                [_region("0x40000000", 0, holds="user memory", rights=["r-xu"], in_master=False)],
            ],
            "reason": None,
        },
        "provenance": {"versions": {"breenix_gdbagent": "0.1.0", "python": "3.11", "qemu": None}},
    }  # fmt: skip


def faulted() -> Document:
    """A double fault whose cause is a kernel stack that one process lacks; checks of every sort."""
    made = clean()
    made["target"] = {"kind": "breenix", "config": "breenix", "kernel": "kernel.elf"}
    made["run"] |= {"outcome": "findings", "exit": 1, "benign_faults": 2}
    stop = made["stops"][0]
    stop |= {"reason": "fault", "vector": 8, "error_code": "0x0", "text": ""}
    stop["cpus"][0] |= {
        "cr3": CHILD, "process": "child (pid 2)", "symbol": "kernel::double_fault_handler",
    }  # fmt: skip
    made["findings"] = [
        finding(
            "double-fault",
            kind="event",
            check="faults",
            cause="kernel-stack.unmapped",
            because=["kernel-stack.unmapped@child"],
            chain=["int 0x80 in ring 3", "the push onto RSP0 faults (#PF)", "double fault"],
            evidence={
                "explanation": "The CPU could not push the frame of the system call: under CR3 "
                "0x2b1000 the kernel stack is not mapped.",
                "rsp0": "0xffffc90000011000",
            },
        ),
        finding(
            "kernel-stack.unmapped",
            check="kernel-stacks",
            evidence={
                "walk": deepcopy(_WALK),
                "spaces": [{"root": CHILD, "role": "process", "pid": 2, "name": "child"}],
                "pages": 16,
                "owner_root": None,
            },
            where={
                "root": CHILD, "va": _WALK["va"], "pa": None, "entry": "0x0",
                "entry_pa": "0x145000", "level": 3,
            },
            see=["kernel/src/memory/process_memory.rs"],
        ),
        finding(
            "kernel-stack.executable", severity="warning", confidence="likely",
            check="kernel-stacks",
            evidence={"walk": deepcopy(_MAPPED)},
        ),
        finding("page-fault.handled", severity="info", kind="event", check="faults"),
    ]  # fmt: skip
    made["checks"] = [
        {"name": "kernel-stacks", "stop": 0, "status": "failed", "reason": None},
        {"name": "tables", "stop": 0, "status": "passed", "reason": None},
        {"name": "heap", "stop": 0, "status": "not_checked", "reason": "no symbol of the heap"},
    ]
    for row in made["maps"]["stacks"]:
        row["cells"] = "..-"
    made["maps"]["stacks"][1]["users"] = ["RSP0 of CPU 0"]
    made["maps"]["own"][2].append(
        _region(
            "0xffffc90000000000", 402, holds="kernel stacks", mapped=0, rights=[], in_master=False
        )
    )
    return made


def hostile() -> Document:
    """The faulted document with names and lines that attack whoever shows them."""
    made = faulted()
    made["spaces"][2]["name"] = HOSTILE
    made["stops"][0]["cpus"][0]["process"] = f"{HOSTILE} (pid 2)"
    made["findings"][0]["summary"] = f"in {HOSTILE}\x1b[2J\x00 & 'quoted' \"twice\""
    made["findings"][1]["evidence"]["spaces"][0]["name"] = HOSTILE
    made["findings"][1]["summary"] = "two lines\n::error::fake | **bold** `code` ]]> %0A"
    made["findings"][1]["fingerprint"] = f"kernel-stack.unmapped@{HOSTILE}"
    made["serial"]["tail"].append({"port": 0, "line": 3, "text": f"\x1b[31mred {HOSTILE}\ufffe"})
    made["checks"][2]["reason"] = f"{HOSTILE}\x07"
    return made
