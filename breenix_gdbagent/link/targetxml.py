"""The target description: which registers the stub has, and where each lies in a ``g`` reply.

Source: gdb manual, appendix "Target Descriptions". QEMU's ``i386-64bit.xml`` names the registers
``ss_base ds_base es_base`` inside an XML comment: whoever reads it by pattern shifts every
register behind them. Its ``target.xml`` uses the prefix ``xi:`` without declaring it, so that only
a parser that ignores namespaces reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from xml.parsers import expat

from breenix_gdbagent.errors import LinkProtocolError

MAX_DOCUMENT = 1 << 18
"""Bytes of one document; QEMU's largest has 30 KB."""

MAX_DEPTH = 8
MAX_DOCUMENTS = 64
"""Documents read for one description, each as often as it is included: QEMU's has four."""

MAX_BITS = 4096
"""Of one register: the widest of AVX-512 has 512."""


class Register(NamedTuple):
    """`offset` and `size` in bytes within a ``g`` reply; `number` for ``p`` and ``P``."""

    name: str
    number: int
    offset: int
    size: int


class TargetDescription(NamedTuple):
    """The architecture's name (``i386:x86-64``, empty when not given) and the registers."""

    architecture: str
    registers: tuple[Register, ...]

    @property
    def size(self) -> int:
        """Bytes of a whole ``g`` reply."""
        return sum(r.size for r in self.registers)

    def decode(self, data: bytes, known: bytes = b"") -> dict[str, int]:
        """Integer registers of up to 64 bits by name, from the bytes of a ``g`` reply.

        `known`, when given, is 0 where the stub said ``xx``: such a register is left out, and so
        is one behind the end of a short reply.
        """
        out = {}
        for r in self.registers:
            end = r.offset + r.size
            if r.size <= 8 and end <= len(data) and not (known and 0 in known[r.offset : end]):
                out[r.name] = int.from_bytes(data[r.offset : end], "little")
        return out


def describe(fetch: Callable[[str], bytes]) -> TargetDescription:
    """The description whose documents `fetch(annex)` gives, from ``target.xml`` on.

    Included documents are followed. Raises `LinkProtocolError` for XML that is none, entity
    declarations, includes without end, and registers without a size.
    """
    architecture = ""
    rows: list[tuple[str, int, int]] = []
    number = 0
    for tag, attributes, text in _elements(fetch, "target.xml", MAX_DEPTH, []):
        if tag == "architecture" and not architecture:
            architecture = text.strip()
        elif tag == "reg":
            rows.append(_row(attributes, number))
            number = rows[-1][1] + 1
    registers = []
    offset = 0
    for name, number, bits in sorted(rows, key=lambda row: row[1]):
        registers.append(Register(name, number, offset, bits // 8))
        offset += bits // 8
    return TargetDescription(architecture, tuple(registers))


def _row(attributes: dict[str, str], number: int) -> tuple[str, int, int]:
    """(name, number, bits) of a register; `number` is its own where it says none."""
    try:
        name, bits = attributes["name"], int(attributes["bitsize"])
        number = int(attributes.get("regnum", number))
    except (KeyError, ValueError):
        bits = 0
    if not 0 < bits <= MAX_BITS:
        raise LinkProtocolError(f"target.xml has a register without name or size: {attributes}")
    return name, number, bits


_Element = tuple[str, dict[str, str], str]


def _elements(
    fetch: Callable[[str], bytes], annex: str, depth: int, read: list[str]
) -> list[_Element]:
    """(tag, attributes, text) in document order, those of included documents in their place.
    `read` are the documents that were read before."""
    document = fetch(annex)
    read.append(annex)
    if depth == 0 or len(document) > MAX_DOCUMENT or len(read) > MAX_DOCUMENTS:
        raise LinkProtocolError(
            f"target.xml includes {annex[:80]!r} too deeply, too many documents, or one too long"
        )
    out: list[_Element] = []
    for tag, attributes, text in _parse(annex, document):
        if tag.rpartition(":")[2] == "include":
            out += _elements(fetch, attributes.get("href", ""), depth - 1, read)
        else:
            out.append((tag, attributes, text))
    return out


def _parse(annex: str, document: bytes) -> list[_Element]:
    found: list[_Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        found.append((tag, attributes, ""))

    def text(data: str) -> None:
        tag, attributes, before = found[-1]
        found[-1] = (tag, attributes, before + data)

    def entity(name: str, *_: object) -> None:
        raise LinkProtocolError(f"{annex} declares the XML entity {name}, which no stub needs")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise LinkProtocolError(f"{annex} of the stub is no XML", str(error)) from error
    return found
