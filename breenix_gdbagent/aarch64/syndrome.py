"""ESR_EL1 in words: exception class, and of aborts and the like what their syndrome says.

Source: Arm ARM, D19.2.40 (ESR_EL1), tables of EC, of ISS by class, and of fault status codes.
"""

from __future__ import annotations

from typing import NamedTuple

EC_SVC = 0x15
EC_SYSTEM = 0x18
EC_FETCH_LOWER, EC_FETCH_SAME = 0x20, 0x21
EC_DATA_LOWER, EC_DATA_SAME = 0x24, 0x25
EC_BRK = 0x3C

CLASSES = {
    0x00: "unknown reason (an instruction that is undefined here)",
    0x01: "WFI or WFE, trapped",
    0x03: "MCR or MRC (coproc 0b1111), trapped",
    0x04: "MCRR or MRRC (coproc 0b1111), trapped",
    0x05: "MCR or MRC (coproc 0b1110), trapped",
    0x06: "LDC or STC, trapped",
    0x07: "SVE, Advanced SIMD or floating point, trapped (CPACR_EL1.FPEN)",
    0x0A: "LD64B, ST64B or another trapped instruction",
    0x0C: "MRRC (coproc 0b1110), trapped",
    0x0D: "branch target exception (BTI)",
    0x0E: "illegal execution state",
    0x11: "SVC in AArch32",
    0x15: "SVC in AArch64",
    0x16: "HVC in AArch64",
    0x17: "SMC in AArch64",
    0x18: "MSR, MRS or system instruction, trapped",
    0x19: "SVE, trapped (CPACR_EL1.ZEN)",
    0x1C: "pointer authentication failed (FPAC)",
    0x1D: "SME, trapped (CPACR_EL1.SMEN)",
    0x20: "instruction abort from a lower exception level",
    0x21: "instruction abort without a change of exception level",
    0x22: "PC alignment fault",
    0x24: "data abort from a lower exception level",
    0x25: "data abort without a change of exception level",
    0x26: "SP alignment fault",
    0x27: "memory copy or set exception",
    0x28: "floating point exception in AArch32",
    0x2C: "floating point exception in AArch64",
    0x2F: "SError interrupt",
    0x30: "breakpoint from a lower exception level",
    0x31: "breakpoint without a change of exception level",
    0x32: "software step from a lower exception level",
    0x33: "software step without a change of exception level",
    0x34: "watchpoint from a lower exception level",
    0x35: "watchpoint without a change of exception level",
    0x38: "BKPT in AArch32",
    0x3C: "BRK in AArch64",
}
"""Exception class -> its meaning (D19.2.40, table of EC)."""

ABORTS = (EC_FETCH_LOWER, EC_FETCH_SAME, EC_DATA_LOWER, EC_DATA_SAME)
SIZE, TRANSLATION = "address-size", "translation"
ACCESS_FLAG, PERMISSION = "access-flag", "permission"
_BY_LEVEL = {0b0000: SIZE, 0b0001: TRANSLATION, 0b0010: ACCESS_FLAG, 0b0011: PERMISSION}
_BASE = {kind: base << 2 for base, kind in _BY_LEVEL.items()}
_MINUS_ONE = {0b101001: SIZE, 0b101011: TRANSLATION}
_OTHER = {
    0b010000: "external",
    0b010001: "tag-check",
    0b011000: "parity",
    0b100001: "alignment",
    0b110000: "tlb-conflict",
    0b110001: "unsupported-atomic-update",
    0b110100: "implementation-defined (lockdown)",
    0b110101: "unsupported exclusive or atomic access",
}
WNR, S1PTW, CM, EA, FNV, IL = 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 25
_WORDS = {
    SIZE: "address size fault",
    TRANSLATION: "translation fault",
    ACCESS_FLAG: "access flag fault",
    PERMISSION: "permission fault",
    "walk": "synchronous external abort on a translation table walk",
    "external": "synchronous external abort",
    "tag-check": "tag check fault",
    "parity": "parity or ECC error",
    "alignment": "alignment fault",
    "tlb-conflict": "TLB conflict abort",
}


class Fault(NamedTuple):
    """What a fault status code says: its `kind`, and the level of the entry that it is about (None
    where it is about none)."""

    kind: str
    level: int | None

    @property
    def words(self) -> str:
        """``translation fault, level 1``."""
        told = _WORDS.get(self.kind, self.kind)
        return told if self.level is None else f"{told}, level {self.level}"


