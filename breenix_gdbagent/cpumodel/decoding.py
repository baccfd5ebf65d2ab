"""Instructions with every access that they make, decoded.

Importing this loads the disassembler: import it where an instruction is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from breenix_gdbagent.cpumodel.instruction import (
    Access,
    Instruction,
    Kind,
    Operand,
    register_value,
)
from breenix_gdbagent.x86.disassembler import (
    GROUP_FPU,
    IMMEDIATE,
    READ,
    REGISTER,
    RSP,
    WRITE,
    Detailed,
    DetailedOperand,
    Memory,
    detailed,
)

_MASK = (1 << 64) - 1


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NO_ACCESS = _names(
    "lea nop prefetch prefetchw prefetchnta prefetcht0 prefetcht1 prefetcht2 invlpg clflush "
    "clflushopt clwb endbr64"
)
_STORES = _names(
    "fst fstp fist fistp fisttp fbstp fnstcw fnstsw fnstenv fnsave stmxcsr vstmxcsr fxsave "
    "fxsave64 xsave xsave64 xsaveopt xsaves xsavec maskmovdqu sgdt sidt sldt str smsw ins "
    "stos"
)
_UPDATES = frozenset(("cmpxchg", "cmpxchg8b", "cmpxchg16b", "xadd", "bts", "btr", "btc"))
_SAVE_AREA = {"fxsave": 512, "fxsave64": 512, "fxrstor": 512, "fxrstor64": 512}
_ALIGNED = _names(
    "movaps movapd movdqa movntps movntpd movntdq movntdqa vmovaps vmovapd vmovdqa vmovntps "
    "vmovntpd vmovntdq vmovntdqa cmpxchg16b fxsave fxsave64 fxrstor fxrstor64"
)


def decode(
    code: bytes, rip: int, registers: Mapping[str, int], bits: int = 64
) -> Instruction | None:
    """The instruction of 64-bit code (or of 32 or 16 `bits`) that `code` (up to 15 bytes) starts
    with, None for no instruction.

    `registers` by gdb's names are those of the moment before it ran; with ``fs_base`` and
    ``gs_base``. A name that is absent is not known, and so is what depends on it.
    """
    insn = detailed(code, rip, bits)
    if insn is None:
        return None
    known = {**registers, "rip": rip + insn.size & _MASK}
    name = insn.insn_name()
    operands = tuple(_operand(insn, o, known) for o in insn.operands)
    size = insn.size
    return Instruction(
        address=rip,
        size=size,
        code=bytes(insn.bytes),
        name=name,
        text=f"{insn.mnemonic} {insn.op_str}".strip(),
        operands=operands,
        accesses=tuple(_accesses(insn, name, operands, known)),
        aligned=_alignment(name, operands),
        unit=_unit(insn, name, operands),
    )


def _operand(insn: Detailed, raw: DetailedOperand, known: Mapping[str, int]) -> Operand:
    if raw.type == REGISTER:
        name = insn.reg_name(raw.reg)
        return Operand("register", name, raw.size, register_value(name, known))
    if raw.type == IMMEDIATE:
        return Operand("immediate", "", raw.size, raw.imm & _MASK)
    return Operand("memory", "", raw.size, _linear(insn, raw.mem, known))


def _linear(insn: Detailed, mem: Memory, known: Mapping[str, int]) -> int | None:
    """Segment base + base + index * scale + displacement (SDM vol. 1, 3.7.5)."""
    total = mem.disp
    for register, scale in ((mem.base, 1), (mem.index, mem.scale)):
        if register:
            value = register_value(insn.reg_name(register), known)
            if value is None:
                return None
            total += value * scale
    total &= (1 << 8 * insn.addr_size) - 1
    segment = insn.reg_name(mem.segment) if mem.segment else ""
    if segment in ("fs", "gs"):
        base = known.get(f"{segment}_base")
        if base is None:
            return None
        total += base
    return total & _MASK


def _alignment(name: str, operands: tuple[Operand, ...]) -> int:
    """16 (or 32, 64) for what must be aligned; legacy SSE with an xmm operand too (SDM vol. 1,
    10.4.1.1), but for the moves that are made for unaligned data."""
    memory = next((o for o in operands if o.kind == "memory"), None)
    if memory is None:
        return 1
    if name in _ALIGNED:
        return 16 if name.startswith("fx") else memory.size
    xmm = any(o.name.startswith("xmm") for o in operands)
    legacy = xmm and not name.startswith("v") and memory.size == 16
    unaligned = name in ("movups", "movupd", "movdqu", "lddqu") or (
        name.startswith("pcmp") and (name[4:5] in "ei" and name.endswith(("stri", "strm")))
    )
    return 16 if legacy and not unaligned else 1


def _unit(
    insn: Detailed, name: str, operands: tuple[Operand, ...]
) -> Literal["", "x87", "sse", "avx"]:
    registers = {o.name[:3] for o in operands}
    if registers & {"ymm", "zmm"} or (name.startswith("v") and "xmm" in registers):
        return "avx"
    if "xmm" in registers or name in ("ldmxcsr", "stmxcsr"):
        return "sse"
    x87 = GROUP_FPU in insn.groups or any(r.startswith("mm") for r in registers)
    return "x87" if x87 or name in ("emms", "wait") else ""


def _accesses(
    insn: Detailed, name: str, operands: tuple[Operand, ...], known: Mapping[str, int]
) -> Iterator[Access]:
    """Reads first, then updates and writes of operands; pushes last, pops first."""
    if insn.mnemonic.startswith(("rep ", "repe ", "repne ")) and known.get("rcx") == 0:
        return
    stack = list(_stack_accesses(name, operands, known))
    found = []
    for raw, operand in zip(insn.operands, operands, strict=True):
        if operand.kind == "memory" and name not in _NO_ACCESS:
            found.append(_memory_access(insn, name, raw, operand, raw is insn.operands[0]))
    if name == "pop" and found and insn.operands[0].mem.base == RSP:
        # POP computes the address of its destination with RSP already raised (SDM vol. 2, POP).
        at = found[0].address
        found[0] = replace(found[0], address=None if at is None else at + 8 & _MASK)
    order = {"read": 0, "update": 1, "write": 2, "fetch": 3}
    yield from sorted((*stack, *found), key=lambda a: (order[a.kind], a.stack))


def _memory_access(
    insn: Detailed, name: str, raw: DetailedOperand, operand: Operand, first: bool
) -> Access:
    kind: Kind = "read"
    if name in _UPDATES:
        kind = "update"
    elif name in _STORES or name.startswith("xsave") or _stores_first(name, first):
        # capstone says of many stores of SSE and x87 that they read (movups, movnti, fstp).
        kind = "write"
    elif raw.access & WRITE:
        kind = "update" if raw.access & READ else "write"
    base = insn.reg_name(raw.mem.base) if raw.mem.base else ""
    segment = insn.reg_name(raw.mem.segment) if raw.mem.segment else ""
    stack = base in ("rsp", "rbp", "esp", "ebp") and segment not in ("fs", "gs")
    size = _SAVE_AREA.get(name, max(operand.size, 1))
    return Access(kind, operand.value, size, stack, "its memory operand")


def _stores_first(name: str, first: bool) -> bool:
    return first and name.startswith(("mov", "vmov", "set", "vextract", "pextr", "vpextr"))


def _stack_accesses(
    name: str, operands: tuple[Operand, ...], known: Mapping[str, int]
) -> Iterator[Access]:
    """What the instruction pushes and pops without saying so."""
    rsp = known.get("rsp")

    def at(offset: int) -> int | None:
        return None if rsp is None else rsp + offset & _MASK

    size = operands[0].size if name in ("push", "pop") and operands and operands[0].size == 2 else 8
    if name in ("push", "pushfq", "pushf", "enter", "call"):
        yield Access("write", at(-size), size, True, "its push onto the stack")
    elif name in ("pop", "popfq", "popf", "ret"):
        yield Access("read", at(0), size, True, "its pop from the stack")
    elif name in ("retf", "retfq"):
        yield Access("read", at(0), 16, True, "the far return address on the stack")
    elif name in ("iretq", "iret", "iretd"):
        words = {"iretq": 8, "iretd": 4, "iret": 2}[name]
        yield Access("read", at(0), 5 * words, True, "the interrupt frame on the stack")
    elif name == "leave":
        yield Access("read", known.get("rbp"), 8, True, "its pop from the frame that RBP names")
    elif name == "xlatb" and "rbx" in known and "rax" in known:
        yield Access("read", known["rbx"] + (known["rax"] & 0xFF) & _MASK, 1, False, "its table")
    elif name == "maskmovdqu":
        yield Access("write", known.get("rdi"), 16, False, "its destination at RDI")
