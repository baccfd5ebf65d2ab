"""What the CPU does with one access, given the walk: lets it pass, or pushes which error code.

SDM vol. 3: 4.6 (access rights), 4.6.2 (protection keys), 4.7 (page-fault exceptions). The walk says
where an address leads; here come the mode, the privilege and the width of physical addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from breenix_gdbagent.arch.walks import Entry, Walk
from breenix_gdbagent.x86.control import PagingMode
from breenix_gdbagent.x86.exceptions import (
    PF_FETCH,
    PF_KEY,
    PF_PRESENT,
    PF_RESERVED,
    PF_USER,
    PF_WRITE,
)
from breenix_gdbagent.x86.paging import (
    ADDRESS,
    LEVEL,
    NON_CANONICAL,
    NX,
    PS,
    UNREADABLE,
    U,
    W,
)

UNMAPPED = "unmapped"
WRITE_PROTECTED = "write-protected"
SUPERVISOR_ONLY = "supervisor-only"
NO_EXECUTE = "no-execute"
RESERVED_BIT = "reserved-bit"
SMEP = "smep"
SMAP = "smap"
PKEY = "pkey"
# And paging.NON_CANONICAL, which is no page fault.

_PAGE_FAULT = 14
_GENERAL_PROTECTION = 13
_STACK_FAULT = 12


@dataclass(frozen=True, slots=True)
class Access:
    """One access: `kind` is ``read``, ``write`` or ``fetch``, `cpl` the ring of the program.

    `implicit`: the CPU's own access to a descriptor table, the TSS or a stack it switches to, which
    is a supervisor's whatever the ring (SDM 4.6.1). `ac` is EFLAGS.AC, `stack` whether it goes
    through SS (a non-canonical address is then #SS).
    """

    kind: str
    cpl: int
    implicit: bool = False
    ac: bool = False
    stack: bool = False

    @property
    def user(self) -> bool:
        return self.cpl == 3 and not self.implicit


@dataclass(frozen=True, slots=True)
class Processor:
    """What of the processor matters besides its mode; None is not known, and changes nothing.

    `width`: bits of physical addresses (CPUID 80000008H). `gigabyte_pages`: whether PS at level 3
    is allowed (CPUID 80000001H EDX bit 26). `pkru`: the PKRU register.
    """

    width: int | None = None
    gigabyte_pages: bool | None = None
    pkru: int | None = None


ReservedWhy = Literal["nx-without-nxe", "beyond-width", "below-large-page", "no-large-page"]
"""Why a bit is reserved: EFER.NXE is 0; it lies above the width of physical addresses; a large page
has no such address bit; or there are no large pages at that level."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Bits of one entry that are set and reserved (SDM vol. 3, 4.5 and tables 4-15 to 4-20)."""

    bits: int
    why: ReservedWhy


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens.

    `allowed` None: a table on the way is in no memory that we have. Not allowed: `vector`,
    `error_code` as the CPU pushes it, `causes` (the first is the one to name), and the `entry` that
    forbids it (the uppermost that does; None where no entry was read). `also` are codes that
    emulators push instead. `assumed` names registers that were not known and would matter.
    `reserved` are the reserved bits of `entry`; `lacking` all entries that lack the right that the
    first cause is about (or have NX), from the top.
    """

    allowed: bool | None
    causes: tuple[str, ...] = ()
    vector: int | None = None
    error_code: int | None = None
    entry: Entry | None = None
    also: tuple[int, ...] = ()
    assumed: tuple[str, ...] = ()
    reserved: tuple[Reserved, ...] = ()
    lacking: tuple[Entry, ...] = ()

    @property
    def cause(self) -> str | None:
        return self.causes[0] if self.causes else None

    def explains(self, error_code: int) -> bool:
        """Whether this is what pushed `error_code`."""
        return error_code == self.error_code or error_code in self.also


def verdict(
    walk: Walk, access: Access, mode: PagingMode, processor: Processor | None = None
) -> Verdict:
    """What `access` to the address of `walk` comes to in `mode`.

    `walk` is to be made without `nxe`: reserved bits are judged here. EFER.NXE is taken to be on
    where it is not known, PKRU to allow everything; `assumed` says so where it decides.
    """
    processor = processor or Processor()
    if walk.reason == NON_CANONICAL:
        vector = _STACK_FAULT if access.stack else _GENERAL_PROTECTION
        return Verdict(False, (NON_CANONICAL,), vector, 0)
    code = _code_of(access, mode)
    for entry in walk.entries:
        if not entry.present:
            return Verdict(False, (UNMAPPED,), _PAGE_FAULT, code, entry)
        if reserved := _reserved_bits(entry, mode, processor):
            # QEMU's TCG leaves P clear (target/i386/tcg/sysemu/excp_helper.c, do_fault_rsvd).
            said = code | PF_RESERVED
            return Verdict(
                False, (RESERVED_BIT,), _PAGE_FAULT, said | PF_PRESENT, entry, (said,), (), reserved
            )
    assumed = ("EFER.NXE",) if mode.nxe is None and any(e.raw & NX for e in walk.entries) else ()
    if walk.reason == UNREADABLE or walk.effective is None:
        return Verdict(None, assumed=assumed)
    causes = _forbidden(walk, access, mode)
    key, key_known = _key_forbids(walk, access, mode, processor)
    if not key_known:
        assumed = (*assumed, "PKRU")
    if key:
        causes = (*causes, PKEY)
        code |= PF_KEY
    if not causes:
        return Verdict(True, assumed=assumed)
    lacking = _lacking(walk, causes[0])
    denies = lacking[0] if lacking else walk.leaf  # for what a right *allows* (U), the leaf
    return Verdict(
        False, causes, _PAGE_FAULT, code | PF_PRESENT, denies, assumed=assumed, lacking=lacking
    )


def _code_of(access: Access, mode: PagingMode) -> int:
    """The bits that say what was asked; I/D only where NXE or SMEP is on (SDM 4.7)."""
    code = PF_USER if access.user else 0
    if access.kind == "write":
        code |= PF_WRITE
    if access.kind == "fetch" and (mode.nxe is not False or mode.smep):
        code |= PF_FETCH
    return code


def _reserved_bits(
    entry: Entry, mode: PagingMode, processor: Processor
) -> tuple[Reserved, ...]:
    level, large = LEVEL[entry.level], 0
    no_large = level.reserved_always
    if entry.raw & PS and level.large_page:
        large = level.reserved
        if entry.level == 3 and processor.gigabyte_pages is False:
            no_large |= PS
    beyond = 0 if processor.width is None else ADDRESS & -(1 << processor.width)
    asked: tuple[tuple[int, ReservedWhy], ...] = (
        (NX if mode.nxe is False else 0, "nx-without-nxe"),
        (beyond, "beyond-width"),
        (large, "below-large-page"),
        (no_large, "no-large-page"),
    )
    return tuple(Reserved(entry.raw & bits, why) for bits, why in asked if entry.raw & bits)


def _forbidden(walk: Walk, access: Access, mode: PagingMode) -> tuple[str, ...]:
    """Why the rights of all levels together forbid it, protection keys aside."""
    rights = walk.effective
    assert rights is not None
    nx = rights.nx and mode.nxe is not False
    causes = []
    if access.user:
        if not rights.u:
            causes.append(SUPERVISOR_ONLY)
        if access.kind == "write" and not rights.w:
            causes.append(WRITE_PROTECTED)
    else:
        if rights.u and access.kind == "fetch" and mode.smep:
            causes.append(SMEP)
        if rights.u and access.kind != "fetch" and mode.smap and (access.implicit or not access.ac):
            causes.append(SMAP)
        if access.kind == "write" and not rights.w and mode.wp:
            causes.append(WRITE_PROTECTED)
    if access.kind == "fetch" and nx:
        causes.append(NO_EXECUTE)
    return tuple(causes)


def _key_forbids(
    walk: Walk, access: Access, mode: PagingMode, processor: Processor
) -> tuple[bool, bool]:
    """(whether the protection key forbids it, whether that is known): SDM 4.6.2, user pages."""
    leaf, rights = walk.leaf, walk.effective
    if leaf is None or rights is None or not mode.pke or not rights.u or access.kind == "fetch":
        return False, True
    if processor.pkru is None:
        return False, False
    key = leaf.raw >> 59 & 0xF
    no_access = processor.pkru >> 2 * key & 1
    no_write = processor.pkru >> 2 * key + 1 & 1
    writes = access.kind == "write" and (access.user or mode.wp)
    return bool(no_access or (no_write and writes)), True


def _lacking(walk: Walk, cause: str) -> tuple[Entry, ...]:
    """The entries that make it so, from the top; none for what a right *allows* (U)."""
    missing = {WRITE_PROTECTED: W, SUPERVISOR_ONLY: U}.get(cause)
    if missing is not None:
        return tuple(e for e in walk.entries if not e.raw & missing)
    return tuple(e for e in walk.entries if cause == NO_EXECUTE and e.raw & NX)
