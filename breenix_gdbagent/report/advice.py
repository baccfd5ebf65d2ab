"""What is said of a finding code: the code's own words, or those of the kernel's adapter."""

from __future__ import annotations

from dataclasses import replace

from breenix_gdbagent.checks.finding import CODES, Code
from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.kernel.adapter import Adapter
from breenix_gdbagent.kernel.adapters import named

ASSUMED = "breenix"
"""The adapter of a report that names none: so were those of before there were others."""


def said_of(code: Code, adapter: Adapter) -> Code:
    """`code` with the words that it has on the kernel of `adapter`."""
    there = adapter.advice_for(code.name)
    return replace(
        code,
        arises=there.arises or code.arises,
        confirm=there.confirm or code.confirm,
        mend=there.mend or code.mend,
    )


def code_of(name: str, adapter: str | None) -> Code | None:
    """The code of that name in the words of the adapter that a report names (None: `ASSUMED`);
    None for a code that this agent does not know."""
    code = CODES.get(name) or all_codes().get(name)  # a saved report is told without any check
    return None if code is None else said_of(code, named(adapter or ASSUMED))
