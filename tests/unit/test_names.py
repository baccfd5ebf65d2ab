"""Names of the package: none that nothing uses, none pointed at that is not there."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "breenix_gdbagent"
SOURCES = sorted(PACKAGE.rglob("*.py"))

STANDARD = {"symbols/dwarf_names.py"}
"""Tables that list all names a standard has, those that we do not meet included."""

GIVEN_BY_NAME = re.compile(r"do_\w+|__\w+__")
"""Found by a name that is put together: the shell's commands, what Python itself calls."""

LONGEST_NAME = 60
"""Longer strings are text, in which a word is no use of a name."""


def _defined(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Public functions, classes, constants and methods that no decorator registers somewhere."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if not (isinstance(node, ast.FunctionDef) and node.decorator_list):
                yield node.name, node.lineno
        elif isinstance(node, ast.Assign):
            targets = [name for target in node.targets for name in ast.walk(target)]
            yield from ((n.id, node.lineno) for n in targets if isinstance(n, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.lineno
        if isinstance(node, ast.ClassDef):
            methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
            yield from ((one.name, one.lineno) for one in methods)


def _used(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant):
            yield from _words(node)


def _words(node: ast.Constant) -> list[str]:
    """The names that a short string may hold."""
    short = isinstance(node.value, str) and len(node.value) < LONGEST_NAME
    return re.findall(r"\w+", str(node.value)) if short else []


def _python() -> Iterator[Path]:
    for room in ("breenix_gdbagent", "tests", "tools", "fixtures"):
        yield from sorted((ROOT / room).rglob("*.py"))


def test_every_public_name_is_used() -> None:
    """In the package, its tests and tools, the templates or the documentation: by name, so that
    a method counts as used where any object's method of that name is."""
    uses = Counter(name for path in _python() for name in _used(ast.parse(path.read_text("utf-8"))))
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *PACKAGE.rglob("*.j2")]
    for path in [*texts, ROOT / "pyproject.toml"]:
        uses.update(re.findall(r"\w+", path.read_text("utf-8")))
    idle = [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in SOURCES
        if path.relative_to(PACKAGE).as_posix() not in STANDARD
        for name, line in _defined(ast.parse(path.read_text("utf-8")))
        if not uses[name] and not GIVEN_BY_NAME.fullmatch(name)
    ]
    assert idle == []


def test_an_idle_name_is_seen() -> None:
    tree = ast.parse("ONE = 1\ndef two(): ...\nclass Three:\n    def four(self): ...\n")
    assert [name for name, _ in _defined(tree)] == ["ONE", "two", "Three", "four"]
    assert not set(_used(tree)) & {"ONE", "two", "Three", "four"}


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Of modules, functions and classes, and those that stand below a constant."""
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def _known() -> set[str]:
    """Every name in the code of the package, and those of its files and rooms."""
    known = {part for path in SOURCES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                known.add(node.name)
            elif isinstance(node, ast.Name):
                known.add(node.id)
            elif isinstance(node, ast.Attribute):
                known.add(node.attr)
            elif isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg):
                known.add(node.arg)
            elif isinstance(node, ast.alias):
                known.update(node.name.split("."))
            elif isinstance(node, ast.Constant):
                known.update(_words(node))
    return known


_OURS = re.compile(r"(?<!`)`([\w.]+)(?:\(\))?`(?!`)")
"""A name between single backticks is one of ours; what others call so has two."""
_FILE = re.compile(r"(?<![\w/.-])((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)\b")


def _missing(text: str, place: Path, known: set[str]) -> list[str]:
    """What a docstring in the file `place` points at and is nowhere."""
    names = [one for one in _OURS.findall(text) if not set(one.split(".")) <= known]
    homes = (PACKAGE, place.parent, ROOT)
    return names + [f for f in _FILE.findall(text) if not any((h / f).is_file() for h in homes)]


def test_docstrings_point_at_what_is_there() -> None:
    known = _known()
    lost = {
        path.relative_to(PACKAGE).as_posix(): missing
        for path in SOURCES
        for text in _docstrings(ast.parse(path.read_text("utf-8")))
        if (missing := _missing(text, path, known))
    }
    assert lost == {}


def test_a_lost_name_is_seen() -> None:
    place, known = PACKAGE / "stop.py", {"here"}
    assert _missing("See `here` and ``there``, `stop.py`.", place, known | {"stop", "py"}) == []
    assert _missing("See `gone.x` and gone.py.", place, known) == ["gone.x", "gone.py"]


PRIVATE = re.compile(
    r"\b(faces?|unvouched|believed|considered|witnessed|vouched|books|an ELF that is none)\b"
)
"""Words that only we would understand, and meant several things by."""


def test_every_module_says_what_it_is() -> None:
    """In a first sentence that a reader understands who knows gdb and x86, but not us."""
    for path in SOURCES:
        said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        first = said.split("\n\n")[0]
        assert len(first.split()) >= 4 and first.endswith((".", ":")), f"{path}: {first}"
        assert not PRIVATE.search(said), f"{path}: {PRIVATE.search(said)}"


def _private_names(tree: ast.Module) -> set[str]:
    """Classes and functions that another file can mean, by the names it imports."""
    return {n.name for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"}


def test_no_file_meets_two_classes_of_one_name() -> None:
    """Where two classes share a name, no file imports both, under whatever name: who reads
    `Space` in it knows which."""
    homes: dict[str, set[str]] = {}
    for path in SOURCES:
        module = "breenix_gdbagent." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for name in _private_names(ast.parse(path.read_text("utf-8"))):
            homes.setdefault(name, set()).add(module)
    met = []
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        module = "breenix_gdbagent." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        seen: dict[str, set[str]] = {name: {module} for name in _private_names(tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if node.module in homes.get(alias.name, ()):
                        seen.setdefault(alias.name, set()).add(node.module)
        met += [f"{path.relative_to(PACKAGE)}: {n}" for n, where in seen.items() if len(where) > 1]
    assert met == []
