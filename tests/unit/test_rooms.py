"""The rooms: which may import which, and where the outside world may be touched."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "breenix_gdbagent"

# From the ground up: a room imports only from rooms that stand before it, and from itself.
ORDER = [
    ("jsonvalue", "version"),
    ("addresses",),
    ("errors",),
    ("memory", "wholefile"),
    ("x86",),
    ("symbols",),
    ("stop", "locations"),
    ("cpumodel",),
    ("kernel",),
    ("checks",),
    ("report",),
    ("guest", "configs"),
    ("link",),
    ("snapshot", "selection"),
    ("live",),
    ("archive", "targets"),
    ("control",),
    ("watch",),
    ("face", "selftest"),
    ("commands",),
    ("__init__", "__main__"),
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}

# The outside world: files, sockets, processes, clocks.
WORLD = {"socket", "subprocess", "time", "os", "tempfile", "mmap", "shutil", "select", "signal"}
EDGES = {
    "link", "live", "snapshot", "targets", "commands", "memory", "symbols", "watch", "selftest",
    "wholefile", "__main__",
}  # fmt: skip


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    mine = _room(path)
    assert mine in RANK, f"{mine} is a room without a place in the order"
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "breenix_gdbagent" or len(parts) == 1 or parts[1] not in RANK:
            continue
        theirs = parts[1]
        assert theirs == mine or RANK[theirs] < RANK[mine], f"{mine} imports from {theirs}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_edges_touch_the_world(path: Path) -> None:
    if _room(path) in EDGES:
        return
    touched = {name.split(".")[0] for name in _imports(path)} & WORLD
    assert not touched, f"{path.name} imports {touched}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_do_one_job(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 400, f"{path.name} has {lines} lines"


def test_the_cpu_model_knows_no_kernel() -> None:
    """It rests on the machine alone: nothing of Breenix, nothing of findings."""
    for path in (PACKAGE / "cpumodel").glob("*.py"):
        ours = {n for n in _imports(path) if n.startswith("breenix_gdbagent.")}
        rooms = {name.split(".")[1] for name in ours}
        assert rooms <= {"addresses", "errors", "x86", "cpumodel"}, f"{path.name}: {rooms}"
