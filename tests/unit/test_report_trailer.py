"""A report kept in a snapshot is given for exactly the bytes, the ELF and the agent it was of."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.snapshot import report_trailer as room
from breenix_gdbagent.snapshot.report_trailer import append_trailer, read_trailer

CORE = b"\x7fELF" + bytes(range(256)) * 16
REPORT: dict[str, Json] = {"schema": 1, "findings": [{"code": "page-fault.null"}], "text": "\u00e9"}


def written(path: Path, elf: str | None = "aa") -> Path:
    with path.open("w+b") as out:
        out.write(CORE)
        append_trailer(out, REPORT, elf)
    return path


@pytest.mark.parametrize("elf", ["aa", None])
def test_it_comes_back_as_it_was_and_the_core_is_untouched(tmp_path: Path, elf: str | None) -> None:
    file = written(tmp_path / "stop", elf)
    found = read_trailer(file)
    assert found is not None
    assert found.document == REPORT
    assert found.elf == elf
    assert file.read_bytes().startswith(CORE)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_byte_changed_makes_it_void(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = written(tmp_path_factory.mktemp("kept") / "stop")
    raw = bytearray(file.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(raw)
    assert read_trailer(file) is None


def test_any_end_cut_off_makes_it_void(tmp_path: Path) -> None:
    whole = written(tmp_path / "stop").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "short").write_bytes(whole[:size])
        assert read_trailer(tmp_path / "short") is None, size


def test_another_agent_examines_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "stop")
    monkeypatch.setattr(room, "agent", lambda: "the hash of other code")
    assert read_trailer(file) is None


@pytest.mark.parametrize(("hash_", "changed"), [(None, False), ("ab", True)])
def test_unknown_code_keeps_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_: str | None, changed: bool
) -> None:
    monkeypatch.setattr(room, "agent", lambda: hash_)
    monkeypatch.setattr(room, "changed_since_start", lambda: changed)
    assert written(tmp_path / "stop").read_bytes() == CORE


@pytest.mark.parametrize("told", [b"", b"[]", b"{}", b"nonsense", b"[" * 100_000])
def test_a_sealed_stream_that_is_no_report(tmp_path: Path, told: bytes) -> None:
    stream = zlib.compress(told)
    body = CORE + stream + struct.pack("<Q", len(stream))
    (tmp_path / "stop").write_bytes(body + struct.pack("<I8s", zlib.crc32(body), room.MAGIC))
    assert read_trailer(tmp_path / "stop") is None


def test_what_is_no_file_keeps_none(tmp_path: Path) -> None:
    assert read_trailer(tmp_path) is None
    assert read_trailer(tmp_path / "absent") is None
    os.mkfifo(tmp_path / "pipe")  # nobody will ever write to it
    assert read_trailer(tmp_path / "pipe") is None
    with Path(os.devnull).open("wb") as out:
        append_trailer(out, REPORT, None)
