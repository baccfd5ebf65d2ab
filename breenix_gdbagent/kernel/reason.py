"""Why a guest that we only attached to, or a bare core, is stopped: told from its CPUs."""

from __future__ import annotations

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.adapter import Adapter
from breenix_gdbagent.kernel.event import infer_reason
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop, StopReason
from breenix_gdbagent.symbols import Image


def with_reason(stop: Stop) -> Stop:
    """`stop`, of kind ``fault`` if it is a bare core taken at the first instruction of an
    exception's handler, ``panic`` at that of the panic handler; as it was otherwise. Never raises
    for what the core lacks."""
    if stop.reason.kind != "core" or not stop.cpus:
        return stop
    kernel = Kernel(stop)
    found = infer_reason(kernel) or _panic(kernel)
    return stop if found is None else stop._replace(reason=found)


def in_panic(kernel: Kernel) -> bool:
    """Whether a CPU is inside the panic handler; False where no ELF tells."""
    from breenix_gdbagent.kernel.trace import of_cpu

    if kernel.stop.image is None:
        return False
    for cpu in kernel.stop.cpus:
        if cpu.cpl != 0:
            continue
        try:
            frames = of_cpu(kernel, cpu).frames
        except ReadError:
            continue
        if any(frame.name.partition("+")[0] in kernel.adapter.panic_functions for frame in frames):
            return True
    return False


def panic_entries(image: Image, adapter: Adapter) -> tuple[int, ...]:
    """Link addresses of the functions where a panic begins."""
    return tuple(at for name in adapter.panic_functions for at in image.addresses_of(name))


def _panic(kernel: Kernel) -> StopReason | None:
    stop = kernel.stop
    if stop.image is None:
        return None
    link = panic_entries(stop.image.image, kernel.adapter)
    handlers = {stop.image.va(address) for address in link}
    found = (c for c in stop.cpus if c.at in handlers)
    return next((StopReason("panic", c.index) for c in found), None)
