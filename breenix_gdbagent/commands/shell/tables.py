"""Descriptor tables, model-specific registers, interrupt lines and locks at the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands.shell.line import Line, arguments
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.errors import InputError, ReadError, SymbolNotFound, ValueCorrupt
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.x86.bits import flags
from breenix_gdbagent.x86.descriptors import read_segments
from breenix_gdbagent.x86.pic import WIRED
from breenix_gdbagent.x86.vectors import VECTOR_NAMES

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.values import Value
    from breenix_gdbagent.x86.descriptors import Gate

EXTERNAL = 32  # the first vector that no exception has
IF = 1 << 9


def do_idt(session: Session, line: Line) -> int:
    options = arguments(line, ("vector", "?"))
    only = None if options.vector is None else parse_number(options.vector)
    if options.vector is not None and only is None:
        raise InputError(f"{options.vector!r} is no number of a vector")
    with session.while_stopped():
        kernel = session.view
        table = kernel.stop.cpu.idtr
        if table is None:
            raise ReadError("IDTR is not known")
        limit = "" if table.limit is None else f", limit {table.limit:#x}"
        print(f"IDT of CPU {kernel.stop.cpu.index} at {hex64(table.base)}{limit}")
        gates = [g for v, g in sorted(kernel.gates.items()) if only in (None, v)]
        for gate in gates:
            print(_gate(kernel, gate))
    if not gates:
        print("no gate is present" if only is None else f"no gate of vector {only} is present")
    return int(not gates)


def _gate(kernel: Kernel, gate: Gate) -> str:
    name = VECTOR_NAMES.get(gate.vector, "")
    kind = {0xE: "interrupt", 0xF: "trap"}.get(gate.type, f"type {gate.type:#x}")
    ist = f", IST{gate.ist}" if gate.ist else ""
    return (
        f"{gate.vector:>4} {name:<5} {kernel.describe(gate.offset)}  {kind}, "
        f"selector {gate.selector:#x}, DPL {gate.dpl}{ist}"
    )


def do_gdt(session: Session, line: Line) -> int:
    arguments(line)
    with session.while_stopped():
        kernel = session.view
        cpu = kernel.stop.cpu
        if cpu.gdtr is None or cpu.root is None:
            raise ReadError("GDTR is not known")
        limit = "" if cpu.gdtr.limit is None else f", limit {cpu.gdtr.limit:#x}"
        print(f"GDT of CPU {cpu.index} at {hex64(cpu.gdtr.base)}{limit}")
        users: dict[int, list[str]] = {}
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            selector = cpu.get(name)
            if selector:
                users.setdefault(selector & ~7, []).append(name)
        if cpu.tr is not None and cpu.tr.selector:
            users.setdefault(cpu.tr.selector & ~7, []).append("tr")
        for one in read_segments(kernel.memory_of(cpu.root).read, cpu.gdtr):
            what = "code" if one.code else "data"
            if one.system:
                what = "TSS" if one.type in (9, 11) else "system"
            size = "64-bit " if one.long and not one.system else ""
            absent = "" if one.present else ", not present"
            selector = one.selector & ~7
            by = f"   <- {', '.join(users[selector])}" if selector in users else ""
            print(
                f"{selector:#6x}  {size}{what}, DPL {one.dpl}, base {hex64(one.base)}, "
                f"limit {one.limit:#x}{absent}{by}"
            )
    return 0


def do_tss(session: Session, line: Line) -> int:
    arguments(line)
    with session.while_stopped():
        kernel = session.kernel
        for cpu in kernel.stop.cpus:
            found = kernel.tss.get(cpu.index)
            if found is None or cpu.tr is None:
                print(f"CPU {cpu.index}: TR names no TSS that can be read")
                continue
            print(f"TSS of CPU {cpu.index} at {hex64(cpu.tr.base)}, selector {cpu.tr.selector:#x}")
            rows = [(f"rsp{n}", v) for n, v in enumerate((found.rsp0, found.rsp1, found.rsp2))]
            rows += [(f"ist{n}", top) for n, top in enumerate(found.ist, 1)]
            for name, top in rows:
                stack = kernel.stack_at(top - 8) if top else None
                print(f"  {name}  {hex64(top)}" + (f"  {stack.name}" if stack is not None else ""))
            print(f"  I/O map at +{found.iomap_base:#x}")
    return 0 if kernel.tss else 1


MSRS = (
    ("IA32_EFER", 0xC0000080, "efer"), ("IA32_FS_BASE", 0xC0000100, "fs_base"),
    ("IA32_GS_BASE", 0xC0000101, "gs_base"), ("IA32_KERNEL_GS_BASE", 0xC0000102, "k_gs_base"),
)  # fmt: skip
UNTOLD = "IA32_STAR, IA32_LSTAR, IA32_FMASK, IA32_APIC_BASE and the others: QEMU does not tell them"


def do_msr(session: Session, line: Line) -> int:
    arguments(line)
    with session.while_stopped():
        kernel = session.view
        cpu = kernel.stop.cpu
        print(f"CPU {cpu.index}")
        for name, number, register in MSRS:
            value = cpu.get(register)
            if value is None:
                print(f"  {number:#x} {name:<20} not known")
                continue
            shown = f"[{' '.join(flags('efer', value))}]" if register == "efer" else ""
            print(f"  {number:#x} {name:<20} {kernel.describe(value)} {shown}".rstrip())
        print(f"  {UNTOLD}")
    return 0


def do_irq(session: Session, line: Line) -> int:
    """What each vector from 32 on leads to, and what the controllers hold back or serve."""
    arguments(line)
    with session.while_stopped():
        kernel = session.view
        if kernel.stop.pic is None and session.arbiter is not None:
            # Not asked at each stop: only where an interrupt may be what it is about.
            kernel = Kernel(kernel.stop._replace(pic=session.debugger.vm.pic()))
        cpu = kernel.stop.cpu
        enabled = bool((cpu.get("eflags") or 0) & IF)
        print(f"CPU {cpu.index}: interrupts {'on' if enabled else 'off'} (IF)")
        pic = kernel.stop.pic
        for first, last, handler in _runs(kernel):
            irq = None if pic is None or first != last else pic.irq_at(first)
            vectors = str(first) if first == last else f"{first}-{last}"
            print(f"{vectors:>7}  {kernel.describe(handler)}{_line_state(kernel, irq)}")
        if pic is None:
            print("the PICs: QEMU was not asked, or the machine has none")
        if session.arbiter is not None:
            _apic(session)
    return 0


def _runs(kernel: Kernel) -> Iterator[tuple[int, int, int]]:
    """(first vector, last, handler) of the vectors from 32 on: neighbours that lead to one handler
    and that no line of a PIC comes at are one run."""
    pic = kernel.stop.pic
    gates = [(v, int(g.offset)) for v, g in sorted(kernel.gates.items()) if v >= EXTERNAL]
    for (_, handler, _), run in groupby(
        enumerate(gates),
        lambda one: (
            pic is not None and pic.irq_at(one[1][0]) is not None and one[1][0],
            one[1][1],
            one[1][0] - one[0],
        ),
    ):
        vectors = [vector for _, (vector, _) in run]
        yield vectors[0], vectors[-1], handler


def _line_state(kernel: Kernel, irq: int | None) -> str:
    pic = kernel.stop.pic
    if irq is None or pic is None:
        return ""
    chip, bit = (pic.master, irq) if irq < 8 else (pic.slave, irq - 8)
    words = [f"IRQ {irq}" + (f", {WIRED[irq]}" if irq in WIRED else "")]
    words += [
        word
        for word, mask in (
            ("pending", chip.requested), ("masked", chip.masked), ("being served", chip.in_service)
        )
        if mask >> bit & 1
    ]  # fmt: skip
    return "  " + ", ".join(words)


def _apic(session: Session) -> None:
    """What QEMU says of the local APIC's pending and served vectors."""
    told = session.debugger.vm.hmp("info lapic")
    for row in told.splitlines():
        if row.lstrip().startswith(("ISR", "IRR", "LVTT", "LVT0")):
            print(f"  local APIC {' '.join(row.split())}")


