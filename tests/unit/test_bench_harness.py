"""The bench's arithmetic: ratios of pairs, which way they are judged, and the file that comes."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.harness import Pairs, absent, bounded, judged, pairs, report

BENCH = Path(__file__).parents[1] / "bench"
KEYS = [
    "name", "ours", "against", "theirs", "unit", "ratio", "sense", "target", "holds", "status",
]  # fmt: skip


def _figures(*values: float) -> Callable[[], float]:
    told: Iterator[float] = iter(values)
    return lambda: next(told)


def test_the_ratio_is_the_median_of_the_pairs_and_not_of_the_sides() -> None:
    # A machine that was busy in the second pair only: both sides of it suffer.
    both = pairs(_figures(9, 1, 30, 2), _figures(9, 2, 10, 4), rounds=3)
    assert both == Pairs(ours=2, theirs=4, ratio=0.5)


def test_the_sides_take_turns_in_going_first() -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or 1.0  # type: ignore[func-returns-value]

    pairs(side("a"), side("b"), rounds=2, warm=False)
    assert order == ["a", "b", "b", "a"]


@pytest.mark.parametrize(
    ("sense", "target", "ratio", "holds"),
    [
        ("<=", 0.5, 0.5, True),
        ("<=", 0.4, 0.5, False),
        (">=", 2.0, 2.0, True),
        (">=", 3.0, 2.0, False),
    ],
)
def test_judged(sense: str, target: float, ratio: float, holds: bool) -> None:
    row = judged("x", Pairs(1, 2, 0.5), "gdb", "ms", sense, target)  # type: ignore[arg-type]
    assert (row.ratio, row.holds, row.status) == (ratio, holds, "measured")


def test_the_file_has_the_contracts_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        judged("x", Pairs(3, 1, 3), "gdb", "ms", "<=", 2.0),
        bounded("y", 1.0, 2.0),
        absent("z", "gef", "ms", ">=", 25.0),
    ]
    report(rows, tmp_path / "build" / "bench.json")
    told = json.loads((tmp_path / "build" / "bench.json").read_text())
    assert [list(row) for row in told] == [KEYS] * 3
    assert [row["holds"] for row in told] == [False, True, None]
    shown = capsys.readouterr().out
    assert "MISSED" in shown and "3 figures, 1 missed" in shown


def test_only_bytes_have_a_budget() -> None:
    """Every row comes from `judged` (two measured sides), `bounded` (MiB) or `absent`."""
    made: set[str] = set()
    for path in BENCH.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                made.add(node.func.id)
                if node.func.id == "Row":
                    assert path.name == "harness.py", f"{path.name}:{node.lineno} judges by itself"
    assert {"judged", "bounded", "absent"} <= made
