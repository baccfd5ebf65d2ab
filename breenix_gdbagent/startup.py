"""What a short command saves at its start and its end: every such trick of the agent is here.

Most commands answer in a fraction of a second, a third of which would be Python's own overhead.
CPU time saved, medians of 11 runs in turn with and without (Python 3.11, 2 busy cores; `make bench`
measures them again, group ``startup``):

============================ ============= ============= ============
trick                        ``--version`` ``pt walk``   ``report``
============================ ============= ============= ============
`collect_rarely`             0.5 of 31 ms  4.8 of 95 ms  15 of 190 ms
`put_off`                    5.7           10.2          17
`share_methods`              costs 2.8     35.2          119
`end_at_once`                6.0           17.5          47
============================ ============= ============= ============

A module is imported inside a function only where a short command can do without it.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from types import ModuleType
from typing import Any, NoReturn, cast

COLLECT_EVERY = 50_000
"""Objects more before Python looks for circles among them; its own number is 700."""


def collect_rarely() -> None:
    """Have Python look for circles of objects less often: a command makes many objects and few
    circles, and ends soon."""
    gc.set_threshold(COLLECT_EVERY)


def end_at_once(code: int) -> NoReturn:
    """Ends the process without Python's own way out, which takes down thousands of objects one by
    one for a process that ends anyway. Exit functions run, and the streams are flushed."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _quote(path: bytes) -> object:
    """`pathlib` imports it for `Path.as_uri`."""
    return _real("urllib.parse").quote_from_bytes(path)


def _annotations(of: object, **how: bool) -> object:
    """What ``dataclasses`` asks of each class (CPython 3.12 and 3.13, Lib/dataclasses.py); whoever
    asks more gets the real one's answer."""
    if how or not isinstance(of, type):
        return _real("inspect").get_annotations(of, **how)
    return dict(of.__annotations__)


def _unwrap(of: object, **how: object) -> object:
    """What ``dataclasses`` asks of each member of a class with slots (CPython 3.14), whose
    ``__repr__`` it has wrapped once. What is wrapped many times, perhaps in a circle, is the real
    one's."""
    inner = of
    for _ in range(3 if not how else 0):
        if not hasattr(inner, "__wrapped__"):
            return inner
        inner = inner.__wrapped__
    return _real("inspect").unwrap(of, **how)


def _files(*package: object) -> object:
    """The folder of a package, which capstone asks for its library."""
    from pathlib import Path  # by now it has been imported with what it needs put off

    file = getattr(sys.modules.get(str(package[0])), "__file__", None) if package else None
    home = None if file is None else Path(file).parent
    if home is not None and home.is_dir():
        return home
    return _real("importlib.resources").files(*package)


_RESOURCES = [f"{import_module('importlib').__path__[0]}/resources"]
"""Where the modules of that package are: `importlib.metadata` imports one of them by itself."""

PUT_OFF: dict[str, dict[str, object]] = {
    "importlib.resources": {"files": _files, "__path__": _RESOURCES},
    "shutil": {},
    "subprocess": {},
    "inspect": {"get_annotations": _annotations, "unwrap": _unwrap},
    "ipaddress": {},
    "selectors": {},
    "urllib.parse": {"quote_from_bytes": _quote},
    "gettext": {"gettext": str, "ngettext": lambda one, many, n: one if n == 1 else many},
}
"""Modules that ``dataclasses``, `pathlib`, `socket`, `argparse` and ``capstone`` (by way of
``ctypes.util``) import for what we do not ask of them, and what they get of each without it.
(``copy`` was put off too: it gained 0.1 ms.) Those of ``capstone`` are 13 of the 35 ms that its
import takes, which each ``bt`` waits for."""


