"""The analyzers: they distrust the guest and yield findings. One file per subject."""

from __future__ import annotations

from breenix_gdbagent.checks.examine import Examination, examine
from breenix_gdbagent.checks.finding import CODES, CheckResult, Code, Finding, NotChecked

__all__ = ["CODES", "CheckResult", "Code", "Examination", "Finding", "NotChecked", "examine"]
