"""Facts are typed columns that every output knows, and checks make neither JSON nor sentences."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from breenix_gdbagent import checks
from breenix_gdbagent.checks.facts import Facts
from breenix_gdbagent.report import evidence
from breenix_gdbagent.report.sentences import FAMILIES
from breenix_gdbagent.report.wording.base import TELLERS

PACKAGE = Path(checks.__file__).parent


def _facts(kind: type[Facts] = Facts) -> Iterator[type[Facts]]:
    for module in pkgutil.walk_packages(checks.__path__, f"{checks.__name__}."):
        importlib.import_module(module.name)
    for below in kind.__subclasses__():
        if below.__module__.startswith(checks.__name__):
            yield from (below, *_facts(below))


@pytest.mark.parametrize("kind", sorted(_facts(), key=lambda k: k.__name__))
def test_every_column_has_a_type_that_outputs_know(kind: type[Facts]) -> None:
    assert FAMILIES
    assert [name for name, _, _ in evidence.columns(kind)]


def test_all_facts_of_findings_are_told_by_a_function_of_their_own() -> None:
    assert {kind.__name__ for kind in _facts()} - PARTS == {kind.__name__ for kind in TELLERS}


PARTS = {
    "FaultFacts", "HeapFacts", "BumpFacts", "CpuFacts", "MasterPage", "StackUse", "FrameSize",
    "Depth", "Rsp0", "UserPage", "LinkRow", "MappingRow", "FlawedFrame", "FrameUse", "LoadedSpace",
    "Owner", "LevelRow", "Way", "Frame", "Interrupted", "Hints", "WalkEnd", "RootRow",
    "EnteredFacts", "ChangedFacts", "WriterFacts", "StackExtent", "Pushed", "Reported", "Blamed",
    "StackRow", "Recursion", "Load",
}  # fmt: skip
"""Facts that are part of a finding's."""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_no_check_knows_json(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [n for n in names if n == "json" or n.endswith(".jsonvalue")], path.name
