"""The rooms: which may import which, and where the outside world may be touched."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "breenix_gdbagent"

# From the ground up: a room imports only from rooms that stand before it, and from itself.
ORDER = [
    ("jsonvalue", "startup", "version"),
    ("addresses",),
    ("errors",),
    ("memory", "patterns", "wholefile"),
    ("arch",),
    ("aarch64", "x86"),
    ("architectures",),
    ("symbols",),
    ("stop", "locations"),
    ("cpumodel", "entrycode"),
    ("kernel",),
    ("checks", "evaluation"),
    ("views",),
    ("report",),
    ("lab", "configs"),
    ("link",),
    ("snapshot", "selection"),
    ("live",),
    ("recording",),
    ("run_report", "targets"),
    ("debugger",),
    ("timeline",),
    ("api", "selftest", "fleet"),
    ("agents", "editors"),
    ("commands",),
    ("__init__", "__main__"),
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}

# The outside world: files, sockets, processes, clocks.
WORLD = {"socket", "subprocess", "time", "os", "tempfile", "mmap", "shutil", "select", "signal"}
EDGES = {
    "link", "live", "recording", "snapshot", "targets", "commands", "memory", "symbols", "selftest",
    "wholefile", "startup", "fleet", "__main__",
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


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _graph() -> dict[str, set[str]]:
    """Each file and the files it imports: at once, later in a function, or for types only."""
    files = {_module(path): path for path in _modules()}
    graph = {}
    for name, path in files.items():
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        wanted = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                # A package is used for what it says itself, not for the files in it.
                wanted |= parts & files.keys() or {node.module}
        graph[name] = wanted & files.keys() - {name}
    return graph


def _circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of files of which each reaches each other one by imports (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(set(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in order:
            visit(name)
    return found


def test_no_files_import_each_other() -> None:
    """Neither at run time nor for their types: who is part of a circle cannot be read alone."""
    assert [sorted(circle) for circle in _circles(_graph())] == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set()}
    assert _circles(graph) == [{"a", "b", "c"}]


def test_the_cpu_model_knows_no_kernel() -> None:
    """It rests on the machine alone: nothing of Breenix, nothing of findings."""
    for path in (PACKAGE / "cpumodel").glob("*.py"):
        ours = {n for n in _imports(path) if n.startswith("breenix_gdbagent.")}
        rooms = {name.split(".")[1] for name in ours}
        assert rooms <= {"addresses", "errors", "arch", "x86", "cpumodel"}, f"{path.name}: {rooms}"


BITS = {"P", "PS", "ADDRESS"}
SHIFTS = re.compile(r"12 \+ 9|9 \* |(?:<<|>>) ?(?:39|48)\b|0x1FF\b")
KNOW_ENTRIES = {"aarch64", "x86", "selftest"}  # the selftest builds tables to hold the walk against


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_paging_takes_entries_apart(path: Path) -> None:
    """How an entry is laid out and an address is cut is known in an architecture's room alone."""
    room = _room(path)
    if room in KNOW_ENTRIES or RANK[room] < RANK["x86"]:
        return
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "breenix_gdbagent.x86.paging":
            assert not {alias.name for alias in node.names} & BITS
    assert not SHIFTS.search(text), SHIFTS.findall(text)


def test_one_file_of_each_architecture_speaks_to_the_disassembler() -> None:
    users = {p.relative_to(PACKAGE).as_posix() for p in _modules() if "capstone" in _imports(p)}
    assert users == {"aarch64/disassembler.py", "x86/disassembler.py"}


def test_one_file_takes_an_elf_header_apart() -> None:
    magic = [p.relative_to(PACKAGE).as_posix() for p in _modules() if "x7fELF" in p.read_text()]
    assert magic == ["memory/elf_header.py"]


# What looks at a guest: report/ is given its answers (views/) and asks nothing itself.
LOOKING = {
    "kernel.view", "kernel.address_spaces", "kernel.structures", "kernel.trace", "arch.machine",
    "x86.reverse", "x86.graph", "x86.pages", "x86.roots", "x86.disassembler", "symbols.unwind",
    "symbols.values", "symbols.bias", "kernel.ledger", "checks.examine.examine", "memory",
    "x86.mapped_space.Spaces", "arch.tables.Tables", "x86.paging.walk", "kernel.spaces.find_spaces",
    "checks.kernel_stacks.compare", "checks.mapping.obstacle", "errors.ReadError",
}  # fmt: skip


def _looks(path: Path) -> set[str]:
    """What a file imports of `LOOKING`, functions' own imports and those for types included; and
    the functions of views/ that take a guest's kernel."""
    names = {name.removeprefix("breenix_gdbagent.") for name in _imports(path)}
    found = {n for n in names if any(n == one or n.startswith(f"{one}.") for one in LOOKING)}
    functions = {n for n in names if n.startswith("views.") and n.split(".")[-1].islower()}
    return found | {n for n in functions if n.count(".") == 2}


@pytest.mark.parametrize("path", sorted((PACKAGE / "report").rglob("*.py")), ids=lambda p: p.stem)
def test_report_only_draws(path: Path) -> None:
    assert _looks(path) == set()


