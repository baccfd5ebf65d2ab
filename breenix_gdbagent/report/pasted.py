"""Faults that people paste: the shapes in which kernels, firmware and QEMU print them, read without
the machine at hand. What they mean is `report.explain`'s business.

Sources of the shapes: Breenix kernel/src/interrupts.rs (both eras); QEMU target/i386/cpu-dump.c and
tcg/{excp_helper,sysemu/seg_helper}.c (`-d int`, `info registers`; 7.2 and 10 alike); EDK II's
CpuExceptionHandlerLib; the x86_64 crate's ``Debug`` of an InterruptStackFrame; Linux
arch/x86/mm/fault.c and kernel/dumpstack.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from breenix_gdbagent.x86.exceptions import VECTORS

LONGEST_SHOWN = 60
FIRMWARE, LINUX = "the firmware (UEFI)", "Linux"

Names = Callable[[int], str | None]
"""The symbol of an address, None where there is none."""


def nobody(va: int) -> str | None:
    """Without a kernel's ELF nothing has a name."""
    return None


_HEX = r"(?:0x)?([0-9a-fA-F_]+)"
_NUMBER = r"(?:VirtAddr\()?(0x[0-9a-fA-F_]+)"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a text says of one exception; None for what it does not say. `source` says who printed
    it; `address` is CR2, of a #PF its own. `actual_rsp` is the stack of the handler, `old` the
    exception that was being delivered when this one came; `image` the file that RIP is in."""

    source: str = ""
    vector: int | None = None
    address: int | None = None
    error_code: int | None = None
    rip: int | None = None
    cs: int | None = None
    rsp: int | None = None
    cr3: int | None = None
    actual_rsp: int | None = None
    old: int | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Pasted:
    """All that a text tells: `faults` in order, `triple` where the CPU gave up after the last, and
    other messages of a kernel, each with its finding code ("" for none). `registers` is a dump
    without an exception. `left_out` counts exceptions before those in `faults`."""

    faults: tuple[Fault, ...] = ()
    triple: bool = False
    messages: tuple[Message, ...] = ()
    registers: Fault | None = None
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """A line of a kernel that tells of trouble without an exception."""

    text: str
    means: str
    code: str
    address: int | None = None


def read(text: str) -> Pasted:
    """What `text` tells; nothing in it where it is of no shape that is known."""
    messages = tuple(_messages(text))
    for shape in (_qemu, _firmware, _linux, _breenix, _frame_of_the_crate, _named):
        found = shape(text)
        if found.faults or found.registers is not None:
            return replace(found, messages=messages)
    return Pasted(messages=messages)


def _value(digits: str | None) -> int | None:
    if digits is None:
        return None
    number = int(digits.replace("_", ""), 16)
    return number if number < 1 << 64 else None


def _first(text: str, *patterns: str) -> int | None:
    for pattern in patterns:
        found = re.search(pattern, text)
        if found is not None:
            return _value(found[1])
    return None


# QEMU ----------------------------------------------------------------------------------------

_EXCEPTION = re.compile(
    r"v=([0-9a-f]{2}) e=([0-9a-f]{4}) i=([01]) cpl=(\d) IP=([0-9a-f]{4}):([0-9a-f]{8,16}) "
    r"pc=([0-9a-f]{8,16}) SP=([0-9a-f]{4}):([0-9a-f]{8,16})(?: CR2=([0-9a-f]{8,16}))?"
)
_CHECKED = re.compile(r"check_exception old: 0x([0-9a-f]+) new 0x([0-9a-f]+)")
_TRIPLE = re.compile(r"^\s*Triple fault", re.MULTILINE)
_NOBODY = 0xFFFFFFFF
DOUBLE_FAULT = 8
_DUMP = re.compile(r"\b[RE]IP=([0-9a-f]{8,16}) [RE]?FL=([0-9a-f]{8})")


def _qemu(text: str) -> Pasted:
    """Lines of ``-d int``, the last chain of exceptions; else a register dump."""
    found: list[Fault] = []
    old: int | None = None
    marks = sorted((*_EXCEPTION.finditer(text), *_CHECKED.finditer(text)), key=lambda m: m.start())
    for mark in marks:
        if mark.re is _CHECKED:
            old = int(mark[1], 16)
            continue
        vector = int(mark[1], 16)
        if mark[3] == "0" and vector in VECTORS:
            rest = text[mark.end() :]
            rest = rest[: m.start()] if (m := _EXCEPTION.search(rest)) else rest
            found.append(
                Fault(
                    "QEMU's -d int",
                    vector,
                    _value(mark[10]) or _first(rest, r"\bCR2=([0-9a-f]{8,16})"),
                    int(mark[2], 16) if VECTORS[vector].error_code else None,
                    int(mark[6], 16),
                    int(mark[5], 16),
                    int(mark[9], 16),
                    _first(rest, r"\bCR3=([0-9a-f]{8,16})"),
                    old=None if old in (None, _NOBODY) else old,
                )
            )
        old = None
    if not found:
        return Pasted(registers=_registers(text))
    begin = len(found) - 1
    while begin and _follows(found[begin], found[begin - 1]):
        begin -= 1
    # The last word before the CPU shuts down is what could not follow a double fault.
    triple = bool(_TRIPLE.search(text)) or old == DOUBLE_FAULT
    return Pasted(tuple(found[begin:]), triple, left_out=begin)


def _follows(fault: Fault, before: Fault) -> bool:
    """Whether `fault` came while `before` was delivered: QEMU says so of those that make a double
    fault; of another one its error code names the IDT (SDM volume 3, 6.13)."""
    if fault.old is not None or fault.vector == DOUBLE_FAULT:
        return True
    return bool((fault.error_code or 0) & 2) and fault.vector in (11, 13) and (
        (fault.rip, fault.rsp) == (before.rip, before.rsp)
    )


def _registers(text: str) -> Fault | None:
    dump = _DUMP.search(text)
    if dump is None:
        return None
    return Fault(
        "QEMU's register dump",
        None,
        _first(text, r"\bCR2=([0-9a-f]{8,16})"),
        None,
        int(dump[1], 16),
        _first(text, r"\bCS =([0-9a-f]{4})"),
        _first(text, r"\b[RE]SP=([0-9a-f]{8,16})"),
        _first(text, r"\bCR3=([0-9a-f]{8,16})"),
    )


# Firmware ------------------------------------------------------------------------------------

_FIRMWARE = re.compile(r"!!!! (?:X64|IA32) Exception Type - ([0-9A-Fa-f]{2})\(")


def _firmware(text: str) -> Pasted:
    head = _FIRMWARE.search(text)
    if head is None:
        return Pasted()
    rest = text[head.end() :]

    def of(name: str) -> int | None:
        return _first(rest, rf"\b{name} *- ([0-9A-Fa-f]{{8,16}})\b")

    image = re.search(r"!!!! (?:Find image based on IP\(0x[0-9A-Fa-f]+\) )?(\S.*?) \(ImageB", rest)
    name = image[1].strip() if image else None
    fault = Fault(
        FIRMWARE, int(head[1], 16), of("CR2"), of("ExceptionData"), of("RIP"),
        of("CS"), of("RSP"), of("CR3"), image=None if name == "(No PDB)" else name,
    )  # fmt: skip
    return Pasted((fault,))


# Kernels -------------------------------------------------------------------------------------

_LINUX_PF = re.compile(r"BUG: (?:unable to handle|kernel NULL pointer).*?address:? *([0-9a-f]+)")
_LINUX = (
    (14, _LINUX_PF),
    (13, re.compile(r"general protection fault"
                    r"(?:, probably for non-canonical address 0x([0-9a-f]+))?.*\[#\d")),
    (6, re.compile(r"invalid opcode: [0-9a-f]{4} \[#\d")),
    (0, re.compile(r"divide error: [0-9a-f]{4} \[#\d")),
    (8, re.compile(r"PANIC: double fault|double fault: [0-9a-f]{4} \[#\d")),
)  # fmt: skip


def _linux(text: str) -> Pasted:
    for vector, shape in _LINUX:
        head = shape.search(text)
        if head is None:
            continue
        address = _value(head[1]) if shape.groups and head[1] else None
        return Pasted(
            (
                Fault(
                    LINUX,
                    vector,
                    address if vector != 8 else _first(text, r"CR2: ([0-9a-f]{16})"),
                    _first(text, r"error_code(?:\(|: ?)0x([0-9a-f]+)"),
                    _first(text, r"RIP: [0-9a-f]{4}:(?:\[<)?([0-9a-f]{16})"),
                    _first(text, r"RIP: ([0-9a-f]{4}):"),
                    _first(text, r"RSP: [0-9a-f]{4}:([0-9a-f]{16})"),
                    _first(text, r"CR3: ([0-9a-f]{16})"),
                ),
            )
        )
    return Pasted()


_KINDS = (
    (8, re.compile(r"DIAG:DOUBLEFAULT|DOUBLE[ _]FAULT|double fault")),
    (13, re.compile(r"DIAG:GPF|GENERAL PROTECTION|general protection")),
    (14, re.compile(r"DIAG:PAGEFAULT|PAGE FAULT|\bPF @|page fault(?! \(CR3)")),
    (6, re.compile(r"INVALID OPCODE")),
    (10, re.compile(r"INVALID TSS")),
    (11, re.compile(r"SEGMENT NOT PRESENT")),
    (12, re.compile(r"STACK[ -]SEGMENT FAULT")),
    (0, re.compile(r"DIVIDE (?:BY ZERO|ERROR)")),
)
_ADDRESS = rf"(?:(?i:page fault at)|PF @|Fault addr:|Accessed Address:|CR2:?) *{_NUMBER}"
_ERROR = re.compile(
    r"error(?:[ _]code)?[ :=]*(?:PageFaultErrorCode\(\s*)?(0x[0-9a-f_]+|\d+\b)", re.IGNORECASE
)
_NAMED = re.compile(
    r"error(?:[ _]code)?: *(?:PageFaultErrorCode\(\s*)?([A-Z][A-Z_]+(?:\s*\|\s*[A-Z_]+)*)"
    r"\s*,?\s*\)?", re.IGNORECASE,
)  # fmt: skip
_BITS = {
    "PROTECTION_VIOLATION": 1, "CAUSED_BY_WRITE": 2, "USER_MODE": 4, "MALFORMED_TABLE": 8,
    "INSTRUCTION_FETCH": 16, "PROTECTION_KEY": 32, "SHADOW_STACK": 64, "HLAT": 128,
    "SGX": 1 << 15, "RMP": 1 << 31,
}  # fmt: skip
"""As the x86_64 crate prints the bits of a ``PageFaultErrorCode`` (structures/idt.rs)."""
_BLOCK = re.compile(r"^.*\[DIAG:(PAGEFAULT|GPF|DOUBLEFAULT)\] =+\s*$", re.MULTILINE)


def _breenix(text: str) -> Pasted:
    """Breenix's blocks and lines, the last block where there are several."""
    blocks = _blocks(text)
    if len(blocks) > 1:
        found = [one for block in blocks if (one := _one(block)) is not None]
        return Pasted(tuple(found[-1:]), left_out=max(len(found) - 1, 0))
    one = _one(text)
    return Pasted((one,)) if one is not None else Pasted()


