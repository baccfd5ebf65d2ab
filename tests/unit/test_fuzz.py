"""Each fuzzed parser is given its honest inputs, and all that is kept of what broke it once.

Inputs are looked for by ``make thorough``; what it finds goes to ``tests/fuzz/found/NAME/``.
"""

from __future__ import annotations

import pytest

from tests.fuzz.target import HERE, Target, bounded
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS.values(), ids=str)
def test_honest_inputs_are_taken(target: Target) -> None:
    with bounded():
        assert any([target.give(data) for data in target.seeds()]), "it refuses all that is right"


@pytest.mark.parametrize("target", TARGETS.values(), ids=str)
def test_what_is_kept_is_taken_or_refused(target: Target) -> None:
    for name, data in target.kept():
        with bounded():
            target.give(data)
        assert len(data) <= target.longest * 2, name


def test_what_is_kept_belongs_to_a_target() -> None:
    found = {path.name for path in (HERE / "found").iterdir()}
    assert found <= TARGETS.keys()
    assert {path.stem for path in (HERE / "corpus").iterdir()} <= TARGETS.keys()
