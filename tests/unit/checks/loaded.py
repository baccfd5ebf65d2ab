"""A stop at a page fault of a kernel whose ELF is known, some of its code changed in memory."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from breenix_gdbagent.stop import Stop
from breenix_gdbagent.symbols import Image
from tests.writers.elf import ET_EXEC, Elf, Sec, Sym, text
from tests.writers.machine import TEXT, Machine

NOWHERE = 0x5000_0000
SIZE = 0x1000
WRITES = b"\0\0"
"""``add [rax], al``, which the code begins with."""
CODE = WRITES + random.Random(19).randbytes(SIZE - len(WRITES))
CALL_AT = 0x800
"""Where the code has a call, so that a return address leads behind it."""
_CALL = b"\xe8\x00\x01\x00\x00"


def image(*sections: str, kind: int = ET_EXEC, code: bytes = CODE) -> Image:
    """The ELF of that code, with sections of those names besides."""
    code = code[:CALL_AT] + _CALL + code[CALL_AT + len(_CALL) :]
    others = [Sec(name, b"x") for name in sections]
    elf = Elf([text(code, TEXT), *others], [Sym("kernel_main", TEXT, SIZE)], type=kind)
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "kernel.elf"
        path.write_bytes(elf.build())
        return Image.open(path)


def overwritten(m: Machine, at: int, data: bytes, elf: Image | None = None, va: int = TEXT) -> Stop:
    """`data` stands at offset `at` of the code; at `va` it has written to an address that is not
    mapped: ``add [rax], al``."""
    shown = image() if elf is None else elf
    code = image().read(TEXT, SIZE) or b""
    m.write(TEXT, code)
    m.write(va, WRITES)
    m.write(TEXT + at, data)
    stop = m.fault(14, va, ring=0, error=2, cr2=NOWHERE, rax=NOWHERE)
    return stop._replace(image=shown.loaded(0))
