"""``breenix-gdbagent`` and ``python -m breenix_gdbagent``."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from importlib import import_module
from types import ModuleType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
COLLECT_EVERY = 50_000
"""Objects more before Python looks for circles among them: with its own 700 that is 2 ms of a
start."""


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


PUT_OFF: dict[str, dict[str, object]] = {
    "copy": {},
    "inspect": {"get_annotations": _annotations, "unwrap": _unwrap},
    "ipaddress": {},
    "selectors": {},
    "urllib.parse": {"quote_from_bytes": _quote},
    "gettext": {"gettext": str, "ngettext": lambda one, many, n: one if n == 1 else many},
}
"""Modules that ``dataclasses``, `pathlib`, `socket` and `argparse` import for what we do not ask of
them, and what they get of each without it: 10 ms."""


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


def put_off() -> None:
    """Have what stands for the modules of `PUT_OFF` in their places."""
    for name, known in PUT_OFF.items():
        later = _PutOff(name)
        later.__dict__.update(known)
        sys.modules.setdefault(name, later)
        package, _, part = name.rpartition(".")
        if package:  # only a real import binds it there
            setattr(import_module(package), part, sys.modules[name])


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is the contract's."""
    from breenix_gdbagent.commands import run

    return run(sys.argv[1:] if argv is None else argv)


def process() -> NoReturn:
    """`main` as a whole process, from its first moment to its last.

    Until a command has its own handlers there is nothing to clean up, and once its answer is out
    no signal may change the code. Python's own way out is not gone: it takes down thousands of
    objects one by one (10 ms) for a process that ends anyway.
    """
    gc.set_threshold(COLLECT_EVERY)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _too_early)
    sys.unraisablehook = _hear_again
    _open_standard_streams()
    put_off()
    code = main()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    from contextlib import suppress

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _open_standard_streams() -> None:
    """Who started us may have closed them (``>&-``): then Python has None there, and the next file
    that is opened, QEMU's socket say, takes their number and gets our answer. In their place comes
    a device that reads as empty, refuses an answer (it would be lost) and swallows errors."""
    modes = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)
    for number, (name, mode) in enumerate(zip(("stdin", "stdout", "stderr"), modes, strict=True)):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, mode)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
        stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _too_early(number: int, frame: object) -> NoReturn:
    """A signal while Python is still importing us."""
    what = "interrupted" if number == signal.SIGINT else "terminated"
    os.write(2, f"breenix-gdbagent: {what} before it began\n".encode())
    os._exit(3)


def _hear_again(lost: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that came inside a callback which cannot raise (importlib's locks have one) would
    be printed and forgotten: it comes again a moment later."""
    numbers = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
    number = numbers.get(lost.exc_type)
    if number is None:
        sys.__unraisablehook__(lost)
        return
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001)


if __name__ == "__main__":
    process()
