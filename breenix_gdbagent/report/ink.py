"""Terminal colours: a handful of SGR attributes, or none at all."""

from __future__ import annotations

from dataclasses import dataclass

_SGR = {
    "error": "1;31",
    "warning": "1;33",
    "info": "1;36",
    "good": "32",
    "bad": "31",
    "note": "33",
    "head": "1",
    "dim": "2",
}


@dataclass(frozen=True, slots=True)
class Ink:
    """Paints text when `on`; the visible width never changes."""

    on: bool = False

    def __call__(self, kind: str, text: str) -> str:
        """`text` in the colour of `kind`; plain for an unknown kind or when off."""
        code = _SGR.get(kind)
        return f"\x1b[{code}m{text}\x1b[0m" if self.on and code and text else text


PLAIN = Ink()
