"""What an expression may come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from breenix_gdbagent.symbols.values import Value

    Known = int | float | str | bool | None | Value | tuple["Known", ...]
