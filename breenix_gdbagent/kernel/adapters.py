"""Which adapter a kernel has: the first that knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breenix_gdbagent.kernel.adapter import Adapter
from breenix_gdbagent.kernel.breenix.adapter import Breenix

if TYPE_CHECKING:
    from breenix_gdbagent.symbols import Image
    from breenix_gdbagent.x86.machine import Machine

GENERIC = Adapter()
BREENIX = Breenix()
BUILT_IN: tuple[Adapter, ...] = (BREENIX, GENERIC)
"""Asked in this order; the last one knows any kernel."""


def adapter_of(machine: Machine, image: Image | None) -> Adapter:
    """The adapter of the kernel that runs on the machine, whose ELF `image` is where one is
    given."""
    return next(one for one in BUILT_IN if one.applies(machine, image))


def named(name: str) -> Adapter:
    """The adapter of that name; the generic one where there is none of it."""
    return next((one for one in BUILT_IN if one.name == name), GENERIC)