class _PutOff(ModuleType):
    """Stands for a module until something of it is wanted."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # `from MODULE import` asks for __path__
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def _real(name: str) -> ModuleType:
    """The module itself, from now on in its place; who has the stand-in finds all of it there."""
    stand_in = sys.modules.get(name)
    if not isinstance(stand_in, _PutOff):
        return import_module(name)
    del sys.modules[name]
    real = import_module(name)
    stand_in.__dict__.update(real.__dict__)
    return real


def put_back() -> None:
    """Have the modules themselves again, for a command that waits for its client anyway and imports
    a library which looks into them (``mcp`` imports a submodule of one)."""
    for name in PUT_OFF:
        _real(name)


def put_off() -> None:
    """Have what stands for the modules of `PUT_OFF` in their places."""
    for name, known in PUT_OFF.items():
        later = _PutOff(name)
        later.__dict__.update(known)
        sys.modules.setdefault(name, later)
        package, _, part = name.rpartition(".")
        if package:  # only a real import binds it there
            setattr(import_module(package), part, sys.modules[name])


def share_methods() -> None:
    """Have frozen dataclasses compare, hash and show themselves by methods that are not compiled
    for each class, and be made by one that is compiled when the first is.

    ``dataclasses`` writes the source of six methods for every class and compiles it: half of what
    `audit` took went to that, for some 300 classes. Of most of them a command makes no value: that
    their ``__init__`` waits saves 14 of the 250 ms of `report`.
    That values stay as they are is held in the process of a command by mypy alone. Who imports the
    package as a library has the ordinary classes. `--version`, which needs no class, pays for it.
    """
    import dataclasses

    ordinary = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **how: bool) -> object:
        if cls is None:
            return lambda later: dataclass(later, **how)
        if not how.get("frozen") or not how.keys() <= {"frozen", "slots", "kw_only"}:
            return ordinary(cls, **how)
        own = {"frozen": False, "eq": False, "repr": False, "init": False}
        made: type = ordinary(cls, **how | own)
        _share(made, tuple(field.name for field in dataclasses.fields(made)))
        if "__init__" not in made.__dict__:
            _construct_later(made)
        return made

    dataclasses.dataclass = dataclass  # type: ignore[assignment]


def _construct_later(cls: type) -> None:
    """Give a dataclass without one the ``__init__`` of its fields, compiled at its first call."""

    def __init__(self: object, *given: object, **named: object) -> None:
        made = _constructor(cls)
        cls.__init__ = made  # type: ignore[misc]
        made(self, *given, **named)

    cls.__init__ = __init__  # type: ignore[misc]


def _constructor(cls: type) -> Callable[..., None]:
    """The ``__init__`` that ``dataclasses`` makes for the fields of `cls`."""
    from dataclasses import fields, make_dataclass

    parts: list[tuple[str, Any, Any]] = [(one.name, one.type, one) for one in fields(cls)]
    # It shows its signature in the docstring of a class without one, and imports `inspect` for it.
    own = {"__doc__": cls.__doc__ or cls.__name__}
    if hasattr(cls, "__post_init__"):
        own["__post_init__"] = cls.__post_init__
    made = make_dataclass(cls.__name__, parts, namespace=own, eq=False, repr=False)
    return cast(Callable[..., None], made.__init__)  # type: ignore[misc]


def _share(cls: type, names: tuple[str, ...]) -> None:
    """Give a class the methods that it does not define itself, as ``dataclasses`` has them."""
    values = attrgetter(*names) if names else lambda one: ()

    def __eq__(self: object, other: object) -> bool:
        same = other.__class__ is self.__class__
        return values(self) == values(other) if same else NotImplemented

    def __hash__(self: object) -> int:
        return hash(values(self))

    def __repr__(self: object) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({shown})"

    def __getstate__(self: object) -> list[object]:
        return [getattr(self, name) for name in names]

    def __setstate__(self: object, state: list[object]) -> None:
        for name, value in zip(names, state, strict=True):
            setattr(self, name, value)

    # A frozen class with slots is pickled as dataclasses does it (its `_dataclass_getstate`): what
    # a worker is sent, it makes of the ordinary classes, and the reverse.
    pickled = (__getstate__, __setstate__) if "__slots__" in cls.__dict__ else ()
    for method in (__eq__, __hash__, __repr__, *pickled):
        if cls.__dict__.get(method.__name__) is None:
            setattr(cls, method.__name__, method)