def _blocks(text: str) -> list[str]:
    """Each DIAG block with what is said after it, up to the next: the rules above and below one are
    alike, so a block begins at every other."""
    heads = [found.start() for found in _BLOCK.finditer(text)][::2]
    return [text[a:b] for a, b in pairwise([*heads, len(text)])]


def _one(text: str) -> Fault | None:
    vector = next((number for number, shape in _KINDS if shape.search(text)), None)
    address, error = _first(text, _ADDRESS), _error_code(text)
    if vector is None and (address is None or error is None):
        return None
    if not _LOUD.search(text) and "0x" not in text:
        return None  # prose
    return Fault(
        "the kernel",
        14 if vector is None else vector,
        address,
        error,
        _first(
            text, rf"\bRIP: *{_NUMBER}", rf"CS:RIP: *0x[0-9a-f]+:{_NUMBER}", _OF_FRAME["rip"]
        ),
        _first(text, rf"\bCS: *{_NUMBER}", rf"CS:RIP: *{_NUMBER}") or _selector(text),
        _first(
            text, rf"RSP \((?:from )?frame\): *{_NUMBER}", rf"\bRSP: *{_NUMBER}",
            rf"SS:RSP: *0x[0-9a-f]+:{_NUMBER}", _OF_FRAME["rsp"],
        ),
        _first(text, rf"\bCR3: *{_NUMBER}", rf"CR3={_NUMBER}"),
        _first(text, rf"RSP \(actual\): *{_NUMBER}"),
    )  # fmt: skip


