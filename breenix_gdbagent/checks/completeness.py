"""What a check of all spaces had to leave out: raised at its end, so that it never counts as
passed."""

from __future__ import annotations

from breenix_gdbagent.checks.finding import NotChecked
from breenix_gdbagent.checks.reasons import RootsLeftOut, TablesInTheMaking
from breenix_gdbagent.kernel.ledger import FrameLedger
from breenix_gdbagent.kernel.view import Kernel


def require_finished_tables(kernel: Kernel) -> None:
    """Raises `NotChecked` while a page table is in the making."""
    left = sorted(kernel.under_construction)
    if left:
        raise NotChecked(TablesInTheMaking(len(left), left[0]))


def require_user_halves(kernel: Kernel, ledger: FrameLedger) -> None:
    """As `require_finished_tables`; also raises `NotChecked` when user halves were left out."""
    left = ledger.skipped
    if left:
        raise NotChecked(RootsLeftOut(len(left)))
    require_finished_tables(kernel)
