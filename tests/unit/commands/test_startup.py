"""What a start of the agent imports: milliseconds that every answer waits for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import breenix_gdbagent

HEAVY = {
    "asyncio", "qemu.qmp", "rich", "capstone", "elftools", "prompt_toolkit", "jinja2", "construct",
    "inspect", "ast", "shutil", "bz2", "lzma", "locale", "ipaddress", "selectors", "subprocess",
    "tempfile", "hashlib", "logging", "textwrap", "traceback",
}  # fmt: skip

PROGRAM = """
import atexit, sys
from types import ModuleType
from breenix_gdbagent.__main__ import process
before = set(sys.modules)
def tell():
    later = {n for n, m in sys.modules.items() if type(m).__name__ == "_PutOff"}
    print("LOADED", *(set(sys.modules) - later - before), file=sys.stderr)
atexit.register(tell)
sys.argv[1:] = %r
process()
"""


STANDARD = """
import sys
from pathlib import Path
from breenix_gdbagent.startup import put_off
before = set(sys.modules)
put_off()
import argparse, contextlib, dataclasses, enum, functools, json, pathlib, re, socket, typing
argparse.ArgumentParser().parse_args([])
later = {n for n, m in sys.modules.items() if type(m).__name__ == "_PutOff"}
print(*(set(sys.modules) - later - before))
"""
"""What this Python's own library brings for the parts of it that every command uses, with what we
put off put off: nothing that we could leave out."""

DATACLASS = """
import sys
from pathlib import Path
from breenix_gdbagent.startup import put_off
put_off()
import dataclasses
@dataclasses.dataclass(frozen=True, slots=True)
class Some:
    "A class as ours are."
    number: int
print(repr(Some(1)), type(sys.modules["inspect"]).__name__)
"""

VALUES = """
import dataclasses, sys
from breenix_gdbagent.startup import share_methods
if sys.argv[1] == "shared":
    share_methods()
dataclass = dataclasses.dataclass
@dataclass(frozen=True, slots=True)
class Nothing:
    "No field."
@dataclass(frozen=True, slots=True)
class Place:
    "One field."
    va: int
@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol(Place):
    "Two fields, one of them its base's."
    name: str = "main"
@dataclass(frozen=True)
class Own:
    "With methods of its own."
    va: int
    def __eq__(self, other): return isinstance(other, int | Own)
    def __hash__(self): return 7
    def __repr__(self): return "own"
@dataclass(frozen=True, slots=True)
class Checked:
    "Its first field has to be positive; its second is a new list for each."
    va: int
    seen: list = dataclasses.field(default_factory=list)
    def __post_init__(self):
        if self.va <= 0: raise ValueError(self.va)
@dataclass(slots=True)
class Changes:
    "Not frozen: no key of a dictionary."
    va: int
one, two = Symbol(va=1), Symbol(va=1, name="main")
print(Nothing(), Place(3), one, Own(1), Changes(1), [Place("a")])
print(one == two, hash(one) == hash(two), one != Symbol(va=2), Place(1) == one, one == 1)
print(Nothing() == Nothing(), len({Nothing(), Place(1), Place(1), one, two}))
print(Own(1) == 5, hash(Own(1)))
print(dataclasses.replace(one, va=9), dataclasses.astuple(one), hasattr(one, "__dict__"))
print(Checked(1).seen is Checked(1).seen, Checked(2, [3]), Checked(va=2, seen=[]).seen)
for wrong in (lambda: Checked(0), lambda: Place(), lambda: Place(1, 2), lambda: Place(rip=1)):
    try: wrong()
    except (TypeError, ValueError) as error: print(error)
print(dataclasses.fields(Checked)[0].type, Checked(1) == Checked(1, []))
match Place(4):
    case Place(va): print(va, Changes.__hash__, Changes(1) == Changes(1))
"""
"""What our values are asked for, of the ordinary dataclasses and of those with shared methods."""


@pytest.fixture(scope="module")
def standard() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", STANDARD], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


def loaded(*arguments: str) -> tuple[int, set[str]]:
    """(exit code, modules that the command has loaded) of one start."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % (list(arguments),)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (line,) = [row for row in done.stderr.splitlines() if row.startswith("LOADED")]
    return done.returncode, set(line.split()[1:])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--version",), 0),
        (("pt", "walk", "0x1000", "--gdb", "unix:/nobody", "--json"), 3),
        (("pt", "roots", "--gdb", "unix:/nobody"), 3),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_nothing_heavy_is_imported_for_a_first_answer(
    arguments: tuple[str, ...], code: int, standard: set[str]
) -> None:
    """What the standard library imports for itself (in 3.14 `ast` and `inspect`) is not ours."""
    ended, modules = loaded(*arguments)
    assert ended == code
    assert (modules - standard) & HEAVY == set()


