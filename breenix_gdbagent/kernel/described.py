"""An adapter that is only data: one TOML file, beside that of the machine that boots the kernel.

    name = "mykernel"
    panic = ["kpanic"]                       # functions where a panic begins
    source = "src"                           # where `see` begins

    [handlers]                               # vector -> symbol: they place an ELF that moves
    14 = "page_fault_entry"

    [stacks]                                 # a grid of kernel stacks, each above its guard
    start = 0xffffc90000000000
    size = 0x4000
    guard = 0x1000
    count = 64

    [markers]                                # on the serial line
    success = "all tests passed"
    [exit]                                   # statuses of QEMU
    success = [33]

    [see]                                    # finding code, or its family -> files
    page-fault = ["mm/fault.c"]
    [mend]                                   # finding code -> what to do
    "heap.exhausted" = "Raise HEAP_PAGES."

Everything but the name may be left out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache

from breenix_gdbagent.addresses import PAGE
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.kernel.adapter import Adapter, Advice, Layout
from breenix_gdbagent.kernel.stacks import Era

_KEYS = {"name", "panic", "source", "handlers", "stacks", "markers", "exit", "see", "mend"}
_TABLES: Mapping[str, set[str] | None] = {
    "handlers": None, "stacks": {"start", "size", "guard", "count"},
    "markers": {"success", "progress"}, "exit": {"success", "failed"}, "see": None, "mend": None,
}  # fmt: skip
_NEEDED = ("start", "size", "count")


class Described(Adapter):
    """A kernel as its file describes it."""

    def __init__(self, data: Mapping[str, object]) -> None:
        """Raises `ValueError` in words for what is no such file."""
        if unknown := set(data) - _KEYS:
            raise ValueError(f"unknown key {', '.join(sorted(unknown))}")
        self.name = _text(data, "name")
        parts = {key: _table(data, key, known) for key, known in _TABLES.items()}
        self._mend = {code: _text(parts["mend"], code) for code in parts["mend"]}
        self._see = {code: _texts(parts["see"], code) for code in parts["see"]}
        self._source = str(data.get("source", ""))
        if "panic" in data:
            self.panic_functions = _texts(data, "panic")
        self.handlers = {_vector(key): _text(parts["handlers"], key) for key in parts["handlers"]}
        if parts["stacks"]:
            self.eras, self.layout = _stacks(self.name, parts["stacks"])
        if "success" in parts["markers"]:
            self.success = _text(parts["markers"], "success")
        self.progress = _texts(parts["markers"], "progress")
        self.exit_success = frozenset(_numbers(parts["exit"], "success"))
        self.exit_failed = frozenset(_numbers(parts["exit"], "failed"))

    def advice_for(self, code: str) -> Advice:
        files = self._see.get(code) or self._see.get(code.partition(".")[0], ())
        start = f"{self._source.rstrip('/')}/" if self._source else ""
        return Advice(mend=self._mend.get(code), see=tuple(start + file for file in files))


@lru_cache(maxsize=8)
def described(text: str) -> Described:
    """The adapter that a file's `text` describes. Raises `InputError`."""
    try:
        return Described(tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        raise InputError(
            "the kernel's file describes no adapter", str(error),
            "compare it with docs/other-kernels.md",
        ) from error  # fmt: skip


def _stacks(name: str, table: Mapping[str, object]) -> tuple[tuple[Era], Layout]:
    if lacking := [key for key in _NEEDED if key not in table]:
        raise ValueError(f"[stacks] lacks {', '.join(lacking)}")
    start, size, count, guard = (_number(table, key) for key in (*_NEEDED, "guard"))
    guard = guard if "guard" in table else PAGE
    if start % PAGE or size % PAGE or guard % PAGE or size <= 0 or guard < 0 or count <= 0:
        raise ValueError("[stacks] has an address or a size that is no multiple of a page")
    end = start + count * (size + guard)
    if not 0 <= start < end <= 1 << 64:
        raise ValueError("[stacks] does not lie within 64 bits")
    return (Era(name, start, size, count, end, guard),), Layout(kernel_stacks=range(start, end))


def _table(data: Mapping[str, object], key: str, known: set[str] | None) -> Mapping[str, object]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} is no table")
    if known is not None and (unknown := set(value) - known):
        raise ValueError(f"[{key}] has an unknown key {', '.join(sorted(unknown))}")
    return value


def _text(data: Mapping[str, object], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is no text")
    return value


def _texts(data: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key} is no list of texts")
    return tuple(value)


def _number(data: Mapping[str, object], key: str) -> int:
    value = data.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} is no number")
    return value


def _numbers(data: Mapping[str, object], key: str) -> tuple[int, ...]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ValueError(f"{key} is no list of numbers")
    return tuple(value)


def _vector(key: str) -> int:
    try:
        vector = int(key, 0)
    except ValueError:
        raise ValueError(f"[handlers] has {key!r}, which is no vector") from None
    if not 0 <= vector < 256:
        raise ValueError(f"[handlers] has {key}, which is no vector")
    return vector
