"""The fault that a stop is about, explained: which exception, raised by what, and why.

`check` is the analyzer. `as_handled` is for a guarded run, which learns only later that the kernel
went on after a fault, `as_mended` for one of the kernel's own; `recognised` tells it which faults
to pass without any analysis.
"""

from __future__ import annotations

from breenix_gdbagent.checks.faults.analyzer import check, explain_cpu
from breenix_gdbagent.checks.faults.handled import (
    as_handled,
    as_mended,
    is_user_fault,
    may_be_mended,
)
from breenix_gdbagent.kernel.handled import recognised

__all__ = [
    "as_handled",
    "as_mended",
    "check",
    "explain_cpu",
    "is_user_fault",
    "may_be_mended",
    "recognised",
]
