"""The fault that a stop is about, explained: which exception, raised by what, and why.

`check` is the analyzer. `as_handled` is for a guarded run, which learns only later that the kernel
went on after a fault; `recognised` tells it which faults to pass without any analysis.
"""

from __future__ import annotations

from breenix_gdbagent.checks.faults.analyzer import check, explain_cpu
from breenix_gdbagent.checks.faults.handled import as_handled, is_user_fault
from breenix_gdbagent.kernel.handled import recognised

__all__ = ["as_handled", "check", "explain_cpu", "is_user_fault", "recognised"]
