"""Regular expressions as users write them."""

from __future__ import annotations

import re

from breenix_gdbagent.errors import InputError


def compiled(pattern: str, what: str = "", flags: int = 0) -> re.Pattern[str]:
    """The expression; `what` names where it came from (``--until``), for the error.

    Raises `InputError` for what is none, and for what Python's `re` cannot hold: groups nested too
    deeply, repetitions beyond 2**32.
    """
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        why = str(error)
    except (RecursionError, OverflowError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    raise InputError(f"{what} {pattern!r} is no regular expression".strip(), why)
