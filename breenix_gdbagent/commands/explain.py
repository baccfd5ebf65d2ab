"""``explain``: a finding code, an error code, or a fault line of Breenix."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.report.pasted import Names, nobody

MOST_TEXT = 1 << 20


def run(name: str, argv: list[str]) -> int:
    """``explain CODE|ERRORCODE|TEXT``, ``explain -`` reads the text, ``explain --list``."""
    options = build(name).parse_args(argv)
    text = " ".join(options.what).strip()
    if options.list == bool(text):
        raise InputError(
            "explain takes a code, an error code or a text" if not text else "--list and a text",
            fix="breenix-gdbagent explain page-fault.unmapped, explain 0x6, or explain --list",
        )
    if text == "-":
        text = sys.stdin.read(MOST_TEXT).strip()
    from breenix_gdbagent.report import explain

    if options.list:
        all_codes()
        answer = explain.answer_all()
    else:
        answer = _answer(text, options.kernel)
    if options.json:
        print_json(answer)
    else:
        sys.stdout.write(explain.text_of(answer))
    return int(answer["kind"] == "unknown")


def build(name: str) -> Parser:
    """The options of `explain`."""
    parser = Parser("breenix-gdbagent explain")
    parser.add_argument("what", nargs="*", metavar="CODE|ERRORCODE|TEXT", help="- reads stdin")
    parser.add_argument("--list", action="store_true", help="every finding code")
    parser.add_argument("--kernel", type=Path, metavar="ELF", help="names the code in a text")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _answer(text: str, kernel: Path | None) -> dict[str, Json]:
    """The first reading of `text` that makes sense."""
    from breenix_gdbagent.lab import scenarios
    from breenix_gdbagent.report import explain

    number = parse_number(text) if " " not in text else None
    if number is not None:
        if number >> 32:
            raise InputError(f"{text} is no error code", "an error code has 32 bits")
        return explain.answer_number(number)
    all_codes()
    shown = [s.name for s in scenarios().values() if text in s.codes]
    if (code := explain.answer_code(text, shown)) is not None:
        return code
    names, placed = (nobody, "") if kernel is None else _names(kernel, text)
    if (fault := explain.answer_text(text, names, placed)) is not None:
        return fault
    if (family := explain.answer_family(text)) is not None:
        return family
    return explain.answer_unknown(text)


_OFFSET = re.compile(r"virtual_address_offset: *(0x[0-9a-f]+)")
"""What the bootloader crate prints of where it loads a position-independent kernel."""


def _names(path: Path, text: str) -> tuple[Names, str]:
    """The names that a kernel's ELF has for addresses of `text`, and by what it is known where that
    was loaded: the one place it is linked to, the bootloader's word, or the first address of code
    that has a name there. Raises `InputError` for what is no kernel."""
    from breenix_gdbagent.live.elfcode import SLOTS
    from breenix_gdbagent.symbols import Image
    from breenix_gdbagent.x86.paging import slot_start

    image = Image.open(path)
    if not image.relocatable:
        return image.loaded(0).name_of, ""
    said = _OFFSET.search(text)
    if said is not None:
        return image.loaded(int(said[1], 16)).name_of, ""
    for number in re.findall(r"\b(?:RIP|[Ii]nstruction_pointer|IP)\b\D{0,16}?(0x[0-9a-f]+)", text):
        for slot in SLOTS:
            loaded = image.loaded(slot_start(slot))
            if loaded.name_of(int(number, 16)) is not None:
                where = f"names as if {path.name} was loaded at {hex64(loaded.bias)}"
                return loaded.name_of, f"{where}, which the text does not say"
    return image.loaded(0).name_of, ""
