"""Why a page fault was raised: one finding code for each way in which page tables refuse an access.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.arch.walks import Entry
from breenix_gdbagent.checks.faults import address_kind as kinds
from breenix_gdbagent.checks.faults.address_kind import AddressKind
from breenix_gdbagent.checks.finding import Code, declare
from breenix_gdbagent.cpumodel.context import PF, RFLAGS_AC, AccessKind, Context, Raised
from breenix_gdbagent.cpumodel.explanation import deviation_of
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.adapter import Handled
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86 import verdict as verdicts
from breenix_gdbagent.x86.exceptions import PF_FETCH, PF_USER, PF_WRITE
from breenix_gdbagent.x86.verdict import Reserved, Verdict

UNMAPPED = declare(
    "page-fault.unmapped",
    "error",
    "an access to an address that is not mapped",
    arises="A pointer that leads nowhere, memory freed or never mapped, or a kernel region that "
    "this address space lacks while another has it.",
    confirm="pt walk CR2 shows the level at which the walk ends; compare with pt walk CR2 under "
    "the other roots.",
    mend="If another space maps it, the kernel's part of the tables was not shared with this one. "
    "Else follow the pointer back from the faulting instruction (bt).",
    kind="event",
)
WRITE_PROTECTED = declare(
    "page-fault.write-protected",
    "error",
    "a write to a page that is read-only",
    arises="W is clear at some level: code and read-only data, a page shared copy-on-write whose "
    "mark was lost, or a parent entry that lost W.",
    confirm="pt walk CR2 shows which level lacks W.",
    mend="Check the flags that the mapping call passed, for the parents too.",
    kind="event",
)
SUPERVISOR_ONLY = declare(
    "page-fault.supervisor-only",
    "error",
    "ring 3 touched a page that is not user-accessible",
    arises="A program followed a kernel pointer, or ring 3 was entered at a kernel address (a "
    "kernel context resumed as user code). Or U was given to the last entry only: it counts when "
    "every level has it.",
    confirm="pt walk CR2 shows which level lacks U; compare the frame's CS with its RIP.",
    mend="If RIP is in the kernel image, the saved context of that thread is wrong. If the last "
    "entry has U, give it to the parent tables too. Else the program is wrong.",
    kind="event",
)
NO_EXECUTE = declare(
    "page-fault.no-execute",
    "error",
    "an instruction was fetched from a page that is not executable",
    arises="A jump through a bad pointer, a return address overwritten, or code mapped with NX (a "
    "loader that took a segment's flags wrong).",
    confirm="pt walk CR2 shows which level has NX.",
    mend="Look at the return address and the caller (bt); for code, at the segment's flags.",
    kind="event",
)
RESERVED = declare(
    "page-fault.reserved-bit",
    "error",
    "a page-table entry has a reserved bit set",
    arises="NX is set and EFER.NXE is 0 on that CPU; the entry names an address above the CPU's "
    "physical width, or one that a large page cannot have; PS is set at a level that has no large "
    "pages; or the entry is no entry: the table was overwritten, or is no table.",
    confirm="pt walk CR2 shows the entry; EFER of that CPU; info registers.",
    mend="Write the entry as its level allows. Where it is no entry at all, find out who owns the "
    "frame of that table (pt who), and who else writes to it.",
    kind="event",
)
SMEP = declare(
    "page-fault.smep",
    "error",
    "ring 0 ran into code of a process",
    arises="The kernel jumped to a user address: a null or user function pointer, or a return "
    "to ring 3 done without changing the ring.",
    confirm="CR4.SMEP is set and pt walk CR2 shows U at all levels.",
    mend="Look at the call or return that led there (bt).",
    kind="event",
)
SMAP = declare(
    "page-fault.smap",
    "error",
    "ring 0 touched memory of a process without saying so",
    arises="CR4.SMAP is set and the access was not between stac and clac.",
    confirm="RFLAGS.AC of the frame is clear and pt walk CR2 shows U at all levels.",
    mend="Let all copying from and to programs go through one place, with stac and clac around it.",
    kind="event",
)
STALE_TLB = declare(
    "page-fault.stale-tlb",
    "error",
    "the tables as they are do not give the fault that the CPU took",
    arises="The entry was changed after the access, or before it without invlpg, so that the CPU "
    "used an old translation; or CR3 is not the one of the access.",
    confirm="pt walk CR2 and compare with the pushed error code.",
    mend="Flush with invlpg after every change of a present entry, on every CPU that may hold it.",
    kind="event",
)
GUARD_PAGE = declare(
    "page-fault.guard-page",
    "error",
    "a kernel stack overflowed into its guard page",
    arises="Recursion, large locals or logging on a deep path, or a stack that is too small for "
    "it.",
    confirm="RSP of the frame is near the bottom of that stack; bt shows the depth.",
    mend="Make the path shallower or the stack larger.",
    kind="event",
)
NULL = declare(
    "page-fault.null",
    "error",
    "an access through a null pointer",
    arises="A pointer that was never set plus a field's offset.",
    confirm="CR2 is the field's offset; the base register in the frame's context is 0.",
    mend="Find where the pointer should have been set.",
    kind="event",
)
NON_CANONICAL = declare(
    "page-fault.non-canonical",
    "error",
    "an access to an address that is not canonical",
    arises="A pointer made of garbage or of text; it arrives as #GP (or #SS through RSP or RBP), "
    "with error code 0 and CR2 untouched.",
    confirm="The operand address computed from the registers: bits 63:47 are not all equal.",
    mend="Follow the register that holds it back to where it was loaded.",
    kind="event",
)
HANDLED = declare(
    "page-fault.handled",
    "info",
    "a page fault that the kernel lives on",
    arises="Copy-on-write after fork, growth of a user stack, or a fault of a process that the "
    "kernel answers by ending the process.",
    confirm="The kernel went on; pt walk CR2 afterwards.",
    mend="Nothing: copy-on-write and growth are meant. Where the process died of it, look at it.",
    kind="event",
)


Refusal = Literal[
    "unmapped", "reserved-bit", "supervisor-only", "no-execute", "smep", "smap", "write-protected",
    "protection-key", "copy-on-write", "growth",
]  # fmt: skip
"""In which way the tables refuse an access; the last two are what the kernel lives on."""


@dataclass(frozen=True, slots=True)
class Refused:
    """How the tables refuse the access, and the entry that does. `guard`: nothing is meant to be
    there; `ac`: RFLAGS.AC is set; `below`: so many bytes under the mapped part of a user stack.

    `lacking` are all entries that lack the right (or have NX), from the top, and `meant` the entry
    of the page itself where that has it: so it was meant. `reserved` are the bits of `entry` that
    are reserved on CPU `cpu`, whose EFER is `efer` and whose physical addresses have `width` bits.
    """

    how: Refusal
    entry: Entry | None = None
    guard: bool = False
    ac: bool = False
    below: int = 0
    lacking: tuple[Entry, ...] = ()
    meant: Entry | None = None
    reserved: tuple[Reserved, ...] = ()
    cpu: int = 0
    efer: int | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Differs:
    """The tables do not give the error code that was `pushed`: they give `found`, None where they
    allow the access. `under` are spaces whose tables would give it; `last` ends the walk.
    `missed` is the CPU that faulted, where others may have changed the entry and the tables allow
    the access: no shootdown reached it."""

    found: int | None
    pushed: int
    under: tuple[Space, ...]
    last: Entry | None
    missed: int | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """The code, and why. `predicted` is the error code that the tables give now, None where they
    allow the access; `agrees` whether that is what was pushed, `deviation` by which known
    difference it is so after all."""

    code: Code
    why: Refused | Differs
    predicted: int | None
    agrees: bool
    deviation: str = ""


def access_of(error_code: int, cr2: int, rip: int) -> AccessKind:
    """What the error code says the access was. Without NXE and SMEP a fetch has no bit of its
    own, and shows as a read of RIP."""
    if error_code & PF_FETCH or (not error_code & PF_WRITE and cr2 == rip):
        return "fetch"
    return "write" if error_code & PF_WRITE else "read"


def user_of(context: Context, error_code: int) -> bool | None:
    """With whose privilege the access was made: None as the program's own, False as the CPU's
    (U clear although ring 3 was interrupted: an implicit supervisor access)."""
    return None if context.cpl == 0 else bool(error_code & PF_USER)


def cause_of(
    kernel: Kernel, context: Context, error_code: int, cr2: int, kind: AddressKind
) -> Cause:
    """Why the access that `error_code` tells of failed at `cr2`, by the tables as they are.

    Raises `ReadError` where the tables in the way are not to be had.
    """
    access = access_of(error_code, cr2, context.rip)
    found = context.verdict(cr2, access, user=user_of(context, error_code))
    deviation: str | None = ""
    if found.error_code != error_code:
        expected = Raised(PF, found.error_code, cr2, also=found.also)
        deviation = None if found.allowed else deviation_of(context, expected, error_code)
    if deviation is None:
        differs = _difference(kernel, context, found, cr2, error_code)
        return Cause(STALE_TLB, differs, found.error_code, False)
    code, why = _reason(kernel, context, error_code, cr2, kind, found)
    return Cause(code, why, found.error_code, True, deviation)


def _reason(
    kernel: Kernel, context: Context, error_code: int, cr2: int, kind: AddressKind, found: Verdict
) -> tuple[Code, Refused]:
    entry = found.entry
    if found.cause == verdicts.UNMAPPED:
        return _not_present(kernel, context, error_code, cr2, kind, entry)
    if found.cause == verdicts.RESERVED_BIT:
        return RESERVED, _reserved(context, found)
    lacking, meant = found.lacking, _meant(kernel, context, cr2, found)
    if found.cause == verdicts.SUPERVISOR_ONLY:
        return SUPERVISOR_ONLY, Refused("supervisor-only", entry, lacking=lacking, meant=meant)
    if found.cause == verdicts.NO_EXECUTE:
        return NO_EXECUTE, Refused("no-execute", entry, lacking=lacking)
    if found.cause == verdicts.SMEP:
        return SMEP, Refused("smep", entry)
    if found.cause == verdicts.SMAP:
        return SMAP, Refused("smap", entry, ac=bool(context.rflags & RFLAGS_AC))
    if found.cause == verdicts.WRITE_PROTECTED:
        if _handled(kernel, context, error_code, cr2) is not None:
            return HANDLED, Refused("copy-on-write", entry)
        return WRITE_PROTECTED, Refused("write-protected", entry, lacking=lacking, meant=meant)
    code = WRITE_PROTECTED if error_code & PF_WRITE else SUPERVISOR_ONLY
    return code, Refused("protection-key", entry)


def _reserved(context: Context, found: Verdict) -> Refused:
    cpu = context.cpu
    return Refused(
        "reserved-bit",
        found.entry,
        reserved=found.reserved,
        cpu=cpu.index,
        efer=cpu.get("efer"),
        width=cpu.phys_bits,
    )


def _meant(kernel: Kernel, context: Context, cr2: int, found: Verdict) -> Entry | None:
    """The entry of the page itself, where it permits what those above it do not."""
    leaf = kernel.walk(context.root, cr2).leaf
    return leaf if found.lacking and leaf is not None and leaf not in found.lacking else None


def _not_present(
    kernel: Kernel,
    context: Context,
    error_code: int,
    cr2: int,
    kind: AddressKind,
    entry: Entry | None,
) -> tuple[Code, Refused]:
    if kind.name == kinds.NULL_PAGE:
        return NULL, Refused("unmapped", entry)
    pushed_there = kind.name in (kinds.GUARD_PAGE, kinds.BELOW_IST) and cr2 != context.rip
    if pushed_there and not error_code & PF_USER:  # who runs there has not overflowed a stack
        meant = kind.stack is not None and kind.part != "run"
        return GUARD_PAGE, Refused("unmapped", entry, guard=meant)
    growth = _handled(kernel, context, error_code, cr2)
    if growth is not None:
        return HANDLED, Refused("growth", entry, below=growth.below)
    return UNMAPPED, Refused("unmapped", entry)


def _handled(kernel: Kernel, context: Context, error_code: int, cr2: int) -> Handled | None:
    """What the kernel does about it by design, None where that is not known."""
    try:
        grows = kernel.adapter.grows_stacks(kernel.era)
    except ReadError:
        grows = False
    way = kernel.walk(context.root, cr2)
    return kernel.adapter.handled(kernel.tables, way, error_code, grows=grows)


def _difference(
    kernel: Kernel, context: Context, found: Verdict, cr2: int, error_code: int
) -> Differs:
    under = tuple(
        s
        for s in kernel.audited
        if s.root != context.root and _gives(context.under(s.root), cr2, error_code)
    )
    walk = kernel.walk(context.root, cr2)
    last = walk.entries[-1] if walk.entries else None
    others = sum(cpu.paging is not None for cpu in kernel.stop.cpus) > 1
    missed = context.cpu.index if others and found.error_code is None and not under else None
    return Differs(found.error_code, error_code, under, last, missed)


def _gives(other: Context, cr2: int, error_code: int) -> bool:
    try:
        access = access_of(error_code, cr2, other.rip)
        found = other.verdict(cr2, access, user=user_of(other, error_code))
    except ReadError:
        return False
    return found.explains(error_code)