def test_a_file_that_looks_is_seen(tmp_path: Path) -> None:
    one = tmp_path / "one.py"
    for line in (
        "from breenix_gdbagent.kernel.view import Kernel",
        "def f():\n    from breenix_gdbagent.kernel import trace",
        "from breenix_gdbagent.x86.paging import LEVEL, walk",
        "from breenix_gdbagent.views.space_map import space_map",
    ):
        one.write_text(line)
        assert _looks(one), line
    one.write_text("from breenix_gdbagent.views.space_map import SpaceMap")
    assert not _looks(one)


# What reads a stop in words that two architectures speak imports none of them. These files still
# know x86-64, each for one of these reasons; the list gets no longer.
OF_X86 = {
    "it is about delivery, descriptors or instructions of x86-64": {
        "checks/any_kernel.py",
        "debugger/interrupt_check.py",
        "entrycode/operands.py",
        "checks/faults/constant.py",
        "report/wording/stacks.py",
        "checks/descriptors.py",
        "checks/examine.py",
        "checks/faults/analyzer.py",
        "checks/faults/cause.py",
        "checks/faults/defects.py",
        "checks/faults/misplaced.py",
        "checks/faults/page_fault.py",
        "checks/loader.py",
        "checks/spaces.py",
        "commands/shell/completion.py",
        "evaluation/evaluation.py",
        "evaluation/places.py",
        "kernel/address_spaces.py",
        "kernel/code_bytes.py",
        "kernel/cr3_loads.py",
        "kernel/event.py",
        "kernel/frame_search.py",
        "kernel/gate_entry.py",
        "kernel/inside.py",
        "kernel/spaces.py",
        "kernel/stack_bottom.py",
        "kernel/table_bytes.py",
        "report/backtraces.py",
        "report/explain.py",
        "report/faultline.py",
        "report/names.py",
        "report/story.py",
        "report/wording/addresses.py",
        "stop.py",
        "symbols/code.py",
        "symbols/hwframe.py",
        "symbols/unwind.py",
        "commands/explain.py",
        "report/pasted.py",
    },
    "it reads or writes x86-64's registers, as QEMU and gdb tell them": {
        "commands/shell/tables.py",
        "debugger/entry_watch.py",
        "debugger/point_table.py",
        "debugger/points.py",
        "debugger/injection.py",
        "link/hmptext.py",
        "link/qmp.py",
        "live/arming.py",
        "live/elfcode.py",
        "live/guest.py",
        "live/resets.py",
        "snapshot/note.py",
        "timeline/place.py",
    },
    "Breenix as it is on x86-64": {
        "kernel/breenix/handled.py",
        "kernel/breenix/percpu.py",
    },
    "it cuts addresses or takes entries apart by functions that `Paging` does not have yet": {
        "checks/consequences.py",
        "checks/faults/address_kind.py",
        "checks/faults/new_root.py",
        "checks/faults/overwritten.py",
        "checks/frame_states.py",
        "checks/frames.py",
        "checks/growth.py",
        "checks/kernel_slots.py",
        "checks/kernel_stacks.py",
        "checks/tables.py",
        "commands/shell/looking.py",
        "kernel/handled.py",
        "kernel/ledger.py",
        "kernel/processes.py",
        "kernel/sharing.py",
        "kernel/stacks.py",
        "report/atlas.py",
        "report/drawn.py",
        "report/mappings.py",
        "report/obstacles.py",
        "report/wording/faults.py",
        "report/wording/frames.py",
        "report/wording/run.py",
        "report/wording/tables.py",
        "selection.py",
        "views/comparison.py",
        "views/frame_users.py",
        "views/space_map.py",
        "views/stop_detail.py",
        "views/table_runs.py",
    },
}  # fmt: skip
CHOOSES = {"architectures.py"}


def _of_x86() -> set[str]:
    files = (p for p in _modules() if _room(p) not in ("x86", "architectures"))
    names = {p.relative_to(PACKAGE).as_posix(): _imports(p) for p in files}
    return {f for f, n in names.items() if any(".x86." in f"{one}." for one in n)}


def test_who_knows_x86_is_declared() -> None:
    declared = set[str]().union(*OF_X86.values())
    assert sum(map(len, OF_X86.values())) == len(declared), "a file stands there for two reasons"
    found = {f for f in _of_x86() if f.partition("/")[0] not in ("cpumodel", "selftest")}
    assert found == declared


ARCHITECTURE_NAME = re.compile(r"""["'](?:x86[-_]64|x86|amd64|aarch64|arm64)["']""")


def test_nothing_above_its_room_tests_for_an_architectures_name() -> None:
    for path in _modules():
        if _room(path) in ("aarch64", "x86", "arch", "architectures"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "platform.machine()" not in ast.unparse(node):
                assert not ARCHITECTURE_NAME.search(ast.unparse(node)), f"{path}:{node.lineno}"
                assert "arch_name" not in ast.unparse(node), f"{path}:{node.lineno}"
