"""Numbers, text and addresses as Rust's `core::fmt` writes them, width and flags with them.

Sources: library/core/src/fmt/mod.rs (``FormattingOptions``, `pad`, ``pad_integral``), fmt/num.rs,
fmt/float.rs.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from decimal import Decimal

from breenix_gdbagent.symbols.tree_text import quoted

_PLUS, _ALTERNATE, _ZERO = 1 << 21, 1 << 23, 1 << 24
_DEBUG_LOWER_HEX, _DEBUG_UPPER_HEX = 1 << 25, 1 << 26
_LEFT, _RIGHT, _CENTER, _ALIGN_UNKNOWN = range(4)
_DIGITS = {"LowerHex": ("x", "0x"), "UpperHex": ("X", "0x"), "Binary": ("b", "0b"),
           "Octal": ("o", "0o")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spec:
    """What stands in a placeholder behind the colon; `trait` is ``Display``, ``LowerHex`` ..."""

    trait: str = "Display"
    fill: str = " "
    align: int = _ALIGN_UNKNOWN
    plus: bool = False
    alternate: bool = False
    zero: bool = False
    hex: str = ""
    width: int = 0
    precision: int | None = None

    @classmethod
    def of(cls, flags: int | None, width: int = 0, precision: int | None = None) -> Spec:
        """`flags` as ``FormattingOptions`` has them; None: those of ``{}``."""
        if flags is None:
            return cls(width=width, precision=precision)
        fill = flags & 0x1F_FFFF
        return cls(
            fill=chr(fill) if fill <= 0x10FFFF and not 0xD800 <= fill < 0xE000 else " ",
            align=flags >> 29 & 3,
            plus=bool(flags & _PLUS),
            alternate=bool(flags & _ALTERNATE),
            zero=bool(flags & _ZERO),
            hex="LowerHex" if flags & _DEBUG_LOWER_HEX
            else "UpperHex" if flags & _DEBUG_UPPER_HEX else "",
            width=width,
            precision=precision,
        )  # fmt: skip


def padded(text: str, spec: Spec) -> str:
    """Text, as `Formatter::pad` has it."""
    cut = text if spec.precision is None else text[: spec.precision]
    return _filled(cut, spec, _LEFT)


def integer(number: int, size: int, spec: Spec) -> str:
    """An integer of `size` bytes."""
    trait = spec.hex or spec.trait if spec.trait == "Debug" else spec.trait
    digits = _DIGITS.get(trait)
    if digits is None:
        return _numeric("-" if number < 0 else "", "", str(abs(number)), spec)
    form, prefix = digits
    return _numeric("", prefix, format(number & (1 << 8 * size) - 1, form), spec)


def address(value: int, spec: Spec) -> str:
    """A pointer: in its alternate form with all its digits."""
    wide = spec.alternate
    digits = f"{value:x}".rjust(16 if wide else max(1, spec.width - 2 if spec.zero else 1), "0")
    return _filled(f"0x{digits}", spec, _RIGHT)


def character(char: str, spec: Spec) -> str:
    """A `char`."""
    return quoted(char, "'") if spec.trait == "Debug" else padded(char, spec)


def text(string: str, spec: Spec) -> str:
    """A `str`."""
    return quoted(string, '"') if spec.trait == "Debug" else padded(string, spec)


def boolean(value: bool, spec: Spec) -> str:
    """A `bool`."""
    return padded("true" if value else "false", spec)


def real(value: float, size: int, spec: Spec) -> str:
    """An `f32` or `f64` (`size` 4 or 8): the fewest digits that are the same number."""
    if math.isnan(value):
        return _numeric("", "", "NaN", spec, plus=False)
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if math.isinf(value):
        return _numeric(sign, "", "inf", spec)
    return _numeric(sign, "", _digits(abs(value), size, spec), spec)


def _digits(value: float, size: int, spec: Spec) -> str:
    if spec.precision is not None:
        return f"{value:.{spec.precision}f}"
    exact = Decimal(_shortest(value, size))
    debug = spec.trait == "Debug"
    if debug and value and not 1e-4 <= value < 1e16:
        digits = "".join(map(str, exact.normalize().as_tuple().digits))
        return f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{exact.adjusted()}"
    plain = f"{exact:f}"
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return f"{plain}.0" if debug and "." not in plain else plain


def _shortest(value: float, size: int) -> str:
    if size == 8:
        return repr(value)
    raw = struct.pack("<f", value)
    tries = (f"{value:.{digits}g}" for digits in range(1, 10))
    return next((t for t in tries if struct.pack("<f", float(t)) == raw), repr(value))


def _numeric(sign: str, prefix: str, digits: str, spec: Spec, *, plus: bool = True) -> str:
    sign = sign or ("+" if spec.plus and plus else "")
    head = sign + (prefix if spec.alternate else "")
    if spec.zero:
        return head + digits.rjust(spec.width - len(head), "0")
    return _filled(head + digits, spec, _RIGHT)


def _filled(shown: str, spec: Spec, usual: int) -> str:
    lacking = max(0, spec.width - len(shown))
    align = usual if spec.align == _ALIGN_UNKNOWN else spec.align
    left = {_LEFT: 0, _RIGHT: lacking, _CENTER: lacking // 2}[align]
    return spec.fill * left + shown + spec.fill * (lacking - left)