_LOUD = re.compile(r"[A-Z]{4,}[ -](?:[A-Z]+ )?(?:FAULT|PROTECTION|OPCODE|ZERO|TSS)|DIAG:|PF @")


def _error_code(text: str) -> int | None:
    """The first error code, as a number or as the names of its bits; None with a name unknown."""
    number, named = _ERROR.search(text), _NAMED.search(text)
    told = int(number[1].replace("_", ""), 0) if number is not None else None
    if named is None or (number is not None and number.start() <= named.start()):
        return told
    bits = [_BITS.get(name.strip()) for name in named[1].split("|")]
    if None not in bits:
        return sum(bit for bit in bits if bit is not None)
    return told


_OF_FRAME = {
    "rip": rf"instruction_pointer: *(?:VirtAddr\()?\s*{_NUMBER}",
    "rsp": rf"stack_pointer: *(?:VirtAddr\()?\s*{_NUMBER}",
}


def _selector(text: str) -> int | None:
    """The code segment as the crate prints it: a number, or index and ring."""
    by_number = re.search(r"code_segment: *(?:SegmentSelector\()?(\d+)\b", text)
    if by_number is not None:
        return int(by_number[1])
    parts = re.search(r"code_segment: *SegmentSelector *\{\s*index: (\d+),\s*rpl: Ring(\d)", text)
    return None if parts is None else int(parts[1]) << 3 | int(parts[2])