def test_a_dataclass_wants_nothing_of_what_is_put_off() -> None:
    """Most of our classes are one: what it asks of `inspect` we give it, on every Python."""
    done = subprocess.run(
        [sys.executable, "-c", DATACLASS], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "Some(number=1) _PutOff\n"


def test_values_with_shared_methods_are_as_the_ordinary_ones() -> None:
    ordinary, shared = (
        subprocess.run(
            [sys.executable, "-c", VALUES, how],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for how in ("ordinary", "shared")
    )
    assert shared == ordinary
    assert "Symbol(va=9, name='main')" in shared


def test_what_was_put_off_is_there_when_it_is_wanted() -> None:
    """Each module that stands for another gives what the other has."""
    check = (
        "import sys\n"
        "from breenix_gdbagent.startup import PUT_OFF, _PutOff, put_off\n"
        "put_off()\n"
        "import urllib, pathlib, inspect, importlib.resources\n"
        "real = importlib.resources.files('breenix_gdbagent')\n"
        "assert type(importlib.resources) is _PutOff and (real / 'version.py').is_file()\n"
        "def typed(one: 'int'): pass\n"
        "assert pathlib.Path('/a b').as_uri() == 'file:///a%20b'\n"
        "assert inspect.unwrap(typed) is typed\n"
        "typed.__wrapped__ = len\n"
        "assert inspect.unwrap(typed) is len\n"
        "del typed.__wrapped__\n"
        "assert inspect.get_annotations(typed, eval_str=True) == {'one': int}\n"
        "for name in PUT_OFF: sys.modules[name] = _PutOff(name)\n"
        "import importlib\n"
        "urllib.parse = sys.modules['urllib.parse']\n"
        "importlib.resources = sys.modules['importlib.resources']\n"
        "import copy, inspect, ipaddress, selectors, gettext, urllib.parse\n"
        "assert urllib.parse.quote('a b') == 'a%20b'\n"
        "from inspect import signature\n"
        "assert copy.deepcopy([1]) == [1]\n"
        "assert str(signature(lambda a: a)) == '(a)' and inspect.isfunction(signature)\n"
        "assert ipaddress.ip_address('127.0.0.1').is_loopback\n"
        "assert selectors.DefaultSelector().get_map() is not None\n"
        "assert gettext.NullTranslations().gettext('a') == 'a' and gettext.gettext('a') == 'a'\n"
        "assert importlib.resources.files('breenix_gdbagent').joinpath('version.py').is_file()\n"
        "import shutil; assert shutil.which('nothing of that name') is None\n"
        "import subprocess, asyncio, dataclasses, logging\n"
        "assert issubclass(subprocess.TimeoutExpired, subprocess.SubprocessError)\n"
        "assert not any(type(m).__name__ == '_PutOff' for m in sys.modules.values())\n"
        "try: copy.nothing\n"
        "except AttributeError: print('right')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "right\n", done.stderr


def test_every_dataclass_says_what_it_is() -> None:
    """To make up a docstring ``dataclasses`` asks `inspect` for the signature: 8 ms of imports."""
    silent = [
        f"{path.name}: {node.name}"
        for path in sorted(Path(breenix_gdbagent.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        and any("dataclass" in ast.dump(by) for by in node.decorator_list)
        and ast.get_docstring(node) is None
    ]
    assert silent == []


def test_a_package_that_is_put_off_can_be_imported_from_by_others() -> None:
    """`importlib.metadata`, which knows the adapters of installed packages, imports a module of
    `importlib.resources` by itself."""
    check = (
        "from breenix_gdbagent.startup import put_off; put_off()\n"
        "from importlib.metadata import entry_points\n"
        "import importlib.resources.abc, importlib.resources\n"
        "assert entry_points(group='no such group') is not None\n"
        "assert importlib.resources.files('breenix_gdbagent').joinpath('version.py').is_file()\n"
        "assert importlib.resources.as_file is not None\n"
        "print('right')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "right\n", done.stderr
