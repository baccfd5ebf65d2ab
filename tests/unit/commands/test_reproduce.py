"""What is said of a boot that was repeated."""

from __future__ import annotations

import json

import pytest

from breenix_gdbagent.commands.reproduce import compare
from tests.unit.report import documents


def test_what_neither_stop_has_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = documents.clean(), documents.clean()
    assert compare(documents.report(one), documents.report(two), {}, as_json=False) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == ["the same fault again", "  reason      then marker, now marker"]
    two["stops"][0] |= {"reason": "fault", "vector": 14, "error_code": "0x2", "cr2": "0x10"}
    assert compare(documents.report(one), documents.report(two), {}, as_json=False) == 1
    said = capsys.readouterr().out
    assert "  error code  then none, now 0x2   <- differs" in said.splitlines()
    assert "None" not in said
    assert compare(documents.report(one), documents.report(two), {}, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["before"]["vector"] is None
