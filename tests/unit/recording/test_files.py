"""What lies in a recording: disks, log and manifest, whole or refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.recording.log import last_count
from breenix_gdbagent.recording.manifest import FORM, NAME, End, Held, Manifest, Waypoint, read
from breenix_gdbagent.recording.qcow2 import CLUSTER, write_copy, write_empty
from breenix_gdbagent.recording.replaying import copy_sparse


def content(path: Path) -> bytes:
    """What a qcow2 file holds, read by its format alone (QEMU docs/interop/qcow2.txt)."""
    data = path.read_bytes()
    magic, version, _, _, bits, size = struct.unpack_from(">4sIQIIQ", data)
    tables, at = struct.unpack_from(">IQ", data, 36)
    assert (magic, version, bits) == (b"QFI\xfb", 3, 16)
    out = bytearray(size)
    for n, (entry,) in enumerate(struct.iter_unpack(">Q", data[at : at + 8 * tables])):
        table = entry & ~(1 << 63)
        for k in range(CLUSTER // 8 if table else 0):
            (cluster,) = struct.unpack_from(">Q", data, table + 8 * k)
            if cluster:
                begin = cluster & ~(1 << 63)
                to = (n * (CLUSTER // 8) + k) * CLUSTER
                piece = data[begin : begin + CLUSTER][: size - to]
                out[to : to + len(piece)] = piece
    return bytes(out)


def refcounts(path: Path) -> list[int]:
    data = path.read_bytes()
    (at,) = struct.unpack_from(">Q", data, 48)
    (first,) = struct.unpack_from(">Q", data, at)
    return [n for (n,) in struct.iter_unpack(">H", data[first : first + CLUSTER])]


def test_a_disk_has_what_the_image_had(tmp_path: Path) -> None:
    raw = bytearray(5 * CLUSTER + 700)
    raw[3 * CLUSTER + 5 : 3 * CLUSTER + 9] = b"here"
    raw[-4:] = b"tail"
    (tmp_path / "raw").write_bytes(raw)
    write_copy(tmp_path / "disk", tmp_path / "raw")
    assert content(tmp_path / "disk") == raw
    used = (tmp_path / "disk").stat().st_size // CLUSTER
    counts = refcounts(tmp_path / "disk")
    assert counts[:used] == [1] * used and not any(counts[used:])


def test_a_disk_of_an_image_with_holes(tmp_path: Path) -> None:
    with (tmp_path / "raw").open("wb") as raw:
        for at in (3 * CLUSTER + 4096, 3 * CLUSTER + 5 * 4096, 9 * CLUSTER - 4096):
            raw.seek(at)
            raw.write(b"here")
        raw.truncate(12 * CLUSTER)
    write_copy(tmp_path / "disk", tmp_path / "raw")
    assert content(tmp_path / "disk") == (tmp_path / "raw").read_bytes()


def test_an_empty_disk(tmp_path: Path) -> None:
    write_empty(tmp_path / "disk", 1 << 20)
    assert content(tmp_path / "disk") == bytes(1 << 20)


def test_a_copy_keeps_its_holes(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
        file.truncate(9 << 20)
    copy_sparse(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").stat().st_blocks <= (tmp_path / "a").stat().st_blocks + 16


def log(*events: bytes) -> bytes:
    return struct.pack(">IQ", 0xE0200C, 0) + b"".join(events)


def ran(count: int) -> bytes:
    return struct.pack(">BI", 0, count)


CLOCK, INTERRUPT, END = b"\x1c" + bytes(8), b"\x01", b"\x27"


def test_a_log_counts_its_instructions(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(log(CLOCK, ran(100), INTERRUPT, ran(23), b"\x16" + bytes(8), END))
    assert last_count(path) == 123


@pytest.mark.parametrize(
    "data",
    [
        b"", log(), log(CLOCK, ran(5)), log(ran(5), END, b"x"), log(b"\x63", END),
        b"\0" * 4 + log(ran(5), END)[4:], log(ran(5), b"\x1c\0", END),
    ],
)  # fmt: skip
def test_a_log_that_is_not_whole_counts_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "log").write_bytes(data)
    assert last_count(tmp_path / "log") is None


def manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "form": FORM, "agent": "0", "qemu": "7.2.22", "machine": "lab", "program": "q",
        "arguments": ("-m", "1M"), "memory": "1M", "cpu": "qemu64", "serial_ports": 1,
        "boots_kernel": True, "success": None, "progress": (), "changes": (), "start": "reset",
        "kernel": "k.elf", "kernel_sha256": "00", "bias": 0, "disks": ("state.qcow2",),
        "held": (Held("log", 3),), "serial": (), "waypoints": (Waypoint(0, 0.0, (0,), "init"),),
        "end": End(5, 1, "marker", 0, None, "x", None, 0), "beside": {"run": {}},
    }  # fmt: skip
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"log")
    manifest().write(tmp_path)
    assert read(tmp_path) == manifest()


def _no_manifest(directory: Path) -> None:
    (directory / NAME).unlink()


def _cut(directory: Path) -> None:
    (directory / "log").write_bytes(b"lo")


def _lost(directory: Path) -> None:
    (directory / "log").unlink()


def _garbled(directory: Path) -> None:
    (directory / NAME).write_text("{")


def _another_form(directory: Path) -> None:
    document = json.loads((directory / NAME).read_text())
    (directory / NAME).write_text(json.dumps({**document, "form": 99}))


def _without_its_end(directory: Path) -> None:
    document = json.loads((directory / NAME).read_text())
    del document["end"]
    (directory / NAME).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_no_manifest, "broke off"), (_cut, "log has 2 bytes, not 3"), (_lost, "lacks its log"),
        (_garbled, "is damaged"), (_another_form, "another form"), (_without_its_end, "damaged"),
    ],
)  # fmt: skip
def test_what_is_no_recording_is_refused(tmp_path: Path, spoil: object, says: str) -> None:
    (tmp_path / "log").write_bytes(b"log")
    manifest().write(tmp_path)
    assert callable(spoil)
    spoil(tmp_path)
    with pytest.raises(InputError, match=says) as refused:
        read(tmp_path)
    assert refused.value.fix


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no recording"):
        read(tmp_path / "none")