def _frame_of_the_crate(text: str) -> Pasted:
    """An InterruptStackFrame alone: what was interrupted, and not by what."""
    if "InterruptStackFrame" not in text:
        return Pasted()
    rip = _first(text, _OF_FRAME["rip"])
    if rip is None:
        return Pasted()
    frame = Fault("the x86_64 crate", None, None, None, rip, _selector(text),
                  _first(text, _OF_FRAME["rsp"]))  # fmt: skip
    return Pasted(registers=frame)


_TRAP = re.compile(
    r"\b(?:trap|vector|exception|interrupt|isr)(?: (?:number|no|num|vector))?[ #:=]*"
    r"(0x[0-9a-f]+|\d+)\b", re.IGNORECASE,
)  # fmt: skip
_TRAP_ERROR = re.compile(
    r"\berr(?:or)?(?:[ _]?code)?[ :=]*(0x[0-9a-f]+|\d+)\b", re.IGNORECASE
)


def _named(text: str) -> Pasted:
    """Any other kernel's line that has a vector and RIP: ``trap 13, error 0  rip 0x...``."""
    trap, error = _TRAP.search(text), _TRAP_ERROR.search(text)
    rip = _first(text, rf"(?i)\b[re]ip[ :=]*{_HEX}\b")
    if trap is None or rip is None or (vector := int(trap[1], 0)) not in VECTORS:
        return Pasted()
    fault = Fault(
        "the kernel",
        vector,
        _first(text, rf"(?i)\bcr2[ :=]*{_HEX}\b"),
        int(error[1], 0) if error and VECTORS[vector].error_code else None,
        rip,
        _first(text, rf"(?i)\bcs[ :=]*{_HEX}\b"),
        _first(text, rf"(?i)\b[re]sp[ :=]*{_HEX}\b"),
        _first(text, rf"(?i)\bcr3[ :=]*{_HEX}\b"),
    )
    return Pasted((fault,))


