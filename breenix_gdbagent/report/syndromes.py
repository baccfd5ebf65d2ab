"""ESR_EL1 of aarch64 in a sentence, and the finding codes that it leaves open."""

from __future__ import annotations

from breenix_gdbagent.aarch64.syndrome import (
    ACCESS_FLAG,
    EC_BRK,
    EC_SVC,
    PERMISSION,
    SIZE,
    TRANSLATION,
    Syndrome,
)

FROM = 25
"""A number with this bit (IL, set for every instruction of A64) or a higher one is taken for an
ESR: an error code of x86-64 has none of them."""
_WHY = {
    TRANSLATION: "to an address that nothing maps (the entry of level {level} is not valid)",
    SIZE: "through an entry of level {level} whose address is wider than the CPU's",
    ACCESS_FLAG: "to a page whose access flag is clear (AF of the entry of level {level})",
    PERMISSION: "that the entry of level {level} does not permit",
    "alignment": "to an address that is not aligned for it",
    "walk": "whose table of level {level} could not be read",
}
_OTHERS = {
    0x00: ["invalid-opcode"], 0x0E: ["eret.frame"], 0x22: ["page-fault.non-canonical"],
    0x26: ["sp.misaligned"], EC_SVC: [], EC_BRK: ["panic", "exception.unhandled"],
}  # fmt: skip


def syndrome_sentence(told: Syndrome) -> str:
    """``a write by the kernel (EL1) to an address that nothing maps ...``."""
    fault = told.fault
    if fault is None:
        return told.name
    verb = {"fetch": "an instruction fetch", "write": "a write", "read": "a read"}[told.access]
    who = "by a program (EL0)" if told.from_lower else "by the kernel (EL1)"
    why = _WHY.get(fault.kind, "answered with a " + fault.words).format(level=fault.level)
    return f"{verb} {who} {why}"


def codes_of_syndrome(told: Syndrome) -> list[str]:
    """The finding codes that a syndrome leaves open, likeliest first."""
    fault = told.fault
    if fault is None:
        return list(_OTHERS.get(told.ec, ["exception.unhandled"]))
    if fault.kind == SIZE:
        return ["page-fault.reserved-bit"]
    if fault.kind == TRANSLATION:
        kernels = [] if told.from_lower else ["page-fault.guard-page", "page-fault.null"]
        handled = ["page-fault.handled"] if told.from_lower else []
        return ["page-fault.unmapped", *kernels, *handled]
    if fault.kind == ACCESS_FLAG:
        return ["page-fault.unmapped", "page-fault.handled"]
    if fault.kind != PERMISSION:
        return ["exception.unhandled"]
    if told.access == "fetch":
        return ["page-fault.no-execute"]
    first = ["page-fault.write-protected"] if told.access == "write" else []
    if told.from_lower:
        return [*first, "page-fault.supervisor-only", "page-fault.handled"]
    return [*first, "page-fault.smap"]
