"""What our own stops may have done is told where it may matter, and nowhere else."""

from __future__ import annotations

import pytest

from breenix_gdbagent.report import markdown, text
from breenix_gdbagent.report.document import _once
from breenix_gdbagent.report.story import MANY_STOPS, effect_words
from tests.unit.report import documents
from tests.unit.report.documents import finding, report

SAID = "may come of that"


@pytest.mark.parametrize(
    ("counted", "stops", "kind", "told"),
    [
        (False, MANY_STOPS, "event", True),
        (True, MANY_STOPS, "event", False),
        (False, MANY_STOPS - 1, "event", False),
        (False, MANY_STOPS, "state", False),
    ],
)
def test_when_it_is_told(counted: bool, stops: int, kind: str, told: bool) -> None:
    made = documents.faulted()
    made["findings"] = [finding("double-fault", kind=kind)]
    made["run"] |= {"agent_stops": stops, "counted": counted}
    assert (SAID in effect_words(report(made))) == told
    assert (SAID in " ".join(text.render(report(made)).split())) == told
    assert (SAID in markdown.render(report(made))) == told


def test_one_state_at_several_stops_is_one_finding_with_first_and_last() -> None:
    made = documents.faulted()
    made["findings"] = [finding("heap.corrupt", stop=n) for n in (1, 2, 4)]
    (one,) = _once(report(made).findings)
    assert (one.stop, one.last) == (1, 4)
    made["findings"] = [finding("heap.corrupt", stop=3)]
    (alone,) = _once(report(made).findings)
    assert (alone.stop, alone.last) == (3, None)