# Messages ------------------------------------------------------------------------------------

_Say = Callable[["re.Match[str]"], str]


@dataclass(frozen=True, slots=True)
class _Shape:
    """One shape of a line: what matches it, what it says, its code, and where it has an address."""

    pattern: re.Pattern[str]
    means: _Say
    code: str
    address: str | None = field(default=None)


_SHAPES: Sequence[_Shape] = (
    _Shape(
        re.compile(r"[Pp]age (0x[0-9a-f]+) already mapped to different frame "
                   r"(0x[0-9a-f]+) \(wanted (0x[0-9a-f]+)\)"),
        lambda m: f"{m[1]} was to be mapped to frame {m[3]}, and has {m[2]}",
        "map.already-mapped", "1",
    ),
    _Shape(
        re.compile(r"[Pp]age (0x[0-9a-f]+) already mapped to different frame: expected "
                   r"(0x[0-9a-f]+), found (0x[0-9a-f]+)"),
        lambda m: f"{m[1]} was to be mapped to frame {m[2]}, and has {m[3]}",
        "map.already-mapped", "1",
    ),
    _Shape(
        re.compile(r"already mapped to (?:different frame|frame (0x[0-9a-f]+))|"
                   r"PageAlreadyMapped\((?:PhysFrame\[4KiB\]\((0x[0-9a-f]+)\))?|PageAlreadyMapped"),
        lambda m: "a page was to be mapped where one is mapped already"
        + (f", to frame {m[1] or m[2]}" if m[1] or m[2] else ""),
        "map.already-mapped",
    ),
    _Shape(
        re.compile(r"No free kernel stack slots"),
        lambda m: "every slot for a kernel stack is taken (Breenix: 240 in 2025, 254 since 2026): "
        "more threads than slots, or threads that are over keep theirs (threads, stacks)",
        "",
    ),
    _Shape(
        re.compile(r"allocation error: Layout \{ size: (\d+)(?: \(0x[0-9a-f]+\))?, align: (\d+)|"
                   r"allocation error: Layout \{ size: (\d+)"),
        lambda m: f"the heap had no {m[1] or m[3]} bytes in one piece",
        "heap.exhausted",
    ),
    _Shape(
        re.compile(r"memory allocation of (\d+) bytes failed"),
        lambda m: f"the heap had no {m[1]} bytes in one piece",
        "heap.exhausted",
    ),
    _Shape(
        re.compile(r"Killing process (\S+) \(PID (\d+)\) due to page fault"
                   r"(?: \(CR3=(0x[0-9a-f]+)\))?"),
        lambda m: f"the kernel ended process {m[1]} (pid {m[2]}) because of a page fault of its "
        "own: what it touched stands in the lines before",
        "page-fault.handled",
    ),
    _Shape(
        re.compile(r"(?:KERNEL PANIC: *)?panicked at (\S+?):?(?:\n(?![\[ ]*DIAG)(.*)|$)",
                   re.MULTILINE),
        lambda m: f"the kernel panicked at {m[1]}" + (f": {m[2].strip()}" if m[2] else ""),
        "panic",
    ),
    _Shape(
        re.compile(r"KERNEL PANIC: *(?!panicked at)(.*)"),
        lambda m: "the kernel panicked" + (f": {m[1].strip()}" if m[1] else ""),
        "panic",
    ),
)  # fmt: skip


def _messages(text: str) -> Iterator[Message]:
    taken: list[range] = []
    for shape in _SHAPES:
        for found in shape.pattern.finditer(text):
            if any(found.start() in span for span in taken):
                continue
            end = text.find("\n", found.start())
            taken.append(range(found.start(), len(text) if end < 0 else end))
            at = _value(found[1]) if shape.address else None
            yield Message(found[0].splitlines()[0].strip(), shape.means(found), shape.code, at)
            break
