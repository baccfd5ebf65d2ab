"""How sure a rate is, and whether two differ: exact where it can be, without a library.

Tests hold these functions against scipy's and against plain enumeration.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: 95 % lie within it on both sides."""


def wilson(count: int, total: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a rate of `count` in `total` (Wilson 1927): (low, high), 0 to 1. Of no
    boots at all nothing is known: (0, 1)."""
    if not total:
        return 0.0, 1.0
    rate, square = count / total, z * z
    middle = rate + square / (2 * total)
    half = z * sqrt(rate * (1 - rate) / total + square / (4 * total * total))
    scale = 1 + square / total
    low = 0.0 if count == 0 else (middle - half) / scale
    high = 1.0 if count == total else (middle + half) / scale
    return low, high


def fisher(a: int, b: int, c: int, d: int) -> float:
    """The two-sided probability, were rows and columns independent, of a table that is no likelier
    than [[a, b], [c, d]] (Fisher 1922)."""
    rows, columns, total = a + b, a + c, a + b + c + d
    low, high = max(0, columns - (total - rows)), min(rows, columns)
    seen = comb(rows, a) * comb(total - rows, columns - a)
    # Whole numbers until the last division: nothing is lost, and equal is equal.
    extreme = sum(
        weight
        for x in range(low, high + 1)
        if (weight := comb(rows, x) * comb(total - rows, columns - x)) <= seen
    )
    return extreme / comb(total, columns)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Each probability corrected for how many were looked at (Holm 1979), in their order."""
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    corrected = [0.0] * len(probabilities)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, probabilities[index] * (len(order) - rank)))
        corrected[index] = highest
    return corrected
