"""The kernel's ELF placed at its load address in one stop: found, proved, or refused."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from breenix_gdbagent.addresses import PAGE, PhysAddr
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols import Image
from breenix_gdbagent.symbols.bias import Bias, find_bias

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
        bias = find_bias(
            image, cpu, memory.read, _small_pages(kernel, root), gates, gs_base,
            _executable(kernel, root), lambda va: _executes(kernel, root, va),
            kernel.adapter.handlers,
        )  # fmt: skip
    except ReadError as unknown:
        return unplaced._replace(unplaced_why=unknown.why or unknown.what), None
    return stop._replace(image=image.loaded(bias.value), unplaced=None), bias


def attach_image(stop: Stop, path: Path) -> Stop:
    """`with_image` for a file. Raises `InputError` for what is no kernel of ours."""
    return with_image(stop, Image.open(path))[0]


def _small_pages(kernel: Kernel, root: int) -> Iterator[int]:
    """First addresses of mapped 4 KiB pages, where the ELF's header may lie."""
    runs = kernel.paging.stretches(kernel.tables, root, kernel.mode)
    pages = (va + at for va, _, length in runs for at in range(0, length, PAGE))
    yield from islice(pages, MAX_PAGES)


def _executes(kernel: Kernel, root: int, va: int) -> bool:
    """Whether an address is not known to be mapped without execution."""
    effective = kernel.walk(root, va).effective
    return effective is None or not effective.nx


def _executable(kernel: Kernel, root: int) -> Iterator[tuple[int, memoryview]]:
    """(virtual address, bytes) of what is mapped executable over all levels and may be other than
    zero: small pages first, page-aligned."""
    ranges = [r for r in kernel.merged.space(PhysAddr(root)).ranges if not r.nx]
    starts = [r.start for r in ranges]
    filled = list(kernel.stop.memory.filled())
    bases = [pa for pa, _ in filled]
    for va, pa, length in kernel.paging.stretches(kernel.tables, root, kernel.mode):
        for one in ranges[max(bisect_right(starts, va) - 1, 0) : bisect_right(starts, va + length)]:
            first, end = max(va, one.start), min(va + length, one.end)
            low, high = pa + first - va, pa + end - va
            for at in range(max(bisect_right(bases, low) - 1, 0), bisect_left(bases, high)):
                base, view = filled[at]
                begin, finish = max(base, low), min(base + len(view), high)
                if begin < finish and first < end:
                    yield va + begin - pa, view[begin - base : finish - base]
