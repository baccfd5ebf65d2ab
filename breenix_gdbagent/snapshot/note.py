"""The note of our own in a snapshot: what QEMU's core format lacks.

Owner ``BREENIX-GDBAGENT``, type the version, content a zlib stream of one JSON object:

================== =============================================================================
``cpus``           every register by gdb's name (an absent one was not known), descriptor tables
``ram``            [start, end, offset in the RAM file], null when not known
``reason``         the fields of `StopReason`
``serial``         [port, seconds, bytes as Latin-1]; ``serial_dropped`` bytes before are left out
``image``          build-id, SHA-256 and load bias of the kernel, null without its ELF
``epoch, seconds`` as of `Stop`
``zeros``          [offset, length] of the part of the file that stands for zero pages
``adapter``        name, and TOML of one that is data, of what was chosen for the kernel, if so
``extra``          what the caller wanted kept: configuration, the run, provenance
================== =============================================================================

Numbers that are addresses or registers are strings ``0x...``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from breenix_gdbagent.addresses import PhysAddr, VirtAddr, hex64
from breenix_gdbagent.arch.cpu import FIRST, Cpu, DescriptorTable, SystemSegment
from breenix_gdbagent.architectures import ARCHITECTURES
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.memory import RamMap, RamRange
from breenix_gdbagent.memory.core import OWNER
from breenix_gdbagent.memory.elf import Note
from breenix_gdbagent.stop import AdapterSource, SerialChunk, SerialText, Stop, StopReason
from breenix_gdbagent.x86.pic import Chip, Pic

VERSION = 1
MOST_SERIAL = 16 << 20
"""Bytes of serial text kept, the last ones: a kernel may loop and print for hours."""
MOST_BYTES = 128 << 20
"""More than any note of ours has when unpacked (JSON may take 6 bytes for one of serial text): a
hostile one is not unpacked further."""
_SIZES_OF_PRSTATUS = (144, 296, 336)


class GarbledNote(ValueError):
    """The content is not what `note_of` writes."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """The kernel that ran: which file it was, and where it was loaded (None: not known)."""

    build_id: str | None
    sha256: str | None
    bias: int | None


@dataclass(frozen=True, slots=True)
class NoteContent:
    """What a note holds."""

    cpus: tuple[Cpu, ...]
    ram: RamMap | None
    reason: StopReason
    serial: SerialText
    image: ImageRecord | None
    epoch: int
    seconds: float
    zeros: tuple[int, int]
    pic: Pic | None
    extra: Mapping[str, Json]
    adapter: AdapterSource | None = None


def note_of(stop: Stop, zeros: tuple[int, int], extra: Mapping[str, Json]) -> Note:
    """The note for `stop`. `extra` must be JSON; ValueError or TypeError otherwise."""
    reason = stop.reason
    serial, dropped = _last(stop.serial)
    document: dict[str, Json] = {
        "cpus": [_cpu(cpu) for cpu in stop.cpus],
        "ram": _ram(stop.memory.ram),
        "reason": {
            "kind": reason.kind,
            "cpu": reason.cpu,
            "vector": reason.vector,
            "text": reason.text,
            "exit_status": reason.exit_status,
            "resets": reason.resets,
        },
        "serial": [[c.port, c.seconds, c.data.decode("latin-1")] for c in serial],
        "serial_dropped": dropped,
        "image": _image(stop),
        "epoch": stop.epoch,
        "seconds": stop.seconds,
        "zeros": list(zeros),
        "pic": None if stop.pic is None else [list(chip) for chip in stop.pic],
        "extra": extra,
    }
    if stop.adapter is not None:
        document["adapter"] = list(stop.adapter)
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    data = zlib.compress(text.encode("ascii"))
    # gdb looks at the type alone, and takes type 1 for registers when it has their size (bfd/elf.c,
    # elfcore_grok_note): a byte after the stream changes the size and nothing else.
    return Note(OWNER, VERSION, data + b"\0" if len(data) in _SIZES_OF_PRSTATUS else data)


def _cpu(cpu: Cpu) -> Json:
    tables: dict[str, Json] = {}
    for name, table in (("gdtr", cpu.gdtr), ("idtr", cpu.idtr)):
        tables[name] = None if table is None else [hex64(table.base), table.limit]
    for name, part in (("tr", cpu.tr), ("ldtr", cpu.ldtr)):
        tables[name] = (
            None if part is None else [hex64(part.selector), hex64(part.base), part.limit]
        )
    registers = {name: hex64(value) for name, value in cpu.registers.items()}
    states: dict[str, Json] = {"halted": cpu.halted, "long_mode": cpu.long_mode}
    states |= {"phys_bits": cpu.phys_bits, "code_64": cpu.code_64}
    states["arch"] = cpu.arch_name
    return {"index": cpu.index, "registers": registers, **states, **tables}


def _ram(ram: RamMap | None) -> Json:
    if ram is None:
        return None
    return [[hex64(r.start), hex64(r.end), hex64(r.offset)] for r in ram.ranges]


def _image(stop: Stop) -> Json:
    if stop.image is None:
        return None
    image = stop.image.image
    return {
        "build_id": image.build_id,
        "sha256": image.sha256,
        "bias": hex64(stop.image.bias),
    }


def _last(serial: SerialText) -> tuple[list[SerialChunk], int]:
    """The last chunks that fit `MOST_SERIAL`, and how many bytes there were before them."""
    kept: list[SerialChunk] = []
    room = MOST_SERIAL
    for chunk in reversed(serial.chunks):
        if room <= 0:
            break
        kept.append(SerialChunk(chunk.port, chunk.seconds, chunk.data[-room:]))
        room -= len(kept[-1].data)
    kept.reverse()
    return kept, sum(len(c.data) for c in serial.chunks) - sum(len(c.data) for c in kept)


def read_note(data: bytes) -> NoteContent:
    """What the content of a note says. Raises `GarbledNote`; time and memory are bounded."""
    try:
        stream = zlib.decompressobj()
        text = stream.decompress(data, MOST_BYTES)
        if not stream.eof:
            raise GarbledNote("cut short, or too large")
        document = _map(json.loads(text))
        return NoteContent(
            cpus=tuple(_read_cpu(cpu) for cpu in _list(document["cpus"])),
            ram=_read_ram(document["ram"]),
            reason=_read_reason(_map(document["reason"])),
            serial=SerialText(tuple(_read_chunk(c) for c in _list(document["serial"]))),
            image=_read_image(document["image"]),
            epoch=_int(document["epoch"]),
            seconds=_float(document["seconds"]),
            zeros=_pair(document["zeros"]),
            pic=_read_pic(document.get("pic")),  # the first files of version 1 lack it
            extra=_map(document["extra"]),
            adapter=_read_adapter(document.get("adapter")),
        )
    except (KeyError, IndexError, TypeError, ValueError, RecursionError, zlib.error) as error:
        raise GarbledNote(str(error)) from error


def _read_cpu(value: Json) -> Cpu:
    cpu = _map(value)
    tables: dict[str, DescriptorTable | None] = {}
    for name in ("gdtr", "idtr"):
        part = cpu[name]
        tables[name] = None
        if part is not None:
            base, limit = _list(part)[:2]
            tables[name] = DescriptorTable(VirtAddr(_hex(base)), _optional(limit))
    systems: dict[str, SystemSegment | None] = {}
    for name in ("tr", "ldtr"):
        part = cpu[name]
        systems[name] = None
        if part is not None:
            selector, base, limit = _list(part)[:3]
            systems[name] = SystemSegment(_hex(selector), VirtAddr(_hex(base)), _optional(limit))
    return Cpu(
        index=_int(cpu["index"]),
        registers={name: _hex(value) for name, value in _map(cpu["registers"]).items()},
        gdtr=tables["gdtr"],
        idtr=tables["idtr"],
        tr=systems["tr"],
        ldtr=systems["ldtr"],
        halted=_truth(cpu["halted"]),
        long_mode=_truth(cpu.get("long_mode")),  # the first files of version 1 lack it
        phys_bits=_optional(cpu.get("phys_bits")),  # and these
        code_64=_truth(cpu.get("code_64")),
        arch_name=_architecture(cpu.get("arch", FIRST)),
    )


def _architecture(value: Json) -> str:
    if _text(value) not in {one.name for one in ARCHITECTURES}:
        raise GarbledNote(f"an architecture {value!r}")
    return _text(value)


def _truth(value: Json) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise GarbledNote("a truth value")
    return value


def _read_ram(value: Json) -> RamMap | None:
    if value is None:
        return None
    ranges = []
    for one in _list(value):
        start, end, offset = _list(one)[:3]
        ranges.append(RamRange(PhysAddr(_hex(start)), PhysAddr(_hex(end)), _hex(offset)))
    return RamMap(ranges)


def _read_reason(value: Mapping[str, Json]) -> StopReason:
    return StopReason(
        kind=_text(value["kind"]),
        cpu=_int(value["cpu"]),
        vector=_optional(value["vector"]),
        text=_text(value["text"]),
        exit_status=_optional(value["exit_status"]),
        resets=_int(value.get("resets", 0)),
    )


def _read_chunk(value: Json) -> SerialChunk:
    port, seconds, data = _list(value)[:3]
    return SerialChunk(_int(port), _float(seconds), _text(data).encode("latin-1"))


def _read_image(value: Json) -> ImageRecord | None:
    if value is None:
        return None
    image = _map(value)
    names = [None if image[n] is None else _text(image[n]) for n in ("build_id", "sha256")]
    bias = image["bias"]
    return ImageRecord(names[0], names[1], None if bias is None else _hex(bias))


def _read_pic(value: Json) -> Pic | None:
    if value is None:
        return None
    master, slave = ([_int(part) for part in _list(chip)] for chip in _list(value)[:2])
    return Pic(Chip(*master[:4]), Chip(*slave[:4]))


def _read_adapter(value: Json) -> AdapterSource | None:
    return None if value is None else AdapterSource(*(_text(part) for part in _list(value)[:2]))


def _pair(value: Json) -> tuple[int, int]:
    first, second = _list(value)[:2]
    return _int(first), _int(second)


def _map(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise GarbledNote("no object")
    return value


def _list(value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise GarbledNote("no list")
    return value


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise GarbledNote("no text")
    return value


def _int(value: Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise GarbledNote("no number")
    return value


def _optional(value: Json) -> int | None:
    return None if value is None else _int(value)


def _float(value: Json) -> float:
    return value if isinstance(value, float) else float(_int(value))


def _hex(value: Json) -> int:
    number = int(_text(value), 16)
    if not 0 <= number < 1 << 64:
        raise GarbledNote("beyond 64 bits")
    return number
