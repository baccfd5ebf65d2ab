"""Which adapter a kernel has: the one that was chosen, else the first that knows it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.kernel.adapter import Adapter
from breenix_gdbagent.kernel.breenix.adapter import Breenix
from breenix_gdbagent.stop import AdapterSource

if TYPE_CHECKING:
    from breenix_gdbagent.arch.machine import Machine
    from breenix_gdbagent.symbols import Image

GROUP = "breenix_gdbagent.kernels"
"""The entry points of installed packages that bring an adapter: each names an `Adapter` class."""
GENERIC = Adapter()
BREENIX = Breenix()


def adapter_of(
    machine: Machine | None, image: Image | None, chosen: AdapterSource | None = None
) -> Adapter:
    """What is known of the kernel that runs on the machine, whose ELF `image` is where one is
    given: what was chosen, else the first adapter that knows it. Raises `InputError` for a choice
    that is none."""
    if chosen is not None:
        return _chosen(chosen)
    if BREENIX.applies(machine, image):
        return BREENIX
    return next((one for one in _installed() if one.applies(machine, image)), GENERIC)


def source_of(name: str) -> AdapterSource:
    """The choice that a user's word is: ``none``, ``breenix``, the name of an installed one, or a
    TOML file. Raises `InputError`."""
    source = AdapterSource(name)
    if name.endswith(".toml"):
        path = Path(name)
        try:
            source = AdapterSource(path.stem, path.read_text("utf-8"))
        except OSError as error:
            raise InputError(f"cannot read {path}", error.strerror or "") from error
        except ValueError as error:
            raise InputError(f"{path} is no TOML", str(error)) from error
    return AdapterSource(_chosen(source).name, source.text)


def named(name: str) -> Adapter:
    """The adapter of that name; the generic one where there is none of it."""
    if name in (BREENIX.name, GENERIC.name):
        return BREENIX if name == BREENIX.name else GENERIC
    return next((one for one in _installed() if one.name == name), GENERIC)


def _chosen(source: AdapterSource) -> Adapter:
    if source.text:
        from breenix_gdbagent.kernel.described import described

        return described(source.text)
    found = named(source.name)
    if found.name != source.name:
        known = ", ".join((BREENIX.name, GENERIC.name, *(one.name for one in _installed())))
        raise InputError(
            f"there is no adapter {source.name!r}",
            fix=f"one of {known}, or the path of a .toml file",
        )
    return found


@cache
def _installed() -> tuple[Adapter, ...]:
    """Those of installed packages, by name. Raises `InputError` for one that cannot be used."""
    from importlib.metadata import entry_points

    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        try:
            adapter = entry.load()()
        except (ImportError, AttributeError, TypeError) as error:
            raise InputError(
                f"the adapter {entry.name} cannot be used", str(error), "mend or remove its package"
            ) from error
        if not isinstance(adapter, Adapter):
            raise InputError(f"{entry.value} is no Adapter", fix="derive it from kernel.Adapter")
        found.append(adapter)
    return tuple(found)
