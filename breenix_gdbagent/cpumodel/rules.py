"""What single instructions raise of themselves, apart from their memory accesses (SDM vol. 2).

Every rule takes the context before the instruction and yields what the CPU raises; a rule that
needs a register that is not known yields nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.cpumodel.context import (
    DE,
    GP,
    MF,
    NM,
    NP,
    RFLAGS_NT,
    SS,
    UD,
    Context,
    Raised,
    refusal,
)
from breenix_gdbagent.cpumodel.instruction import Instruction, Operand, register_value
from breenix_gdbagent.cpumodel.selectors import (
    SELECTOR,
    conforming,
    lookup,
    marked,
    readable,
    writable_data,
)
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.x86.descriptors import Segment
from breenix_gdbagent.x86.exceptions import FRAME, ExceptionFrame, parse_frame

CR0_EM, CR0_TS, CR0_NE = 1 << 2, 1 << 3, 1 << 5
FSW_ES = 1 << 7  # an unmasked exception is pending (SDM vol. 1, 8.1.3)
CR4_TSD, CR4_PCE, CR4_OSFXSR, CR4_UMIP, CR4_OSXSAVE = 1 << 2, 1 << 8, 1 << 9, 1 << 11, 1 << 18
EFER_SCE = 1 << 0
IOPL = 3 << 12
_HIGHEST_ERROR_CODE = 0xFFFF
_MOST_SELECTORS = 64
_FREE_TSS = 9


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_RING_0 = _names(
    "hlt lgdt lidt lldt ltr clts lmsw invd wbinvd invlpg invpcid rdmsr wrmsr swapgs sysret "
    "sysretq sysexit xsetbv xsaves xrstors"
)
_BY_IOPL = frozenset(("cli", "sti"))
_PORTS = _names("in out insb insw insd outsb outsw outsd")
_IO_MAP, _SHORTEST_TSS = 0x66, 103
_UMIP = frozenset(("sgdt", "sidt", "sldt", "str", "smsw"))
_UNDEFINED = frozenset(("ud0", "ud1", "ud2"))
_SOFTWARE = {"int": None, "int3": 3, "int1": 1}
_SEGMENTS = frozenset(("ds", "es", "fs", "gs", "ss"))
_MISFIT = "the selector that {name} loads, {selector}, {what}"


def before(context: Context, instruction: Instruction) -> Iterator[Raised]:
    """What is checked before any operand is accessed, in the order of the CPU's checks."""
    for rule in (_undefined, _device, _privileged, _ports, _software):
        yield from rule(context, instruction)


def after(context: Context, instruction: Instruction) -> Iterator[Raised]:
    """What the values decide, once they were read: divisors, selectors, control bits, frames.

    Raises `ReadError` where a descriptor or a popped frame cannot be had.
    """
    for rule in (_divide, _control, _segment, _branch, _iret):
        yield from rule(context, instruction)


def _undefined(context: Context, instruction: Instruction) -> Iterator[Raised]:
    name = instruction.name
    if name in _UNDEFINED:
        yield Raised(
            UD, why=f"{name} is there to raise #UD: Rust compiles panics and unreachable code to it"
        )
    if name == "syscall" and not context.registers.get("efer", EFER_SCE) & EFER_SCE:
        yield Raised(UD, why="syscall is not enabled: EFER.SCE is 0")
    if name in ("vmcall", "vmmcall", "vmlaunch", "vmresume", "vmxoff", "rsm"):
        yield Raised(UD, why=f"{name} needs a mode that this CPU is not in")


def _device(context: Context, instruction: Instruction) -> Iterator[Raised]:
    cr0, cr4 = context.registers.get("cr0"), context.registers.get("cr4")
    if cr0 is None or cr4 is None or not instruction.unit:
        return
    unit = {"x87": "the x87 FPU", "sse": "SSE", "avx": "AVX"}[instruction.unit]
    if instruction.unit == "sse" and not cr4 & CR4_OSFXSR:
        yield Raised(UD, why="it uses SSE and CR4.OSFXSR is 0")
    if instruction.unit == "avx" and not cr4 & CR4_OSXSAVE:
        yield Raised(UD, why="it uses AVX and CR4.OSXSAVE is 0")
    if cr0 & CR0_EM:
        yield Raised(NM if instruction.unit == "x87" else UD, why=f"it uses {unit} and CR0.EM is 1")
    if cr0 & CR0_TS:
        yield Raised(NM, why=f"it uses {unit} and CR0.TS is 1")
    waits = instruction.unit == "x87" and not instruction.name.startswith("fn")
    if waits and cr0 & CR0_NE and context.registers.get("fstat", 0) & FSW_ES:
        yield Raised(MF, why="an unmasked x87 exception was pending (FSW.ES)")


