"""The kernel's ELF put where it runs in one stop: found, proved, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.bias import Bias, find_bias
from breenix_gdbagent.x86.paging import ADDRESS, PS, P

MAX_PAGES = 1 << 16


def with_image(stop: Stop, image: Image) -> tuple[Stop, Bias | None]:
    """`stop` with `image` at its load bias, and how that was proved.

    The stop comes back with `image` unplaced, and None, where nothing tells yet where the kernel is
    (early boot). Raises `InputError` when another kernel than this ELF runs.
    """
    kernel = Kernel(stop)
    root = kernel.reference_root
    unplaced = stop._replace(unplaced=image)
    if root is None:
        return unplaced, None
    cpu = stop.cpu
    memory = kernel.memory_of(root)
    try:
        gates = {vector: int(gate.offset) for vector, gate in kernel.gates.items()}
    except ReadError:
        gates = {}
    gs_base = next((int(p.base) for p in kernel.percpus), None)
    try:
        bias = find_bias(image, cpu, memory.read, _low_pages(kernel, root), gates, gs_base)
    except ReadError as unknown:
        return unplaced._replace(unplaced_why=unknown.why or unknown.what), None
    return stop._replace(image=image.loaded(bias.value), unplaced=None), bias


def attach_image(stop: Stop, path: Path) -> Stop:
    """`with_image` for a file. Raises `InputError` for what is no kernel of ours."""
    return with_image(stop, Image.open(path))[0]


def _low_pages(kernel: Kernel, root: int) -> Iterator[int]:
    """First addresses of mapped 4 KiB pages in the lower half, where Breenix's kernel lies."""

    def below(frame: int, level: int, va: int) -> Iterator[int]:
        try:
            table = kernel.tables.table(frame)
        except ReadError:
            return
        for index in range(256 if level == kernel.levels else 512):
            raw = table[index]
            if not raw & P:
                continue
            at = va + (index << (12 + 9 * (level - 1)))
            if level == 1:
                yield at
            elif not raw & PS:
                yield from below(raw & ADDRESS, level - 1, at)

    yield from islice(below(root, kernel.levels, 0), MAX_PAGES)
