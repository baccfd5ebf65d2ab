"""What ``explain`` says: a finding code, an error code, or a fault line of Breenix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from breenix_gdbagent.aarch64.syndrome import Syndrome
from breenix_gdbagent.addresses import NEAR_NULL, canonical, counted, hex64
from breenix_gdbagent.checks.finding import CODES, Code
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.adapters import BREENIX
from breenix_gdbagent.kernel.breenix.layout import USER_LIMIT as END_OF_USERS
from breenix_gdbagent.report import pasted
from breenix_gdbagent.report.advice import ASSUMED, code_of, said_of
from breenix_gdbagent.report.faultline import (
    FAMILY,
    codes_of_page_fault,
    in_guard_page,
    page_fault_bits,
    page_fault_sentence,
    place_words,
    selector_words,
)
from breenix_gdbagent.report.page import Page
from breenix_gdbagent.report.pasted import FIRMWARE, LINUX, Fault, Names, Pasted, nobody
from breenix_gdbagent.report.syndromes import FROM, codes_of_syndrome, syndrome_sentence
from breenix_gdbagent.x86.exceptions import VECTORS

Answer = dict[str, Json]
_BY_NAME = {
    "#pf": "page-fault", "#df": "double-fault", "#gp": "general-protection",
    "#ud": "invalid-opcode", "#de": "divide-error",
}  # fmt: skip


def answer_code(name: str, scenarios: Sequence[str] = ()) -> Answer | None:
    """One code, with the lab scenarios that show it; None when there is no such code."""
    code = code_of(name, ASSUMED)
    return None if code is None else {"kind": "code", **_code_json(code), "lab": list(scenarios)}


def answer_family(name: str) -> Answer | None:
    """All codes of a family (``page-fault``, ``#PF``), None when there is no such family."""
    family = _BY_NAME.get(name.lower(), name)
    codes = [said_of(c, BREENIX) for c in CODES.values() if c.name.split(".")[0] == family]
    if not codes:
        return None
    return {"kind": "family", "name": family, "codes": [_code_json(c) for c in codes]}


def answer_all() -> Answer:
    """Every code there is, by family in the order of severity and name."""
    codes = sorted(
        (said_of(c, BREENIX) for c in CODES.values()), key=lambda c: (c.name.split(".")[0], c.name)
    )
    return {"kind": "list", "codes": [_code_json(c) for c in codes]}


def answer_number(value: int) -> Answer:
    """A number as the error code of a page fault, and as that of a selector; as ESR_EL1 of aarch64
    where it can only be that."""
    if value >> FROM:
        return answer_syndrome(value)
    return {
        "kind": "error_code",
        "error_code": hex64(value),
        "means": page_fault_sentence(value),
        "bits": list(page_fault_bits(value)),
        "codes": list(codes_of_page_fault(value)),
        "as_selector": selector_words(value),
    }


def answer_syndrome(value: int) -> Answer:
    """A number as ESR_EL1 of aarch64."""
    told = Syndrome(value)
    return {
        "kind": "syndrome",
        "esr": hex64(value),
        "ec": hex64(told.ec),
        "class": told.name,
        "means": syndrome_sentence(told),
        "fields": [{"field": field, "says": says} for field, says in told.lines],
        "codes": list(codes_of_syndrome(told)),
    }


def answer_text(text: str, names: Names = nobody, placed: str = "") -> Answer | None:
    """What was pasted, None when the text tells of no fault. `names` has the symbol of an address,
    and `placed` says by what it is known where the kernel was loaded."""
    found = pasted.read(text)
    if found.faults:
        answer = _answer_fault(found, names)
        notes = [*_strings(answer["notes"]), *([placed] if placed and answer["symbol"] else [])]
        return answer | {"notes": list[Json](notes)}
    if found.registers is not None:
        return _answer_registers(found, names)
    if found.messages:
        return {"kind": "messages", **_messages(found)}
    return None


def _answer_fault(text: Pasted, names: Names) -> Answer:
    last = text.faults[-1]
    first = text.faults[0]
    vector = VECTORS.get(last.vector if last.vector is not None else 14)
    means, bits, codes = _meaning(last)
    place = _place(last, last.address)
    if place is not None and last.vector == 14:
        codes = _sharper(last, codes)
    if last.source == FIRMWARE:
        codes = ["loader-fault", *codes]
    if last.vector == 8:
        codes = [*(("triple-fault",) if text.triple else ()), *_behind(text.faults), *codes]
    return {
        "kind": "fault",
        "source": last.source,
        "vector": last.vector,
        "name": None if vector is None else f"{vector.mnemonic} {vector.name}",
        "address": _hex(last.address),
        "address_is": place,
        "error_code": _hex(last.error_code),
        "rip": _hex(last.rip),
        "symbol": None if last.rip is None else names(last.rip),
        "image": last.image,
        "rsp": _hex(last.rsp),
        "rsp_is": _rsp_words(last),
        "handler_rsp": _hex(last.actual_rsp),
        "handler_rsp_is": None if last.actual_rsp is None else place_words(last.actual_rsp),
        "cr3": _hex(last.cr3),
        "means": means,
        "bits": list(bits),
        "notes": [*_notes(last), *_of_chain(text, first)],
        "codes": list(dict.fromkeys(codes)),
        "chain": _chain(text),
        **_messages(text),
    }


def _answer_registers(text: Pasted, names: Names) -> Answer:
    seen = text.registers
    assert seen is not None
    return {
        "kind": "registers",
        "source": seen.source,
        "rip": _hex(seen.rip),
        "symbol": None if seen.rip is None else names(seen.rip),
        "ring": None if seen.cs is None else seen.cs & 3,
        "rsp": _hex(seen.rsp),
        "rsp_is": _rsp_words(seen),
        "address": _hex(seen.address),
        "address_is": _place(seen, seen.address),
        "cr3": _hex(seen.cr3),
        **_messages(text),
    }


def _messages(text: Pasted) -> Answer:
    return {
        "messages": [
            {
                "text": one.text,
                "means": one.means,
                "code": one.code or None,
                "address": _hex(one.address),
                "address_is": None if one.address is None else place_words(one.address),
            }
            for one in text.messages
        ]
    }


_ANYBODYS = (FIRMWARE, LINUX)
"""Who prints faults of a kernel that is not laid out as Breenix is."""


def _place(found: Fault, va: int | None) -> str | None:
    """What an address is; by Breenix's layout where the kernel may be that."""
    if va is None or (found.vector == 8 and va < NEAR_NULL):
        return None  # of a double fault CR2 may be of long ago
    if found.source in _ANYBODYS and canonical(va) and va >= NEAR_NULL:
        return None
    return place_words(va)


def _rsp_words(found: Fault) -> str | None:
    """Where RSP is: what it would push next, where that is a guard page."""
    if found.rsp is None or found.source in _ANYBODYS or (found.cs or 0) & 3:
        return None
    return place_words(found.rsp if in_guard_page(found.rsp) else found.rsp - 8 & (1 << 64) - 1)


def _behind(faults: Sequence[Fault]) -> list[str]:
    """What a double fault rests on, by RSP and CR2 alone."""
    last = faults[-1]
    places = [p for p in (last.rsp, last.address) if p is not None]
    if last.source not in _ANYBODYS and any(map(in_guard_page, places)):
        return ["page-fault.guard-page"]
    if len(faults) > 1 and _at_the_stack(faults[0]):
        return ["page-fault.guard-page", "kernel-stack.unmapped"]
    if last.rsp is not None and last.address is not None and 0 < last.rsp - last.address <= 64:
        return ["kernel-stack.unmapped"]
    return []


def _chain(text: Pasted) -> list[Json]:
    """The exceptions as they followed from each other, where there is more than one."""
    steps: list[str] = []
    for fault in text.faults:
        nested = fault.old is not None and fault.vector == 8 and fault.old == 14
        if nested and fault.address is not None:
            steps.append(f"#PF at {hex64(fault.address)} while it was delivered")
        steps.append(_event(fault))
    if text.triple:
        steps.append("triple fault: the CPU shuts down")
    return [*steps] if len(steps) > 1 else []


def _event(fault: Fault) -> str:
    vector = VECTORS.get(fault.vector if fault.vector is not None else 14)
    name = "exception" if vector is None else vector.mnemonic
    code = "" if fault.error_code is None else f" e={hex64(fault.error_code)}"
    shown = fault.vector == 14 and fault.address is not None
    return f"{name}{code}" + (f" CR2={hex64(fault.address or 0)}" if shown else "")


def _of_chain(text: Pasted, first: Fault) -> Iterable[str]:
    """What a whole paste tells besides its last exception."""
    if text.left_out:
        yield f"{counted(text.left_out, 'exception')} of before not shown"
    last = text.faults[-1]
    if last.vector == 8:
        yield (
            "CR2 is of the last access that failed on the way, mostly the push of the first "
            "exception's frame; that one's own address is CR2 only where the two are the same"
        )
    if len(text.faults) > 1 and _at_the_stack(first):
        yield (
            f"the first fault, at {hex64(first.address or 0)}, is next to RSP "
            f"{hex64(first.rsp or 0)}: the stack had come to its end (an overflow), or is not "
            "mapped"
        )


def _at_the_stack(found: Fault) -> bool:
    """Whether the fault was next to RSP, as a push or a local variable is."""
    if found.address is None or found.rsp is None or found.vector != 14:
        return False
    return abs(found.address - found.rsp) < 0x1000


def answer_unknown(text: str) -> Answer:
    """Nothing of that name, and what may have been meant."""
    near = difflib.get_close_matches(text[:64].lower(), CODES, 3, 0.5)
    return {"kind": "unknown", "text": text, "near": list(near)}


def _code_json(code: Code) -> Answer:
    return {
        "code": code.name,
        "severity": code.severity,
        "title": code.title,
        "arises": code.arises,
        "confirm": code.confirm,
        "mend": code.mend,
        "see": list(BREENIX.advice_for(code.name).see),
    }


def _hex(value: int | None) -> str | None:
    return None if value is None else hex64(value)


def _meaning(found: Fault) -> tuple[str | None, list[str], list[str]]:
    code = found.error_code
    if found.vector == 14:
        if code is None:
            return None, [], ["page-fault.unmapped"]
        open_ = [c for c in codes_of_page_fault(code) if _possible(found, c)]
        return page_fault_sentence(code), page_fault_bits(code), open_
    family = [FAMILY[found.vector]] if found.vector in FAMILY else []
    if found.vector == 8:
        return (
            "an exception could not be delivered; RIP and RSP are those of that first one, and the "
            "error code is always 0",
            [],
            family,
        )
    return (None if code is None else selector_words(code)), [], family


def _sharper(found: Fault, codes: list[str]) -> list[str]:
    """What the address says beyond the error code."""
    place = place_words(found.address or 0) or ""
    first: list[str] = []
    if "null pointer" in place:
        first = ["page-fault.null"]
    elif "guard page" in place or "overflowed" in place:
        first = ["page-fault.guard-page", "kernel-stack.overflow"]
    elif "kernel stack slot" in place:
        first = ["kernel-stack.unmapped"]
    elif "IST stack of" in place:
        first = ["ist.unmapped"]
    elif "user stacks" in place and (found.error_code or 0) & 5 == 4:
        first = ["page-fault.handled"]
    return first + [c for c in codes if c not in first and c in CODES]


def _possible(found: Fault, code: str) -> bool:
    """Whether the address allows what the error code leaves open."""
    va = found.address
    if va is None:
        return True
    if found.source in _ANYBODYS and code in ("page-fault.guard-page", "page-fault.handled"):
        return code == "page-fault.guard-page" and _at_the_stack(found)
    if code == "page-fault.null":
        return va < NEAR_NULL
    return code != "page-fault.guard-page" or va >= END_OF_USERS or in_guard_page(va)


def _notes(found: Fault) -> Iterable[str]:
    """What does not fit together, or is worth knowing."""
    code = found.error_code
    if found.vector != 14 or code is None:
        return
    ring = None if found.cs is None else found.cs & 3
    if ring == 3 and not code & 4:
        yield (
            "CS is of ring 3 but U=0: the CPU itself accessed memory (pushing a frame, reading a "
            "descriptor), so a stack or table of the kernel is not mapped there"
        )
    if ring == 0 and code & 4:
        yield "CS is of ring 0 but U=1: the two are not of one fault"
    if found.rip is not None and found.rip == found.address:
        yield "the address is RIP: the fetch itself failed (a jump to nowhere, or no-execute)"
    if code & 7 == 7:
        yield (
            "in 2026 this is also ordinary copy-on-write (PTE bit 9 set, W clear): handled, "
            "unless the page has no COW mark"
        )
    if found.address is not None and found.address & 0xFFFF_FFFF == 0 and found.address:
        yield "the low half of the address is 0: a base without its offset"


def text_of(answer: Answer, width: int = 96) -> str:
    """An answer for people."""
    page = Page(width)
    draw = {
        "code": _draw_code, "family": _draw_codes, "list": _draw_codes,
        "error_code": _draw_number, "syndrome": _draw_syndrome, "fault": _draw_fault,
        "unknown": _draw_unknown,
        "registers": _draw_registers, "messages": _draw_messages,
    }[str(answer["kind"])]  # fmt: skip
    draw(page, answer)
    return str(page)


def _strings(value: Json) -> list[str]:
    return [str(v) for v in value] if isinstance(value, Sequence) else []


def _draw_code(page: Page, answer: Answer) -> None:
    page.text(f"{answer['code']}  ({answer['severity']}): {answer['title']}", "", "  ")
    for head, key in (("How it arises", "arises"), ("How to confirm", "confirm"),
                      ("How to mend", "mend")):  # fmt: skip
        page.blank()
        page.line(f"{head}:")
        page.text(str(answer[key]), "  ")
    see = _strings(answer["see"])
    if see:
        page.blank()
        page.text(f"See: {', '.join(see)}", "", "  ")
    lab = _strings(answer.get("lab"))
    if lab:
        page.blank()
        page.text(f"See it happen: breenix-gdbagent ci --lab {lab[0]}", "", "  ")
        if lab[1:]:
            page.text(f"also: {', '.join(lab[1:])}", "  ", "    ")


def _draw_codes(page: Page, answer: Answer) -> None:
    codes = answer["codes"]
    assert isinstance(codes, Sequence)
    rows = [c for c in codes if isinstance(c, dict)]
    left = max(len(str(c["code"])) for c in rows)
    family = ""
    for row in rows:
        mine = str(row["code"]).split(".")[0]
        if family and mine != family and answer["kind"] == "list":
            page.blank()
        family = mine
        head = f"{row['code']!s:<{left}}  {row['severity']!s:<7}  "
        page.text(head + str(row["title"]), "", " " * len(head))


def _draw_number(page: Page, answer: Answer) -> None:
    page.text(f"{answer['error_code']} of a page fault: {answer['means']}", "", "  ")
    for bit in _strings(answer["bits"]):
        page.text(bit, "  ", "     ")
    page.text(f"finding codes: {', '.join(_strings(answer['codes']))}", "  ", "    ")
    page.text(f"of #GP, #NP, #SS or #TS it would mean: {answer['as_selector']}", "", "  ")


def _draw_syndrome(page: Page, answer: Answer) -> None:
    page.text(f"{answer['esr']} in ESR_EL1: {answer['means']}", "", "  ")
    for one in cast("Sequence[Mapping[str, Json]]", answer["fields"]):
        page.text(f"{one['field']:<6} {one['says']}", "  ", "         ")
    if codes := _strings(answer["codes"]):
        page.text(f"finding codes: {', '.join(codes)}", "  ", "    ")


def _draw_fault(page: Page, answer: Answer) -> None:
    said = f": {answer['means']}" if answer["means"] else ""
    code = f", error code {answer['error_code']}" if answer["error_code"] else ""
    by = "" if answer["source"] == "the kernel" else f" (as {answer['source']} has it)"
    page.text(f"{answer['name'] or 'exception'}{code}{by}{said}", "", "  ")
    chain = _strings(answer["chain"])
    if chain:
        page.text(" -> ".join(chain), "  ", "    ")
    if answer["rip"]:
        name = f" <{answer['symbol']}>" if answer["symbol"] else ""
        file = f" in {answer['image']}" if answer["image"] else ""
        page.text(f"at RIP {answer['rip']}{name}{file}", "  ", "    ")
    if answer["address"]:
        place = f": {answer['address_is']}" if answer["address_is"] else ""
        head = "address" if answer["vector"] == 14 else "CR2"
        page.text(f"{head} {answer['address']}{place}", "  ", "    ")
    if answer["rsp_is"]:
        page.text(f"RSP {answer['rsp']}: {answer['rsp_is']}", "  ", "    ")
    if answer["handler_rsp_is"]:
        where = f"RSP {answer['handler_rsp']}: {answer['handler_rsp_is']}"
        page.text(f"its handler has {where}", "  ", "    ")
    for bit in _strings(answer["bits"]):
        page.text(bit, "  ", "     ")
    for note in _strings(answer["notes"]):
        page.text(f"note: {note}", "  ", "    ")
    for code_name in _strings(answer["codes"])[:3]:
        known = code_of(code_name, "none" if answer["source"] in _ANYBODYS else ASSUMED)
        if known is not None:
            page.blank()
            page.line(f"{known.name}: {known.title}")
            page.text(known.arises, "  ")
            page.text(f"Confirm: {known.confirm}", "  ", "    ")
    _draw_said(page, answer)
    walk = f"pt walk {answer['address']}" if answer["address"] else "audit"
    root = f" --root {answer['cr3']}" if answer["cr3"] and answer["address"] else ""
    page.blank()
    page.text(
        "Proof needs the machine at that moment: breenix-gdbagent snapshot -o FILE ..., then "
        f"report FILE, and {walk}{root} --snapshot FILE",
        "",
        "  ",
    )


def _draw_registers(page: Page, answer: Answer) -> None:
    name = f" <{answer['symbol']}>" if answer["symbol"] else ""
    ring = "" if answer["ring"] is None else f", ring {answer['ring']}"
    page.text(f"no exception, registers as {answer['source']} has them: RIP {answer['rip']}{name}"
              f"{ring}", "", "  ")  # fmt: skip
    for head, key in (("RSP", "rsp"), ("CR2", "address")):
        if answer[key] and answer[f"{key}_is"]:
            page.text(f"{head} {answer[key]}: {answer[f'{key}_is']}", "  ", "    ")
    if answer["address"]:
        page.text("CR2 is of the last page fault, whenever that was", "  ", "    ")
    _draw_said(page, answer)


def _draw_messages(page: Page, answer: Answer) -> None:
    _draw_said(page, answer)


def _draw_said(page: Page, answer: Answer) -> None:
    """Messages besides the exception, each with its finding code."""
    messages = answer["messages"]
    assert isinstance(messages, Sequence)
    for one in messages:
        assert isinstance(one, dict)
        page.text(f"{one['text']}", "", "  ")
        page.text(str(one["means"]), "  ", "    ")
        if one["address_is"]:
            page.text(f"{one['address']}: {one['address_is']}", "  ", "    ")
        known = CODES.get(str(one["code"]))
        if known is not None:
            page.text(f"{known.name}: {known.title}. {known.arises}", "  ", "    ")
            page.text(f"Confirm: {known.confirm}", "  ", "    ")


def _draw_unknown(page: Page, answer: Answer) -> None:
    near, text = _strings(answer["near"]), str(answer["text"])
    first, *more = text.splitlines() or [""]
    shown = first if len(first) <= pasted.LONGEST_SHOWN else first[: pasted.LONGEST_SHOWN] + "..."
    if more or shown != first:
        page.line(
            f"no fault of a shape that is known in {counted(len(more) + 1, 'line')} of text, the "
            f"first of which is: {shown}"
        )
        return
    page.line(f"no finding code, error code or fault line: {shown}")
    page.line(
        f"did you mean {', '.join(near)}?"
        if near
        else "every code: breenix-gdbagent explain --list"
    )
