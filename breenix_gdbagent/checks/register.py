"""Every finding code: importing this imports all checks, which declare theirs."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from breenix_gdbagent import checks
from breenix_gdbagent.checks.finding import CODES, Code


def all_codes() -> Mapping[str, Code]:
    """Code by name, of all checks."""
    for module in pkgutil.walk_packages(checks.__path__, f"{checks.__name__}."):
        importlib.import_module(module.name)
    return CODES
