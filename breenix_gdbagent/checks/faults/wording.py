"""How the findings of this package say things: who, what, where, in words and as JSON."""

from __future__ import annotations

import re

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.faults.address_kind import in_image
from breenix_gdbagent.cpumodel.context import Context
from breenix_gdbagent.cpumodel.instruction import Instruction
from breenix_gdbagent.errors import ReadError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.exceptions import SelectorCode
from breenix_gdbagent.x86.paging import LEVEL, Walk

_OFFSET = re.compile(r"\+0x[0-9a-f]+$")
_ERROR_BITS = (
    (0, "P", "a page was there and refused it", "no page was there"),
    (1, "W", "it was a write", "it was no write"),
    (2, "U", "it was made as ring 3", "it was made as ring 0"),
    (3, "RSVD", "an entry has reserved bits set", ""),
    (4, "I", "it was an instruction fetch", ""),
    (5, "PK", "a protection key forbade it", ""),
    (6, "SS", "it was a shadow-stack access", ""),
    (15, "SGX", "SGX forbade it", ""),
)


def error_bits(error_code: int) -> list[Json]:
    """A page-fault error code bit by bit (SDM vol. 3, figure 4-12): what is set, and P, W, U
    also when they are clear."""
    words: list[Json] = []
    for bit, name, yes, no in _ERROR_BITS:
        if error_code >> bit & 1:
            words.append(f"{name}=1: {yes}")
        elif no:
            words.append(f"{name}=0: {no}")
    return words


def selector_error(error_code: int) -> str:
    """A selector error code in words (SDM vol. 3, 6.13): table, index, external."""
    if error_code == 0:
        return "error code 0: no selector is to blame"
    code = SelectorCode(error_code)
    external = ", met while delivering another event (EXT)" if code.external else ""
    if code.table == "idt":
        return f"error code {hex64(error_code)}: IDT entry {code.index}{external}"
    table, selector = code.table.upper(), hex64(code.selector)
    place = f"{table} entry {code.index} (selector {selector})"
    return f"error code {hex64(error_code)}: {place}{external}"


def walk_text(walk: Walk) -> str:
    """The walk drawn, a line a level, and where it ended."""
    lines = [
        f"{LEVEL[e.level].name:<5}[{(e.entry_pa & 0xFFF) // 8:>3}] at {hex64(e.entry_pa)} = "
        f"{hex64(e.raw)}  {' '.join(e.flags) or '-'}"
        for e in walk.entries
    ]
    if walk.pa is not None and walk.effective is not None:
        may = walk.effective
        rights = ("W" if may.w else "-") + ("U" if may.u else "-") + ("-" if may.nx else "X")
        lines.append(f"-> {hex64(walk.pa)}, over all levels {rights}")
    elif walk.stopped_at is not None:
        lines.append(f"-> ends at the {LEVEL[walk.stopped_at].name}: {walk.reason}")
    else:
        lines.append(f"-> {walk.reason}")
    return "\n".join(lines)


def who(kernel: Kernel, context: Context) -> str:
    """Who ran: ``process init (pid 1) in ring 3``, ``the kernel in the space of init (pid 1)``."""
    space = kernel.space_of(context.root)
    label = space.label if space is not None else f"the space {hex64(context.root)}"
    if context.cpl == 3:
        named = space is not None and space.name is not None
        return f"process {label} in ring 3" if named else f"{label} in ring 3"
    if space is not None and space.role == "master":
        return "the kernel"
    if space is not None and space.role == "boot":
        return f"the kernel on {label}"
    return f"the kernel in the space of {label}"


def at(kernel: Kernel, context: Context) -> str:
    """RIP with its symbol."""
    return kernel.describe(context.rip)


def subject(kernel: Kernel, context: Context) -> str:
    """The stable name of what faulted: the process for ring 3, the kernel's function, or what
    is known instead. Without addresses."""
    space = kernel.space_of(context.root)
    if context.cpl == 3:
        return space.subject if space is not None else "ring 3"
    name = kernel.symbol(context.rip)
    if name is not None:
        return _OFFSET.sub("", name)
    return "kernel" if in_image(kernel, context.rip) or space is None else f"kernel/{space.subject}"


def frame_json(context: Context) -> dict[str, Json]:
    """The interrupted context as evidence."""
    return {
        "rip": hex64(context.rip),
        "cs": hex64(context.cs),
        "rflags": hex64(context.rflags),
        "rsp": hex64(context.rsp),
        "ss": hex64(context.ss),
    }


def sentence(*parts: str) -> str:
    """The parts that say something as one paragraph, each beginning with a capital."""
    return " ".join(p[0].upper() + p[1:] for p in parts if p)


def hints(kernel: Kernel, context: Context, walk: Walk | None = None) -> dict[str, Json]:
    """What else is remarkable about the interrupted context: a ring that does not fit the place,
    text where code should be, and who seems to have called when RIP itself leads nowhere."""
    kernel, found = kernel, dict[str, Json]()
    if text := text_at(context):
        found["text_at_rip"] = text
    if context.cpl == 3 and in_image(kernel, context.rip):
        found["ring_mismatch"] = f"ring 3 runs at {kernel.describe(context.rip)}, in the kernel"
    here = kernel.walk(context.root, context.rip).effective
    if context.cpl == 0 and here is not None and here.u:
        found["ring_mismatch"] = f"ring 0 runs at {hex64(context.rip)}, in memory of a process"
    if context.cpl == 0 and walk is not None and walk.va == context.rip:
        try:
            back = int.from_bytes(context.read(context.rsp, 8), "little")
        except ReadError:
            return found
        if in_image(kernel, back):
            found["return_address"] = kernel.describe(back)
    return found


def text_at(context: Context) -> str:
    """The text that RIP stands in, empty when it is none: a program that ran on past its end into
    its strings. Code can be printable too (``AWAVAUATUSH``), so small letters are asked for."""
    try:
        raw = context.read(context.rip, 24)
    except ReadError:
        return ""
    end = next((i for i, byte in enumerate(raw) if not 0x20 <= byte < 0x7F), len(raw))
    text = raw[:end].decode("ascii")
    return text if sum(c.islower() for c in text) >= 6 else ""


def facts(kernel: Kernel, context: Context, instruction: Instruction | None) -> dict[str, Json]:
    """What every finding about a fault has: where, in which ring and space, by what instruction."""
    space = kernel.space_of(context.root)
    return {
        "ring": context.cpl,
        "rip": hex64(context.rip),
        "symbol": kernel.symbol(context.rip),
        "instruction": instruction.text if instruction is not None else None,
        "process": space.label if space is not None else None,
        "cr3": hex64(context.root),
        "frame": frame_json(context),
    }