def _privileged(context: Context, instruction: Instruction) -> Iterator[Raised]:
    if context.cpl == 0:
        return
    name, cr4 = instruction.name, context.registers.get("cr4", 0)
    control = any(o.name[:2] in ("cr", "dr") and o.name[2:].isdigit() for o in instruction.operands)
    ring, why = context.cpl, ""
    if name in _RING_0 or (name == "mov" and control):
        why = f"it is for ring 0 and ran in ring {ring}"
    elif name in _BY_IOPL and (context.rflags & IOPL) >> 12 < ring:
        why = f"it ran in ring {ring} and IOPL is lower"
    elif name in _UMIP and cr4 & CR4_UMIP:
        why = f"it ran in ring {ring} and CR4.UMIP is 1"
    elif name in ("rdtsc", "rdtscp") and cr4 & CR4_TSD:
        why = f"it ran in ring {ring} and CR4.TSD is 1"
    elif name == "rdpmc" and not cr4 & CR4_PCE:
        why = f"it ran in ring {ring} and CR4.PCE is 0"
    if why:
        yield Raised(GP, 0, why=why)


def is_privileged(context: Context, instruction: Instruction | None) -> bool:
    """Whether a program ran an instruction that its ring may not run."""
    return instruction is not None and any(_privileged(context, instruction))


def _ports(context: Context, instruction: Instruction) -> Iterator[Raised]:
    """The TSS's I/O bitmap, which decides for a program whose ring is above IOPL (SDM vol. 1,
    19.5.2): the CPU reads it itself, two bytes (QEMU: helper_check_io)."""
    if instruction.name not in _PORTS or (context.rflags & IOPL) >> 12 >= context.cpl:
        return
    port, size = _port(context, instruction)
    if port is None:
        return
    asks = f"it ran in ring {context.cpl}, IOPL is lower, and"
    tr = context.cpu.tr
    if tr is None:
        raise ReadError("TR is not known")
    if tr.limit is not None and tr.limit < _SHORTEST_TSS:
        yield Raised(GP, 0, why=f"{asks} the TSS has no I/O bitmap: its limit is {tr.limit:#x}")
        return
    offset = _own_word(context, tr.base + _IO_MAP, "the offset of the TSS's I/O bitmap")
    if isinstance(offset, Raised):
        yield offset
        return
    at = offset + port // 8
    if tr.limit is not None and at + 1 > tr.limit:
        why = f"{asks} port {port:#x} lies beyond the TSS's I/O bitmap (limit {tr.limit:#x})"
        yield Raised(GP, 0, why=why)
        return
    bits = _own_word(context, tr.base + at, "the TSS's I/O bitmap")
    if isinstance(bits, Raised):
        yield bits
    elif bits >> port % 8 & (1 << size) - 1:
        yield Raised(GP, 0, why=f"{asks} the TSS's I/O bitmap forbids port {port:#x}")


def _port(context: Context, instruction: Instruction) -> tuple[int | None, int]:
    """Which port, None where that is not known, and how many bytes from it on."""
    named = [o for o in instruction.operands if o.name == "dx" or o.kind == "immediate"]
    data = [o for o in instruction.operands if o.name in ("al", "ax", "eax")]
    port = named[0].value if named else register_value("dx", context.registers)
    size = data[0].size if data else {"b": 1, "w": 2, "d": 4}.get(instruction.name[-1:], 1)
    return (None if port is None else port & 0xFFFF), size


def _own_word(context: Context, va: int, what: str) -> int | Raised:
    """Two bytes that the CPU reads itself, or the page fault of that access."""
    fault = context.page_fault(va, 2, "read", user=False)
    if fault is not None:
        return replace(fault, why=f"{what}, which the CPU reads itself, {refusal(fault)}", own=True)
    return int.from_bytes(context.read(va, 2), "little")


