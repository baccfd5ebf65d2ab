"""What is kept in the repository and goes out in the sdist: no dumps, nothing large by accident."""

from __future__ import annotations

import ast
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from breenix_gdbagent.errors import LinkClosed
from breenix_gdbagent.link.mi import GdbMi
from tests.gdb import gdb_command

ROOT = Path(__file__).parents[2]
MOST = 1 << 20
ET_CORE = 4

NAMED = {
    "breenix_gdbagent/lab/labguest.elf": "the lab guest with its DWARF",
    "breenix_gdbagent/lab/labguest-aarch64.elf": "the same on aarch64",
    "fixtures/snapshots/version-1-tables.core": "a snapshot as the first version wrote it",
}
"""Files that may be larger than `MOST`, or an ELF core, and what each is."""

DUMP_NAME = re.compile(r"(vg)?core(\.(?!py$).*)?|.*\.(dmp|mdmp|stackdump|hprof)")
"""Names that the kernel, valgrind, Windows and virtual machines give to a dump."""


def tracked() -> list[str]:
    """The files of the repository that are in the tree, their names from its root."""
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no git checkout")
    if shutil.which("git") is None:
        pytest.skip("no git here to list the tracked files")
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def objection(name: str, content: bytes) -> str | None:
    """Why a file does not belong into the repository, None where it may be there."""
    if name in NAMED:
        return None
    if DUMP_NAME.fullmatch(Path(name).name):
        return "is called as dumps are"
    kind = struct.unpack_from("<H", content, 16)[0] if len(content) >= 18 else 0
    if content.startswith(b"\x7fELF") and kind == ET_CORE:
        return "is an ELF core"
    if len(content) > MOST:
        return f"is larger than {MOST} bytes and not named in this test"
    return None


def test_no_tracked_file_is_a_dump_or_large() -> None:
    refused = {
        name: why
        for name in tracked()
        if (why := objection(name, (ROOT / name).read_bytes())) is not None
    }
    assert refused == {}


def test_what_is_named_is_there_for_its_reason() -> None:
    """A name that has lost its reason would let the next file of that name through."""
    for name in NAMED:
        content = (ROOT / name).read_bytes()
        assert len(content) > MOST or content[16] == ET_CORE, name


@pytest.mark.parametrize(
    ("name", "content", "fits"),
    [
        ("core", b"", False),
        ("a/core.4711", b"", False),
        ("vgcore.12", b"", False),
        ("a/crash.dmp", b"", False),
        ("kept", b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x04\x00", False),
        ("kernel.elf", b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x02\x00", True),
        ("large", bytes(MOST + 1), False),
        ("large", bytes(MOST), True),
        ("breenix_gdbagent/memory/core.py", b"", True),
        ("tests/writers/score.txt", b"", True),
    ],
)
def test_what_counts_as_a_dump(name: str, content: bytes, fits: bool) -> None:
    assert (objection(name, content) is None) is fits


def test_dumps_are_ignored_and_nothing_of_ours_is() -> None:
    """`core` and `core.PID`, wherever; a module or a folder of that name is none."""
    tracked()
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    asked = ["core", "core.123", "tests/core", "core.py", "breenix_gdbagent/core/new.py"]
    told = subprocess.run(
        [*git, "check-ignore", "--no-index", *asked], capture_output=True, text=True, check=False
    )
    assert told.stdout.split() == ["core", "core.123", "tests/core"]
    listing = [*git, "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(listing, capture_output=True, text=True, check=True).stdout == ""


def test_the_sdist_holds_tracked_files_only(tmp_path: Path) -> None:
    """Built from a copy of the tree with strays in it: what is not in the include list stays."""
    pytest.importorskip("hatchling")
    known, tree = set(tracked()), tmp_path / "tree"
    for name in known:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    for stray in ("core", "core.123", "notes.txt", "captures/boot.core"):
        (tree / stray).parent.mkdir(exist_ok=True)
        (tree / stray).write_bytes(b"stray")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=tree, check=True, capture_output=True)
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as file:
        packed = {name.partition("/")[2] for name in file.getnames()} - {"PKG-INFO"}
    assert packed <= known
    assert known - packed == {".ci/run"}


GDB_STARTS = re.compile(r"-\w")


def _bare_gdbs(path: Path) -> list[str]:
    """Places of a Python file that start a gdb by its name and do not forbid it a core."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        items = node.elts if isinstance(node, ast.List | ast.Tuple) else None
        if isinstance(node, ast.Call):
            inner = [one.elts for one in node.args[1:2] if isinstance(one, ast.List)]
            items = [*node.args[:1], *(inner[0] if inner else node.args[1:])]
        if not items or not isinstance(items[0], ast.Constant) or items[0].value != "gdb":
            continue
        words = [one.value for one in items if isinstance(one, ast.Constant)]
        starts = any(isinstance(word, str) and GDB_STARTS.match(word) for word in words)
        if starts and "NO_CORE" not in ast.dump(node):
            found.append(f"{path.name}:{node.lineno}")
    return found


def test_every_gdb_that_we_start_is_told_to_leave_no_core() -> None:
    files = [one for room in ("breenix_gdbagent", "fixtures", "tests", "tools")
             for one in sorted((ROOT / room).rglob("*.py"))]  # fmt: skip
    assert [place for one in files for place in _bare_gdbs(one)] == []


@pytest.mark.parametrize(
    ("line", "bare"),
    [
        ('run(["gdb", "-batch", "-ex", "bt"])', True),
        ('spawn("gdb", ["-q", "x.elf"])', True),
        ('run("gdb", "-nx", file)', True),
        ('run(["gdb", "-q", *NO_CORE, "-batch"])', False),
        ('shell.run("gdb", r"target remote (.*)")', False),
    ],
)
def test_a_bare_gdb_is_seen(line: str, bare: bool, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(line)
    assert bool(_bare_gdbs(tmp_path / "one.py")) is bare


needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")


@needs_gdb
def test_a_gdb_of_the_tests_that_fails_inside_leaves_no_core(tmp_path: Path) -> None:
    """As the one did whose core was once committed: its own question is answered yes."""
    command = gdb_command("-batch", "-ex", "maintenance internal-error of a test")
    done = subprocess.run(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert "internal-error" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@needs_gdb
def test_the_agents_gdb_that_fails_inside_leaves_no_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pygdbmi")
    monkeypatch.chdir(tmp_path)
    gdb = GdbMi()
    try:
        with pytest.raises(LinkClosed):
            gdb.console("maintenance internal-error of a test")
    finally:
        gdb.close()
    assert list(tmp_path.iterdir()) == []
