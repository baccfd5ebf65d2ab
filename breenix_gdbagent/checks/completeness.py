"""What a check of all spaces had to leave out: raised at its end, so that it never counts as
passed."""

from __future__ import annotations

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.kernel.ledger import FrameLedger
from breenix_gdbagent.kernel.view import Kernel


def require_finished_tables(kernel: Kernel) -> None:
    """Raises `NotChecked` while a page table is in the making."""
    left = sorted(kernel.under_construction)
    if left:
        many = f"{len(left)} page tables have" if len(left) > 1 else "a page table has"
        raise NotChecked(
            f"{many} nothing of a process yet ({hex64(left[0])}): in the making, it seems, and "
            "not held to anything"
        )


def require_user_halves(kernel: Kernel, ledger: FrameLedger) -> None:
    """As `require_finished_tables`; also raises `NotChecked` when user halves were left out."""
    left = ledger.skipped
    if left:
        raise NotChecked(
            f"frames are used again here, and whether {len(left)} of the roots found in "
            "RAM are alive is not known: their user halves were not looked at"
        )
    require_finished_tables(kernel)
