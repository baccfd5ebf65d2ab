"""Intervals and exact tests, against reference values of scipy 1.17 and plain enumeration."""

from __future__ import annotations

from itertools import combinations

import pytest

from breenix_gdbagent.fleet.proportions import fisher, holm, wilson

# scipy.stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
WILSON = [
    (0, 20, 0.0, 0.16112515805282),
    (1, 20, 0.0088814488008, 0.23613119344674),
    (7, 200, 0.01705554200857, 0.07047061152229),
    (5, 1000, 0.00213753552732, 0.01165095537338),
    (20, 20, 0.83887484194718, 1.0),
]
# scipy.stats.fisher_exact([[a, b], [c, d]]).pvalue
FISHER = [
    (3, 1, 1, 3, 0.48571428571428565),
    (12, 18, 0, 70, 8.234148097933936e-08),
    (8, 2, 1, 5, 0.034965034965034975),
    (10, 0, 0, 10, 1.082508822446903e-05),
]


@pytest.mark.parametrize(("count", "total", "low", "high"), WILSON)
def test_wilson_is_what_scipy_says(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total) == pytest.approx((low, high), abs=1e-9)


def test_of_no_boots_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("a", "b", "c", "d", "chance"), FISHER)
def test_fisher_is_what_scipy_says(a: int, b: int, c: int, d: int, chance: float) -> None:
    assert fisher(a, b, c, d) == pytest.approx(chance, rel=1e-6)


def test_fisher_is_what_counting_every_arrangement_gives() -> None:
    """Of 9 boots 4 have the setting and 3 fail: every way to lay the failures among the boots."""
    total, with_setting, failures = 9, 4, 3
    ways = list(combinations(range(total), failures))
    for a in range(failures + 1):
        counts = [sum(1 for boot in way if boot < with_setting) for way in ways]
        seen = counts.count(a)
        as_rare = sum(n for n in (counts.count(x) for x in set(counts)) if n <= seen)
        found = fisher(a, with_setting - a, failures - a, total - with_setting - failures + a)
        assert found == pytest.approx(as_rare / len(ways))


def test_holm_corrects_for_each_test_that_is_left() -> None:
    # statsmodels.stats.multitest.multipletests(..., method="holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]
