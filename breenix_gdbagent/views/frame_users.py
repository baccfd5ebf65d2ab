"""One physical frame: who maps it, as what, who has it as a page table, whose it is."""

from __future__ import annotations

from dataclasses import dataclass

from breenix_gdbagent.addresses import page_base
from breenix_gdbagent.checks.faults.address_kind import AddressKind, kind_of
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.spaces import Space
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.reverse import FrameIndex, Mapping, TableUse


@dataclass(frozen=True, slots=True)
class FrameMapping:
    """One mapping: the space of its root (None: not known whose), what lies at its address."""

    mapping: Mapping
    space: Space | None
    kind: AddressKind


@dataclass(frozen=True, slots=True)
class FrameAsTable:
    """One use as a page table, and the space of its root (None: not known whose)."""

    use: TableUse
    space: Space | None


@dataclass(frozen=True, slots=True)
class FrameUsers:
    """All that is known of the byte at `pa`.

    `ram`: whether RAM is there, None without a RAM map. `allocator` is the frame allocator's word
    (``allocated``, ``free``, ``never``; ``not its own``), None with the reason in `no_allocator`.
    `as_virtual` is where `pa` would lead as a virtual address, looked up when nobody maps it.
    `is_breenix`: what lies at an address is known of Breenix alone.
    """

    pa: int
    mappings: tuple[FrameMapping, ...]
    tables: tuple[FrameAsTable, ...]
    ram: bool | None
    allocator: str | None
    no_allocator: str | None
    as_virtual: int | None
    is_breenix: bool


def frame_users(kernel: Kernel, pa: int) -> FrameUsers:
    """The users of a physical address among all roots of the stop. Raises `ReadError`."""
    roots = [s.root for s in kernel.spaces]
    who = FrameIndex(kernel.tables, roots, kernel.levels, kernel.nxe).who(pa)
    ram = kernel.stop.memory.ram
    state, reason = _allocator(kernel, pa)
    unused = not who.mappings and not who.tables
    return FrameUsers(
        pa,
        tuple(
            FrameMapping(m, kernel.space_of(m.root), kind_of(kernel, m.va, m.root))
            for m in who.mappings
        ),
        tuple(FrameAsTable(t, kernel.space_of(t.root)) for t in who.tables),
        None if ram is None else ram.holds(pa),
        state,
        reason,
        _as_virtual(kernel, pa) if unused else None,
        kernel.is_breenix,
    )


def _allocator(kernel: Kernel, pa: int) -> tuple[str | None, str | None]:
    """The allocator's word on a frame, and why there is none."""
    try:
        state = kernel.structures.frames.state(page_base(pa))
    except ReadError as lacking:
        return None, lacking.what
    return (state, None) if state is not None else ("not its own", None)


def _as_virtual(kernel: Kernel, address: int) -> int | None:
    """Where an address that nobody maps leads as a virtual one, which may be what was meant."""
    root = kernel.stop.cpu.root if kernel.stop.cpu.paging is not None else kernel.reference_root
    return None if root is None else kernel.walk(root, address).pa
