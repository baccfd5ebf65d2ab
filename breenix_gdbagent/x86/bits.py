"""The bits of CR0, CR4, EFER and RFLAGS by name (SDM volume 3, 2.5, 2.2.1; volume 1, 3.4.3)."""

from __future__ import annotations

CR0 = {
    0: "PE", 1: "MP", 2: "EM", 3: "TS", 4: "ET", 5: "NE", 16: "WP", 18: "AM", 29: "NW", 30: "CD",
    31: "PG",
}  # fmt: skip
CR4 = {
    0: "VME", 1: "PVI", 2: "TSD", 3: "DE", 4: "PSE", 5: "PAE", 6: "MCE", 7: "PGE", 8: "PCE",
    9: "OSFXSR", 10: "OSXMMEXCPT", 11: "UMIP", 12: "LA57", 13: "VMXE", 14: "SMXE", 16: "FSGSBASE",
    17: "PCIDE", 18: "OSXSAVE", 20: "SMEP", 21: "SMAP", 22: "PKE", 23: "CET", 24: "PKS",
}  # fmt: skip
EFER = {
    0: "SCE", 8: "LME", 10: "LMA", 11: "NXE", 12: "SVME", 13: "LMSLE", 14: "FFXSR", 15: "TCE",
}  # fmt: skip
RFLAGS = {
    0: "CF", 2: "PF", 4: "AF", 6: "ZF", 7: "SF", 8: "TF", 9: "IF", 10: "DF", 11: "OF", 14: "NT",
    16: "RF", 17: "VM", 18: "AC", 19: "VIF", 20: "VIP", 21: "ID",
}  # fmt: skip
NAMES = {"cr0": CR0, "cr4": CR4, "efer": EFER, "eflags": RFLAGS}


def flags(register: str, value: int) -> tuple[str, ...]:
    """Names of the bits set, from the lowest up; RFLAGS has its IOPL as ``IOPL3``. Bits without a
    name are given by number (``bit1`` of RFLAGS is always set and left out)."""
    names = NAMES[register]
    skip = 0b10 | 0b11 << 12 if register == "eflags" else 0
    found = [names.get(bit, f"bit{bit}") for bit in range(64) if (value & ~skip) >> bit & 1]
    if register == "eflags" and value >> 12 & 3:
        found.append(f"IOPL{value >> 12 & 3}")
    return tuple(found)
