"""Which instruction loaded the root that a CPU is on, as far as its frames still show it."""

from __future__ import annotations

from breenix_gdbagent.arch.cpu import Cpu
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.kernel import trace
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.symbols.backtrace import Frame

MOST_FRAMES = 8
MOST_BYTES = 1 << 14


def last_load(kernel: Kernel, cpu: Cpu) -> tuple[int, Frame | None] | None:
    """The address of the last ``mov cr3`` before a frame's place in its own function, of the
    innermost frame that has one, and the frame that called it. None where no frame shows one; that
    it was this one that ran is likely, not proved: a branch may lie between."""
    try:
        frames = trace.of_cpu(kernel, cpu).frames
    except ReadError:
        return None
    for number, frame in enumerate(frames[:MOST_FRAMES]):
        found = None if frame.ring else _load_in(kernel, frame)
        if found is not None:
            callers = [f for f in frames[number + 1 :] if not f.ring]
            return found, callers[0] if callers else None
    return None


def _load_in(kernel: Kernel, frame: Frame) -> int | None:
    """The last ``mov cr3`` of a frame's function before where it stands."""
    symbol, image = frame.symbol, kernel.stop.image
    if symbol is None or image is None or not 0 < symbol.offset < MOST_BYTES:
        return None
    from breenix_gdbagent.x86.disassembler import disassemble

    start = int(frame.pc) - symbol.offset
    code = image.image.read(image.link(start), symbol.offset)
    if code is None:
        return None
    loads = [
        one.address
        for one in disassemble(code, start, symbol.offset)
        if one.mnemonic == "mov" and one.operands.startswith("cr3,")
    ]
    return loads[-1] if loads else None