def do_locks(session: Session, line: Line) -> int:
    """The locks in the kernel's statics: those that are held, or all."""
    options = arguments(line, ("which", "?"))
    if options.which not in (None, "all"):
        raise InputError(f"{options.which!r} is not `all`")
    from breenix_gdbagent.kernel.locks import locks
    from breenix_gdbagent.report.names import lock_lines

    with session.while_stopped():
        kernel = session.kernel
        shown = every = 0
        users = {int(one.address): one for one in locks(kernel) if one.taken}
        for name, value in _statics(kernel):
            try:
                lock = value.lock
            except (ReadError, InputError, ValueCorrupt):
                continue
            if lock is None or lock.held is None:
                continue
            every += 1
            if lock.held or options.which == "all":
                shown += 1
                state = "held" if lock.held else "free"
                print(f"{state}  {name}  (word {lock.raw:#x}, {value.where})")
                if lock.held and value.address in users:
                    print("\n".join(lock_lines(users[value.address])))
    if not shown:
        print(f"no lock is held, of {every} in statics" if every else "no lock is in any static")
    return 0


def _statics(kernel: Kernel) -> Iterator[tuple[str, Value]]:
    values = kernel.structures.values
    for name in sorted(values.debug.index.statics):
        if "{" in name and "}::" not in name:
            continue
        try:
            yield name, values.static(name)
        except (ReadError, InputError, SymbolNotFound):
            continue
