"""Counts in words."""

from breenix_gdbagent.addresses import counted


def test_a_count_agrees_with_its_noun() -> None:
    assert counted(1, "more finding") == "1 more finding"
    assert counted(2, "more finding") == "2 more findings"
    assert counted(0, "page") == "0 pages"
    assert [counted(n, "entry", "entries") for n in (1, 3)] == ["1 entry", "3 entries"]