def _software(context: Context, instruction: Instruction) -> Iterator[Raised]:
    if instruction.name not in _SOFTWARE:
        return
    vector = _SOFTWARE[instruction.name]
    if vector is None:
        vector = instruction.operands[0].value or 0
    yield Raised(vector, None, None, "the program asks for it", "software")


def _value(context: Context, operand: Operand) -> int | None:
    if operand.kind != "memory":
        return operand.value
    if operand.value is None:
        return None
    return int.from_bytes(context.read(operand.value, operand.size), "little")


def _divide(context: Context, instruction: Instruction) -> Iterator[Raised]:
    if instruction.name not in ("div", "idiv") or not instruction.operands:
        return
    operand = instruction.operands[0]
    divisor, size = _value(context, operand), operand.size
    if divisor is None:
        return
    what = operand.name or "its memory operand"
    if divisor == 0:
        yield Raised(
            DE,
            address=operand.value if operand.kind == "memory" else None,
            why=f"it divides by {what}, which is 0",
        )
        return
    names = {1: ("ah", "al"), 2: ("dx", "ax"), 4: ("edx", "eax"), 8: ("rdx", "rax")}[size]
    high, low = (register_value(n, context.registers) for n in names)
    if high is None or low is None:
        return
    if not _fits(high << 8 * size | low, divisor, 8 * size, instruction.name == "idiv"):
        yield Raised(DE, why="its quotient does not fit the register")


def _fits(dividend: int, divisor: int, bits: int, signed: bool) -> bool:
    if not signed:
        return dividend // divisor < 1 << bits
    if dividend >> 2 * bits - 1:
        dividend -= 1 << 2 * bits
    if divisor >> bits - 1:
        divisor -= 1 << bits
    quotient = abs(dividend) // abs(divisor)
    if (dividend < 0) != (divisor < 0):
        quotient = -quotient
    return -(1 << bits - 1) <= quotient < 1 << bits - 1


def _control(context: Context, instruction: Instruction) -> Iterator[Raised]:
    """Ring 0 writes of control registers, MSRs and descriptor-table registers that the CPU
    refuses. Which MSRs there are depends on the CPU: those are only named as possible."""
    if context.cpl:
        return
    registers, name = context.registers, instruction.name
    if name == "mov" and instruction.operands[0].name in ("cr0", "cr3", "cr4"):
        value = instruction.operands[1].value
        if value is not None and (why := _bad_control(instruction.operands[0].name, value)):
            yield Raised(GP, 0, why=f"it loads {hex64(value)}: {why}")
    elif name in ("wrmsr", "rdmsr") and "rcx" in registers:
        msr = registers["rcx"] & 0xFFFF_FFFF
        value = (registers.get("rdx", 0) & 0xFFFF_FFFF) << 32 | registers.get(
            "rax", 0
        ) & 0xFFFF_FFFF
        if name == "wrmsr" and msr in _ADDRESS_MSRS and not context.canonical(value):
            name = _ADDRESS_MSRS[msr]
            yield Raised(GP, 0, why=f"wrmsr {name} of {hex64(value)}, which is not canonical")
    elif name in ("sysretq", "sysret") and not context.canonical(registers.get("rcx", 0)):
        at = registers["rcx"]
        yield Raised(GP, 0, at, f"sysret to {hex64(at)}, which is not canonical")


_ADDRESS_MSRS = {
    0xC000_0082: "LSTAR", 0xC000_0083: "CSTAR", 0xC000_0100: "FS_BASE", 0xC000_0101: "GS_BASE",
    0xC000_0102: "KERNEL_GS_BASE", 0x175: "SYSENTER_ESP", 0x176: "SYSENTER_EIP",
}  # fmt: skip


def _bad_control(register: str, value: int) -> str:
    if register == "cr0":
        if value & 1 << 31 and not value & 1:
            return "PG without PE"
        if value & 1 << 29 and not value & 1 << 30:
            return "NW without CD"
        if not value & 1 << 31:
            return "paging cannot be turned off in 64-bit mode"
        return "bits 63:32 are reserved" if value >> 32 else ""
    if register == "cr4":
        if not value & 1 << 5:
            return "PAE cannot be turned off in 64-bit mode"
        return "bits 63:32 are reserved" if value >> 32 else ""
    return "bits above the physical address width are reserved" if value >> 52 & 0x7FF else ""


