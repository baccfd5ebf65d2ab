"""One address space dumped by another tool, in that tool's own Python.

``python outside.py volatility3|drgn RAM_FILE ROOT``: one JSON line, the milliseconds of each round
and how many ranges the tool tells apart. Runs where the agent is not installed: it imports nothing
of this project.
"""

import json
import mmap
import struct
import sys
import time
from pathlib import Path

ROUNDS = 5


def volatility3(ram: Path, root: int):
    """`mapping()` of its Intel layer over the file, from end to end."""
    from volatility3.framework import contexts
    from volatility3.framework.layers import intel, physical

    context = contexts.Context()
    context.config["ram.location"] = ram.as_uri()
    context.add_layer(physical.FileLayer(context, "ram", "ram"))
    context.config["space.page_map_offset"] = root
    context.config["space.memory_layer"] = "ram"
    layer = intel.Intel32e(context, "space", "space")

    def dump() -> int:
        top = layer.maximum_address - layer.minimum_address
        return sum(1 for _ in layer.mapping(layer.minimum_address, top, ignore_errors=True))

    return dump


def drgn(ram: Path, root: int):
    """It walks no tables but Linux's own: a walk over its physical reads, as a user would write."""
    from drgn import Architecture, Platform, Program

    with ram.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    program = Program(Platform(Architecture.X86_64))
    program.add_memory_segment(
        0, len(view), lambda at, count, offset, physical: view[offset : offset + count], True
    )

    def walk(frame: int, level: int, base: int, rights: tuple, out: list) -> None:
        shift = 12 + 9 * (level - 1)
        if frame + 4096 > len(view):
            return
        for index, raw in enumerate(struct.unpack("<512Q", program.read(frame, 4096, True))):
            if not raw & 1:
                continue
            mine = (rights[0] and raw >> 1 & 1, rights[1] and raw >> 2 & 1, rights[2] or raw >> 63)
            va = base | index << shift
            if level > 1 and not raw & 0x80:
                walk(raw & 0xFFFFFFFFFF000, level - 1, va, mine, out)
            elif out and out[-1][1] == va and out[-1][2] == mine:
                out[-1] = (out[-1][0], va + (1 << shift), mine)
            else:
                out.append((va, va + (1 << shift), mine))

    def dump() -> int:
        out: list = []
        walk(root, 4, 0, (1, 1, 0), out)
        return len(out)

    return dump


def main() -> None:
    dump = {"volatility3": volatility3, "drgn": drgn}[sys.argv[1]](
        Path(sys.argv[2]), int(sys.argv[3], 16)
    )
    ranges, times = dump(), []
    for _ in range(ROUNDS):
        start = time.process_time()
        dump()
        times.append((time.process_time() - start) * 1000)
    print(json.dumps({"ms": times, "ranges": ranges}))


main()