def fault_of(fsc: int) -> Fault:
    """Bits 5:0 of the syndrome of an abort (tables of DFSC and IFSC)."""
    if fsc in _MINUS_ONE:
        return Fault(_MINUS_ONE[fsc], -1)
    kind = _BY_LEVEL.get(fsc >> 2)
    if kind is not None:
        return Fault(kind, fsc & 3)
    if fsc >> 2 == 0b0101:
        return Fault("walk", fsc & 3)
    return Fault(_OTHER.get(fsc, f"fault status {fsc:#x}"), None)


def status_of(kind: str, level: int) -> int:
    """The fault status code for one of the four kinds at a level. Raises `KeyError`."""
    if level == -1:
        return next(code for code, name in _MINUS_ONE.items() if name == kind)
    return _BASE[kind] | level


class Syndrome(NamedTuple):
    """An ESR as it was written."""

    value: int

    @property
    def ec(self) -> int:
        """Exception class, bits 31:26."""
        return self.value >> 26 & 0x3F

    @property
    def iss(self) -> int:
        """Instruction specific syndrome, bits 24:0."""
        return self.value & 0x1FF_FFFF

    @property
    def is_abort(self) -> bool:
        """Of data or of a fetch."""
        return self.ec in ABORTS

    @property
    def is_fetch(self) -> bool:
        """An instruction abort."""
        return self.ec in (EC_FETCH_LOWER, EC_FETCH_SAME)

    @property
    def from_lower(self) -> bool:
        """Of an abort: whether a program's access."""
        return self.ec in (EC_FETCH_LOWER, EC_DATA_LOWER)

    @property
    def fault(self) -> Fault | None:
        """Of an abort: what its status says."""
        return fault_of(self.value & 0x3F) if self.is_abort else None

    @property
    def access(self) -> str:
        """Of an abort: ``fetch``, ``write`` or ``read``. Cache maintenance and address translation
        instructions count as writes whatever they do (WnR)."""
        if self.is_fetch:
            return "fetch"
        return "write" if self.value & WNR else "read"

    @property
    def name(self) -> str:
        """The exception class in words."""
        return CLASSES.get(self.ec, f"exception class {self.ec:#x}, which no manual has")

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(field, what it says), the ones that are set, the class first."""
        found = [("EC", f"{self.ec:#04x}: {self.name}")]
        found.append(("IL", "a 32-bit instruction" if self.value & IL else "a 16-bit instruction"))
        if self.is_abort:
            found += self._abort_lines()
        elif self.ec in (EC_SVC, 0x16, 0x17, EC_BRK):
            found.append(("imm16", f"{self.iss & 0xFFFF:#x}"))
        elif self.ec == EC_SYSTEM:
            found.append(("ISS", _system_register(self.iss)))
        elif self.iss:
            found.append(("ISS", f"{self.iss:#x}"))
        return tuple(found)

    def _abort_lines(self) -> list[tuple[str, str]]:
        fault = fault_of(self.value & 0x3F)
        name = "IFSC" if self.is_fetch else "DFSC"
        found = [(name, f"{self.value & 0x3F:#04x}: {fault.words}")]
        if not self.is_fetch:
            found.append(("WnR", "1: a write" if self.value & WNR else "0: a read"))
            if self.value & CM:
                found.append(("CM", "1: cache maintenance or address translation instruction"))
        if self.value & S1PTW:
            found.append(("S1PTW", "1: stage 2, on a walk of stage 1"))
        if self.value & EA:
            found.append(("EA", "1: external abort type"))
        if self.value & FNV:
            found.append(("FnV", "1: FAR_EL1 is not valid"))
        return found


def _system_register(iss: int) -> str:
    """The trapped MSR, MRS or system instruction, as the assembler takes it."""
    op0, op2, op1 = iss >> 20 & 3, iss >> 17 & 7, iss >> 14 & 7
    crn, rt, crm = iss >> 10 & 0xF, iss >> 5 & 0x1F, iss >> 1 & 0xF
    name = f"S{op0}_{op1}_C{crn}_C{crm}_{op2}"
    return f"MRS x{rt}, {name}" if iss & 1 else f"MSR {name}, x{rt}"