def _segment(context: Context, instruction: Instruction) -> Iterator[Raised]:
    """``mov`` and ``pop`` to a segment register, and ``ltr`` (SDM vol. 2, MOV; vol. 3, 5.7)."""
    operands = instruction.operands
    if instruction.name == "ltr" and context.cpl == 0 and operands:
        value = _value(context, operands[0])
        if value is not None:
            yield from _task_register(context, value & 0xFFFF)
        return
    if instruction.name not in ("mov", "pop") or not operands or operands[0].name not in _SEGMENTS:
        return
    value = _value(context, operands[1]) if len(operands) > 1 else _popped(context)
    if value is not None:
        refused = list(data_segment(context, operands[0].name, value & 0xFFFF, context.cpl))
        yield from refused or _marks(context, operands[0].name, value & 0xFFFF)


def _marks(context: Context, register: str, selector: int) -> Iterator[Raised]:
    """The accessed bit of a segment that may be loaded."""
    found = lookup(context, selector) if selector & SELECTOR else None
    if found is not None and not isinstance(found, Raised):
        raised = marked(context, found, register.upper())
        if raised is not None:
            yield raised


def selector_not_known(context: Context, instruction: Instruction) -> Iterator[Raised]:
    """What ``ltr`` or a load of a segment register raises by the CPU's own write of the descriptor,
    for each that it may name, where the selector itself is not known any more."""
    operands, table = instruction.operands, context.cpu.gdtr
    if table is None or table.limit is None or not operands or context.cpl:
        return
    system = instruction.name == "ltr"
    register = "TR" if system else operands[0].name.upper()
    value = operands[0 if system else -1].value
    loads = system or (instruction.name == "mov" and operands[0].name in _SEGMENTS)
    if not loads or value is not None:
        return
    for selector in range(8, min(table.limit + 1, 8 * _MOST_SELECTORS), 8):
        try:
            found = lookup(context, selector)
            if isinstance(found, Raised) or not found.present or found.system is not system:
                continue
            raised = marked(context, found, register)
        except ReadError:
            continue
        if raised is not None and (found.type == _FREE_TSS if system else readable(found)):
            yield raised


def _popped(context: Context) -> int:
    return int.from_bytes(context.read(context.rsp, 8), "little")


def _task_register(context: Context, selector: int) -> Iterator[Raised]:
    if not selector & SELECTOR:
        yield Raised(GP, 0, why="ltr loads the null selector")
        return
    found = lookup(context, selector)
    if isinstance(found, Raised):
        yield found
    elif not found.system or found.type != _FREE_TSS:
        what = "is no TSS that is free" if found.system else "is no system segment"
        why = _MISFIT.format(name="ltr", selector=hex64(selector), what=what)
        yield Raised(GP, selector & SELECTOR, why=why)
    elif not found.present:
        yield Raised(
            NP, selector & SELECTOR, why="the TSS descriptor that ltr loads is not present"
        )
    elif (raised := marked(context, found, "TR")) is not None:
        yield raised


def data_segment(context: Context, register: str, selector: int, ring: int) -> Iterator[Raised]:
    """What loading `selector` into a data segment register raises in `ring`."""
    error, stack = selector & SELECTOR, register == "ss"
    if not error:
        if stack and ring == 3:
            yield Raised(GP, 0, why="SS is loaded with the null selector for ring 3")
        return
    found = lookup(context, selector)
    if isinstance(found, Raised):
        yield replace(found, why=f"{register.upper()}: {found.why}")
        return
    misfit = _data_misfit(found, ring, stack)
    if misfit:
        text = _MISFIT.format(name=register.upper(), selector=hex64(selector), what=misfit)
        yield Raised(GP, error, why=text)
    elif not found.present:
        text = _MISFIT.format(
            name=register.upper(), selector=hex64(selector), what="is not present"
        )
        yield Raised(SS if stack else NP, error, why=text)


def _data_misfit(found: Segment, ring: int, stack: bool) -> str:
    rpl = found.selector & 3
    if found.system:
        return f"is no data segment: that GDT entry is {_system(found)}"
    if stack:
        if not writable_data(found):
            return "is no writable data segment"
        told = f"has RPL {rpl} and names a segment of ring {found.dpl}, and both have to be {ring}"
        return told if rpl != ring or found.dpl != ring else ""
    if not readable(found):
        return "is no data or readable code segment"
    if not conforming(found) and max(rpl, ring) > found.dpl:
        return f"is of ring {found.dpl} and ring {max(rpl, ring)} asks for it"
    return ""


