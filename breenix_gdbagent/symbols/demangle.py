"""Rust symbol names as people write them: legacy (``_ZN..17h<hash>E``) and v0 (``_R..``).

Where DWARF is at hand nobody needs this; the release kernel has only its .symtab. Names that do
not follow the grammar come back as they are. Inherent impls of a plain path are written as the
source has them, `kernel::memory::ProcessPageTable::map_page` and not `<..ProcessPageTable>::..`.
Sources: rustc's legacy mangling (rustc_symbol_mangling::legacy), RFC 2603 for v0.
"""

from __future__ import annotations

import re
from functools import lru_cache

from breenix_gdbagent.symbols.demangle_v0 import demangle_v0

_SUFFIX = re.compile(r"\.llvm\.[0-9A-F@]+$|\.(?:cold|part|isra|constprop)(?:\.\d+)?$")
_HASH = re.compile(r"h[0-9a-f]{16}")
_ESCAPES = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}
_ESCAPE = re.compile(r"\$(SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,6})\$|\.\.")


@lru_cache(maxsize=1 << 16)
def demangle(raw: str) -> str:
    """The path that `raw` stands for, without its hash; `raw` itself when it is no Rust name."""
    if raw.startswith("_ZN"):
        return _legacy(_SUFFIX.sub("", raw)) or raw
    if raw.startswith("_R"):
        return demangle_v0(_SUFFIX.sub("", raw)) or raw
    return raw


def _legacy(raw: str) -> str | None:
    parts = []
    at = 3
    while at < len(raw) and raw[at] != "E":
        digits = at
        while digits < len(raw) and raw[digits].isdigit():
            digits += 1
        # Nine digits are more than any name has; int() of a hostile million of them is slow.
        if not 0 < digits - at <= 9:
            return None
        end = digits + int(raw[at:digits])
        if end > len(raw):
            return None
        parts.append(raw[digits:end])
        at = end
    if raw[at:] != "E" or not parts:
        return None
    if len(parts) > 1 and _HASH.fullmatch(parts[-1]):
        parts.pop()
    return "::".join(_unescape(p) for p in parts)


def _unescape(part: str) -> str:
    if part.startswith("_$"):
        part = part[1:]
    return _ESCAPE.sub(_escape, part)


def _escape(match: re.Match[str]) -> str:
    code = match.group(1)
    if code is None:
        return "::"
    if code in _ESCAPES:
        return _ESCAPES[code]
    value = int(code[1:], 16)
    return chr(value) if value < 0x110000 else match.group(0)


def components(path: str) -> tuple[str, ...]:
    """The components of a path, generic arguments dropped: `a::B<u8>::c::<T>` is (a, B, c).

    `<T as Trait>` at the start is a component, a type alone there (v0's inherent impls,
    `<a::B<u8>>::new`) is its path: (a, B, new), as legacy names have it.
    """
    parts: list[str] = []
    begin = depth = at = 0
    while at < len(path):
        char = path[at]
        if char in "<([{":
            depth += 1
        elif char in ">)]}" and path[at - 1 : at + 1] != "->":
            depth = max(0, depth - 1)
        elif depth == 0 and path.startswith("::", at):
            parts.append(path[begin:at])
            at += 2
            begin = at
            continue
        at += 1
    parts.append(path[begin:])
    first = parts[0]
    own: tuple[str, ...] = ()
    if first.startswith("<") and first.endswith(">") and " as " not in first and len(parts) > 1:
        own, parts = components(first[1:-1]), parts[1:]
    return own + tuple(bare for p in parts if (bare := _without_generics(p)))


def _without_generics(part: str) -> str:
    """`B<u8>` is B, `<T>` alone is nothing, `<T as Trait>` stays."""
    at = part.find("<")
    if at < 0:
        return part
    if at > 0:
        return part[:at]
    return part if " as " in part else ""
