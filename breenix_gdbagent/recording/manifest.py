"""What a recording's directory says of itself: ``recording.json``, written last.

A directory without one is no recording: whatever was recorded there broke off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.report.fields import from_json, to_json

FORM = 1
NAME = "recording.json"
LOG, SERIAL, KERNEL = "log", "serial.bin", "kernel.elf"
INIT = "init"
"""The snapshot with which every replay begins."""


@dataclass(frozen=True, slots=True)
class Waypoint:
    """A moment of the run: its instruction count, its time (seconds of the run), how many bytes
    each serial port had written by then. `snapshot` is the name of the snapshot that was taken
    there, None where none was."""

    icount: int
    seconds: float
    serial: tuple[int, ...]
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Serial bytes that arrived together, see `SerialChunk`; in `SERIAL` in this order."""

    port: int
    seconds: float
    length: int


@dataclass(frozen=True, slots=True)
class End:
    """The stop that ends the recording, see `StopReason`. `rip` tells the moments of one
    instruction count apart: an exception that is delivered is none of it. `left` says that QEMU
    had ended there, so that the last stop is the one before."""

    icount: int
    rip: int | None
    kind: str
    cpu: int
    vector: int | None
    text: str
    exit_status: int | None
    resets: int
    left: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """A file of the directory, by its name, and how long it has to be; `sha256` of those that
    are never written again."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A recording. `arguments` are QEMU's, with ``{recording}`` and ``{disks}`` for directories
    and the placeholders of a machine's file; `changes` what was made otherwise than the machine
    has it, `start` where the recording begins (``reset`` or ``kernel-entry``), `bias` the load
    bias of the kernel at the end, `beside` what a report needs besides the stop (as in a
    snapshot), `stops` the moments at which the run was looked at; `adapter` is what is known of the
    kernel (see `AdapterSource`)."""

    form: int
    agent: str
    qemu: str
    machine: str
    program: str
    arguments: tuple[str, ...]
    memory: str
    cpu: str
    serial_ports: int
    boots_kernel: bool
    success: str | None
    progress: tuple[str, ...]
    changes: tuple[str, ...]
    start: str
    kernel: str
    kernel_sha256: str
    bias: int | None
    disks: tuple[str, ...]
    held: tuple[Held, ...]
    serial: tuple[Chunk, ...]
    waypoints: tuple[Waypoint, ...]
    end: End
    beside: Mapping[str, Json]
    stops: tuple[Waypoint, ...] = ()
    adapter: str | None = None
    adapter_text: str = ""

    @property
    def begin(self) -> int:
        """The instruction count at which the recording begins: what ran before it was recorded
        counts too."""
        return next(w.icount for w in self.waypoints if w.snapshot is not None)

    def write(self, directory: Path) -> None:
        """Raises `OSError`."""
        text = json.dumps(to_json(self), indent=1)
        draft = directory / f"{NAME}.new"
        draft.write_text(text + "\n", encoding="utf-8")
        draft.rename(directory / NAME)


def read(directory: Path) -> Manifest:
    """The manifest of a recording, its files being there as long as they have to be. Raises
    `InputError`."""
    path = directory / NAME
    if not directory.is_dir():
        raise InputError(f"there is no recording {directory}", fix="make one: record -o DIR")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} is no recording, or one that broke off",
            f"it has no {NAME}, which is written last",
            "record again",
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or "") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged", str(error), "record again") from error
    return _whole(directory, _parsed(path, document))


def _parsed(path: Path, document: object) -> Manifest:
    form = document.get("form") if isinstance(document, dict) else None
    if form != FORM:
        raise InputError(
            f"{path} is of another form than this agent reads",
            f"its form is {form!r}, ours {FORM}",
            "record again with this agent",
        )
    try:
        return from_json(Manifest, cast(Json, document))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged", f"{type(error).__name__}: {error}", "record again"
        ) from error


def _whole(directory: Path, manifest: Manifest) -> Manifest:
    for held in manifest.held:
        path = directory / held.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InputError(
                f"the recording {directory} lacks its {held.name}",
                error.strerror or "",
                "copy it with all its files, or record again",
            ) from error
        if size != held.size:
            raise InputError(
                f"the recording {directory} is damaged: {held.name} has {size} bytes, "
                f"not {held.size}",
                fix="copy it with all its files, or record again",
            )
    return manifest