def _system(found: Segment) -> str:
    """A system descriptor by its type (SDM vol. 3, table 3-2)."""
    if found.type in (0x9, 0xB):
        return "the lower half of a TSS descriptor"
    if found.type == 0x2:
        return "the lower half of an LDT descriptor"
    return "empty" if not found.present and not found.type else f"of system type {found.type:#x}"


def _branch(context: Context, instruction: Instruction) -> Iterator[Raised]:
    """A near jump, call or return to an address that is not canonical (SDM vol. 2, JMP)."""
    target = None
    if instruction.name in ("jmp", "call") and instruction.operands:
        target = _value(context, instruction.operands[0])
    elif instruction.name == "ret":
        target = _popped(context)
    if target is not None and not context.canonical(target):
        why = f"it leads to {hex64(target)}, which is not canonical"
        yield Raised(GP, 0, target, why)


def _iret(context: Context, instruction: Instruction) -> Iterator[Raised]:
    """The frame that ``iretq`` pops (SDM vol. 2, IRET, 64-bit mode)."""
    if instruction.name != "iretq":
        return
    if context.rflags & RFLAGS_NT:
        yield Raised(GP, 0, why="iretq with RFLAGS.NT set")
    frame = parse_frame(context.read(context.rsp, FRAME.size))
    code = error_code_left(context)
    told = ""
    if code is not None:
        told = f"; what lies at RSP is an error code, {hex64(code)}, and the frame is 8 bytes "
        told += "above it: the handler did not take the error code off the stack"
    for raised in bad_frame(context, frame):
        yield replace(raised, why=raised.why + told)


def accessed(context: Context, instruction: Instruction) -> Iterator[Raised]:
    """The accessed bits that ``iretq`` and a far return set in the descriptors of CS and SS (SDM
    vol. 3, 3.4.5.1); QEMU's TCG does not (target/i386/tcg/seg_helper.c, helper_ret_protected)."""
    places = {"iretq": (8, 32), "retfq": (8,)}.get(instruction.name, ())
    try:
        for name, up in zip(("CS", "SS"), places, strict=False):
            selector = int.from_bytes(context.read(context.rsp + up, 2), "little")
            yield from _marks(context, name, selector)
    except ReadError:
        return


def error_code_left(context: Context) -> int | None:
    """The error code that ``iretq`` pops for RIP, the frame that it was to pop one word above it;
    None where its own frame can be one, and where that is none."""
    levels = context.mode.levels
    try:
        popped, frame = (parse_frame(context.read(context.rsp + up, FRAME.size)) for up in (0, 8))
    except ReadError:
        return None
    if popped.rip > _HIGHEST_ERROR_CODE or (popped.clean and popped.plausible(levels)):
        return None
    return popped.rip if frame.clean and frame.plausible(levels) else None


def bad_frame(context: Context, frame: ExceptionFrame) -> Iterator[Raised]:
    """What returning to this frame raises: a bad CS, a non-canonical RIP, a bad SS."""
    rip, cs, ring, error = frame.rip, frame.cs, frame.cpl, frame.cs & SELECTOR
    if not error:
        yield Raised(GP, 0, why="the frame that iretq pops has a null CS")
        return
    found = lookup(context, cs)
    if isinstance(found, Raised):
        yield replace(found, why=f"CS of the frame that iretq pops: {found.why}")
        return
    misfit = ""
    if not found.code:
        misfit = "is no code segment"
    elif ring < context.cpl:
        misfit = f"is of ring {ring}, more privileged than ring {context.cpl}"
    elif found.dpl > ring if conforming(found) else found.dpl != ring:
        misfit = f"names a segment of ring {found.dpl} with RPL {ring}"
    if misfit:
        yield Raised(GP, error, why=f"CS {hex64(cs)} of the frame that iretq pops {misfit}")
    elif not found.present:
        yield Raised(NP, error, why=f"CS {hex64(cs)} of the frame that iretq pops is not present")
    elif found.long and not context.canonical(rip):
        yield Raised(GP, 0, rip, f"RIP {hex64(rip)} of the frame that iretq pops is not canonical")
    else:
        yield from data_segment(context, "ss", frame.ss, ring)
