"""Memory in gdb's formats: ``x``, ``xp``; ``search``; ``telescope``, which follows pointers."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import PhysAddr, hex64
from breenix_gdbagent.commands.shell.line import Line, count_of, parser_of
from breenix_gdbagent.commands.shell.looking import address_of
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.errors import InputError, ReadError
from breenix_gdbagent.report.numbers import LETTERS, formatted

if TYPE_CHECKING:
    from breenix_gdbagent.kernel.view import Kernel

SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
MOST = 4096
LONGEST_TEXT = 256
CHAIN = 4
"""Pointers that `telescope` follows from one word."""
HITS = 100
_FORM = re.compile(rf"(\d*)([{LETTERS}is]|[bhwg])?([{LETTERS}is]|[bhwg])?\Z")
Read = Callable[[int, int], bytes]


def do_x(session: Session, line: Line) -> int:
    with session.while_stopped():
        kernel = session.view
        root = session.root or kernel.stop.cpu.root
        if root is None or kernel.stop.cpu.paging is None:
            raise ReadError(kernel.stop.no_paging)
        return _examine(session, line, kernel.memory_of(root).read, kernel.symbol, "va")


def do_xp(session: Session, line: Line) -> int:
    """The same by physical address."""
    with session.while_stopped():
        memory = session.kernel.stop.memory
        return _examine(
            session, line, lambda pa, n: memory.read(PhysAddr(pa), n), lambda pa: None, "pa"
        )


def _examine(
    session: Session, line: Line, read: Read, named: Callable[[int], str | None], space: str
) -> int:
    count, letter, size = _form(session, line.form)
    if line.text:
        at = address_of(session, line.text)
    elif space in session.examined:
        at = session.examined[space]
    else:
        raise InputError(f"{line.command.name} of what?", fix=f"see: help {line.command.name}")
    show = {"i": _instructions, "s": _texts}.get(letter)
    if show is not None:
        rows, behind = show(session, read, at, count)
        print("\n".join(rows))
    else:
        behind = _numbers(read, named, at, count, letter, size)
    session.examined[space] = behind
    return 0


def _form(session: Session, form: str) -> tuple[int, str, int]:
    """(count, letter, bytes) of ``4gx``; what is not said is as it was the last time."""
    found = _FORM.match(form)
    if found is None:
        raise InputError(
            f"/{form} is no format", "a count, a format and a size: x/4gx, x/10i, x/s",
            f"formats: {' '.join(LETTERS)} i s; sizes: b h w g",
        )  # fmt: skip
    count = int(found[1] or 1)
    if not 0 < count <= MOST:
        raise InputError(f"{count} are not shown at once", fix=f"1 to {MOST}")
    letter, size = session.format
    for one in (found[2], found[3]):
        if one in SIZES:
            size = SIZES[one]
        elif one:
            letter = one
            size = 8 if one == "a" else size
    session.format = (letter, size)
    return count, letter, size


def _numbers(
    read: Read, named: Callable[[int], str | None], at: int, count: int, letter: str, size: int
) -> int:
    """Rows of 16 bytes, as gdb has them: what can be read is shown before what cannot."""
    per_row = 1 if letter == "a" else 16 // size
    shown = "z" if letter == "x" else letter
    for first in range(0, count, per_row):
        row = at + first * size
        many = min(per_row, count - first)
        data = read(row, many * size)
        words = [int.from_bytes(data[n : n + size], "little") for n in range(0, len(data), size)]
        cells = [formatted(w, shown, size, named(w) if letter == "a" else None) for w in words]
        print(f"{_place(row, named)}:\t" + "\t".join(cells))
    return at + count * size


def _place(at: int, named: Callable[[int], str | None]) -> str:
    name = named(at)
    return f"{hex64(at)} <{name}>" if name else hex64(at)


def _instructions(session: Session, read: Read, at: int, count: int) -> tuple[list[str], int]:
    from breenix_gdbagent.views.instructions import instructions

    arch = session.view.arch
    found = instructions(arch, read, at, count)
    rip = session.evaluation.register(arch.names.pc)
    rows = [
        f"{'=>' if one.address == rip else '  '} "
        f"{_place(one.address, session.view.symbol)}:\t{one.text}"
        for one in found
    ]
    return rows, found[-1].address + len(found[-1].raw)


def _texts(session: Session, read: Read, at: int, count: int) -> tuple[list[str], int]:
    rows = []
    for _ in range(count):
        text = _text_at(read, at, LONGEST_TEXT)
        rows.append(f'{_place(at, session.view.symbol)}:\t"{_escaped(text)}"')
        at += len(text) + 1
    return rows, at


def _text_at(read: Read, at: int, most: int) -> bytes:
    """The bytes up to a NUL. Raises `ReadError` where not even the first is there."""
    found = b""
    while len(found) < most:
        byte = read(at + len(found), 1)
        if byte == b"\0":
            break
        found += byte
    return found


def _escaped(text: bytes) -> str:
    return "".join(
        chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in text
    )


# search -----------------------------------------------------------------------------------------


def do_search(session: Session, line: Line) -> int:
    """Text in quotes, bytes as ``48 8b 05`` or a pointer; exit code 1 where there is none."""
    from breenix_gdbagent.views.roots import root_of
    from breenix_gdbagent.views.search import in_ram, in_space

    parser = parser_of(line)
    parser.add_argument("what", nargs="+")
    parser.add_argument("--ram", "-p", action="store_true")
    parser.add_argument("--root")
    parser.add_argument("--pid")
    parser.add_argument("--limit", type=int, default=HITS)
    options = parser.parse_args(line.words)
    with session.while_stopped():
        kernel = session.view
        pattern = _pattern(session, line.text, options.what)
        if options.ram or kernel.stop.cpu.paging is None:
            hits = in_ram(kernel.stop.memory, pattern)
            told: Callable[[int], str] = hex64
        else:
            root = session.root or root_of(kernel, options.root, options.pid)
            hits, told = in_space(kernel, root, pattern), kernel.describe
        found = list(islice(hits, options.limit + 1))
        for at in found[: options.limit]:
            print(told(at))
    if len(found) > options.limit:
        print(f"and more: --limit {options.limit * 10}")
    elif not found:
        print(f"{pattern.hex(' ')} is nowhere in {'RAM' if options.ram else 'this space'}")
    return int(not found)


def _pattern(session: Session, text: str, words: list[str]) -> bytes:
    if text.lstrip()[:1] in ("'", '"') or '"' in text:
        found = words[0].encode()
    elif all(re.fullmatch(r"[0-9a-fA-F]{2}", word) for word in words):
        found = bytes.fromhex("".join(words))
    else:
        value = address_of(session, " ".join(words))
        found = value.to_bytes(8, "little")
    if not any(found):
        raise InputError("zeros are everywhere", fix='write "text", bytes as 48 8b, a pointer')
    return found


# telescope --------------------------------------------------------------------------------------


def do_telescope(session: Session, line: Line) -> int:
    """Words from an address on, or the registers, each followed as far as it leads."""
    words = line.text.split()
    with session.while_stopped():
        kernel = session.view
        read = kernel.memory_of(kernel.stop.cpu.root or 0).read
        if kernel.stop.cpu.paging is None:
            raise ReadError(kernel.stop.no_paging)
        if words[:1] == ["registers"]:
            for name in kernel.arch.shown.grid:
                value = kernel.stop.cpu.get(name)
                if value is not None:
                    print(f"{name:<4} {chain(kernel, read, value)}")
            return 0
        count = count_of(words[1] if len(words) > 1 else None, "words", 8)
        at = address_of(session, words[0] if words else "$sp")
        marks: dict[int, list[str]] = {}
        for name in kernel.arch.shown.grid:
            value = kernel.stop.cpu.get(name)
            if value is not None:
                marks.setdefault(value, []).append(name)
        for offset in range(0, 8 * count, 8):
            word = int.from_bytes(read(at + offset, 8), "little")
            here = ",".join(marks.get(at + offset, ()))
            print(f"+{offset:03x} {hex64(at + offset)} {here:<8} {chain(kernel, read, word)}")
    return 0


def chain(kernel: Kernel, read: Read, value: int) -> str:
    """``0x10 -> 0x20 <name>``: a word, what it points to, and so on; text as text."""
    return " -> ".join(_links(kernel, read, value))


def _links(kernel: Kernel, read: Read, value: int) -> Iterator[str]:
    seen: set[int] = set()
    for _ in range(CHAIN):
        yield kernel.describe(value)
        image = kernel.stop.image
        symbol = None if image is None else image.image.symbols.covering(image.link(value))
        if value in seen or value < 0x1000 or (symbol is not None and symbol.executable):
            return
        seen.add(value)
        try:
            text = _text_at(read, value, 64)
            if len(text) >= 4 and all(chr(b) in string.printable for b in text):
                yield f'"{_escaped(text)}"'
                return
            value = int.from_bytes(read(value, 8), "little")
        except ReadError:
            return
