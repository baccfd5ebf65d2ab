"""What `lint` found, as a terminal and as JSON have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.entrycode.lint import Defect, Lint, Read
from breenix_gdbagent.jsonvalue import Json

_FIX = {
    "written": "do it before the registers are restored, or save and restore what it writes",
    "called": "call it before the registers are restored, or save what a call may change",
    "swapped": "restore in the opposite order of saving",
    "not-saved": "save it first and restore it last",
    "not-restored": "restore on this path what was saved",
    "unbalanced": "pop on every path what was pushed",
    "misaligned": "push one word more, or take 8 off RSP, before the call",
    "swapgs": "swapgs on the way out exactly where it was done on the way in",
    "cld": "cld before the first call",
}


def lint_json(found: Lint) -> list[Json]:
    """``lint --json``: one object a defect."""
    return [
        {
            "symbol": one.symbol,
            "offset": one.offset,
            "address": hex64(one.address),
            "file": one.file,
            "line": one.line,
            "kind": one.kind,
            "what": what(one),
            "registers": list(one.registers),
            "entries": list(one.entries),
            "rings": list(one.rings),
            "code": one.code,
            "fix": _FIX[one.kind],
        }
        for one in found.defects
    ]


def lint_text(found: Lint) -> str:
    """What is wrong, and what was read."""
    lines = [line for one in found.defects for line in _defect(one)]
    lines += [
        f"{counted(len(found.defects), 'defect')} in {counted(len(found.read), 'entry', 'entries')}"
    ]
    lines += [f"  {_entry(one)}" for one in found.read]
    return "\n".join(lines) + "\n"


def _defect(one: Defect) -> Iterator[str]:
    place = f"{one.symbol}+{one.offset:#x}"
    if one.file is not None:
        place += f"  {one.file}:{one.line or '?'}"
    yield f"{place}  {one.code}"
    yield f"  {what(one)}"
    if one.entries != (one.symbol,):
        yield f"  on the way of {', '.join(one.entries)}"
    yield f"  {_FIX[one.kind]}"
    yield ""


def _entry(one: Read) -> str:
    text = f"{one.symbol}: {one.role}, {counted(one.instructions, 'instruction')}"
    for place, why in one.unread:
        text += f"; not read beyond {place}: {why}"
    return text


def what(one: Defect) -> str:
    """What is wrong, in one sentence."""
    registers = _listed(one.registers)
    back = _rings(one.rings)
    match one.kind:
        case "written":
            return f"writes {registers} behind the last restore: the value is lost{back}"
        case "called":
            callee = one.callee or "what a register holds"
            text = f"calls {callee} behind the last restore, which may change {registers}{back}"
            return text + ("; as it stands in this ELF it changes none" if one.spares else "")
        case "swapped":
            return f"loads {registers} with what was saved of another register{back}"
        case "not-saved":
            return f"writes {registers}, which was not saved: the value is lost{back}"
        case "not-restored":
            return f"leaves without restoring {registers}, which was saved{back}"
        case "unbalanced":
            return _unbalanced(one, registers)
        case "misaligned":
            text = f"calls with RSP {one.amount} bytes off a multiple of 16, against the ABI"
            return text + (f"; so do {one.more} more calls of this function" if one.more else "")
        case "swapgs":
            return f"leaves with the other GS base: swapgs does not pair{back}"
        case "cld":
            return "runs compiled code with the interrupted program's direction flag: no cld before"


def _unbalanced(one: Defect, registers: str) -> str:
    where = "left on" if one.amount < 0 else "too many taken off"
    lost = f", and without restoring {registers}" if one.registers else ""
    return f"leaves with {abs(one.amount)} bytes {where} the stack{lost}"


def _listed(registers: Sequence[str]) -> str:
    return ", ".join(registers)


def _rings(rings: Sequence[int]) -> str:
    """Where it is lost to."""
    if not rings:
        return ""
    return f" (on the way back to {' and '.join(f'ring {ring}' for ring in rings)})"
