"""The page-fault matrix on the real (emulated) CPU agrees with what the tables predict."""

from __future__ import annotations

import pytest

from breenix_gdbagent.selftest import running
from breenix_gdbagent.selftest.bench import Outcome
from breenix_gdbagent.selftest.matrix import Group
from breenix_gdbagent.x86.verdict import Verdict
from tests.guest.labrun import agent

FORBIDDEN = Verdict(False, ("write-protected",), 14, 0x3, also=(0x2,))


def test_every_case_agrees() -> None:
    result = agent("selftest", "--json")
    assert result.code == 0, result.err
    assert result.document["cases"] >= 2000
    assert result.document["differ"] == []
    for group in result.document["groups"]:
        assert group["agree"] + group.get("deviation", 0) > 500


@pytest.mark.parametrize(
    ("predicted", "outcome", "compared"),
    [
        (Verdict(True), Outcome(None, None, None), "agree"),
        (Verdict(True), Outcome(14, 0, 0), "differ"),
        (FORBIDDEN, Outcome(14, 0x3, 0), "agree"),
        (FORBIDDEN, Outcome(14, 0x2, 0), "deviation"),
        (FORBIDDEN, Outcome(14, 0x7, 0), "differ"),
        (FORBIDDEN, Outcome(13, 0, 0), "differ"),
        (FORBIDDEN, Outcome(None, None, None), "differ"),
    ],
)
def test_what_counts_as_agreement(predicted: Verdict, outcome: Outcome, compared: str) -> None:
    assert running._compare(predicted, outcome) == compared


def test_a_wrong_prediction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told that WP is off where it is on, the prediction and the CPU part ways."""
    monkeypatch.setattr(running, "GROUPS", (Group("WP believed off", wp=False),))
    original = running.Bench.set_group
    monkeypatch.setattr(
        running.Bench, "set_group", lambda self, group, root: original(self, Group("on"), root)
    )
    results = running.run(lambda done, of: None)
    wrong = [r.case for r in results if r.compared == "differ"]
    assert wrong
    assert {c.kind for c in wrong} == {"write"}
    assert {c.ring for c in wrong} == {0}
