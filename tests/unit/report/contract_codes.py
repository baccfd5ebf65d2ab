"""The finding codes of the contract, with their severity, as its table has them, and those that
were declared after it: of several CPUs (issue 25)."""

from __future__ import annotations

_TABLE = """
page-fault: unmapped write-protected supervisor-only no-execute reserved-bit smep smap stale-tlb
page-fault: guard-page null non-canonical handled(info)
-: double-fault triple-fault general-protection invalid-opcode divide-error
exception: unhandled
eret: frame
sp: misaligned
kernel-stack: unmapped read-only user-accessible differs aliased guard-mapped overflow foreign
kernel-stack: dead-owner executable(warning) nearly-full(warning)
ist: unmapped shared(warning)
tss: rsp0-invalid rsp0-mismatch shared
idt: gate-missing(warning) handler-unmapped differs(warning)
cpu: control-differs
gdt: unmapped
kernel-slot: missing diverged aliased user-accessible read-only
shared-table: user conflict
table: cycle beyond-ram freed
frame: beyond-ram maps-page-table mapped-twice free-but-mapped double-allocated
frames: exhausted leak(warning)
heap: exhausted corrupt uninitialised leak(warning)
cr3: unknown bootloader wrong-process
process: no-page-table
thread: desync dead-running two-cpus lost-wake-up
context: privilege-mismatch registers-changed
map: already-mapped
pic: not-remapped
kernel-code: overwritten
tables: nx-without-nxe(warning)
-: loader-fault
-: panic hang unexpected-exit reboot marker-missing tests-failed
log: error(warning)
eret: frame
sp: misaligned
"""


def _read() -> dict[str, str]:
    codes = {}
    for row in _TABLE.strip().splitlines():
        family, _, names = row.partition(": ")
        for name in names.split():
            bare, _, severity = name.rstrip(")").partition("(")
            codes[bare if family == "-" else f"{family}.{bare}"] = severity or "error"
    return codes


CONTRACT = _read()
