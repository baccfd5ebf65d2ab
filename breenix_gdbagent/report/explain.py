"""What ``explain`` says: a finding code, an error code, or a fault line of Breenix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.finding import CODES, Code
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.adapters import BREENIX
from breenix_gdbagent.report.advice import ASSUMED, code_of, said_of
from breenix_gdbagent.report.faultline import (
    FAMILY,
    FaultLine,
    codes_of_page_fault,
    page_fault_bits,
    page_fault_sentence,
    parse,
    place_words,
    selector_words,
)
from breenix_gdbagent.report.page import Page
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
    """A number as the error code of a page fault, and as that of a selector."""
    return {
        "kind": "error_code",
        "error_code": hex64(value),
        "means": page_fault_sentence(value),
        "bits": list(page_fault_bits(value)),
        "codes": list(codes_of_page_fault(value)),
        "as_selector": selector_words(value),
    }


def answer_text(text: str) -> Answer | None:
    """A pasted fault, None when the text tells of none."""
    found = parse(text)
    if found is None:
        return None
    vector = VECTORS.get(found.vector if found.vector is not None else 14)
    means, bits, codes = _meaning(found)
    place = None if found.address is None else place_words(found.address)
    if place is not None and found.vector == 14:
        codes = _sharper(found, codes)
    return {
        "kind": "fault",
        "vector": found.vector,
        "name": None if vector is None else f"{vector.mnemonic} {vector.name}",
        "address": _hex(found.address),
        "address_is": place,
        "error_code": _hex(found.error_code),
        "rip": _hex(found.rip),
        "cr3": _hex(found.cr3),
        "means": means,
        "bits": list(bits),
        "notes": list(_notes(found)),
        "codes": list(codes),
    }


def answer_unknown(text: str) -> Answer:
    """Nothing of that name, and what may have been meant."""
    near = difflib.get_close_matches(text.lower(), CODES, 3, 0.5)
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


def _meaning(found: FaultLine) -> tuple[str | None, list[str], list[str]]:
    code = found.error_code
    if found.vector == 14:
        if code is None:
            return None, [], ["page-fault.unmapped"]
        return page_fault_sentence(code), page_fault_bits(code), codes_of_page_fault(code)
    family = [FAMILY[found.vector]] if found.vector in FAMILY else []
    if found.vector == 8:
        return (
            "an exception could not be delivered; RIP, RSP and CR2 are those of that first one, "
            "and the error code is always 0",
            [],
            family,
        )
    return (None if code is None else selector_words(code)), [], family


def _sharper(found: FaultLine, codes: list[str]) -> list[str]:
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


def _notes(found: FaultLine) -> Iterable[str]:
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
        "error_code": _draw_number, "fault": _draw_fault, "unknown": _draw_unknown,
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


def _draw_fault(page: Page, answer: Answer) -> None:
    said = f": {answer['means']}" if answer["means"] else ""
    code = f", error code {answer['error_code']}" if answer["error_code"] else ""
    page.text(f"{answer['name'] or 'exception'}{code}{said}", "", "  ")
    if answer["address"]:
        place = f": {answer['address_is']}" if answer["address_is"] else ""
        page.text(f"address {answer['address']}{place}", "  ", "    ")
    for bit in _strings(answer["bits"]):
        page.text(bit, "  ", "     ")
    for note in _strings(answer["notes"]):
        page.text(f"note: {note}", "  ", "    ")
    for code_name in _strings(answer["codes"])[:3]:
        known = code_of(code_name, ASSUMED)
        if known is not None:
            page.blank()
            page.line(f"{known.name}: {known.title}")
            page.text(known.arises, "  ")
            page.text(f"Confirm: {known.confirm}", "  ", "    ")
    walk = f"pt walk {answer['address']}" if answer["address"] else "audit"
    root = f" --root {answer['cr3']}" if answer["cr3"] and answer["address"] else ""
    page.blank()
    page.text(
        "Proof needs the machine at that moment: breenix-gdbagent snapshot -o FILE ..., then "
        f"report FILE, and {walk}{root} --snapshot FILE",
        "",
        "  ",
    )


def _draw_unknown(page: Page, answer: Answer) -> None:
    near = _strings(answer["near"])
    page.line(f"no finding code, error code or fault line: {answer['text']}")
    page.line(
        f"did you mean {', '.join(near)}?"
        if near
        else "every code: breenix-gdbagent explain --list"
    )
