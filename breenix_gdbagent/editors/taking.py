"""Launch and attach requests: what an editor's configuration names, taken hold of."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.debugger.held import Held
from breenix_gdbagent.debugger.taking import Started, attached, launched
from breenix_gdbagent.editors.wire import Message
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.timeline.held import opened


def launch(given: Message) -> Held:
    """A guest that is started, or a recording or snapshot that is opened. Raises `InputError`,
    `QemuError`."""
    for name in ("replay", "snapshot"):
        path = text(given, name)
        if path:
            return opened(path, text(given, "kernel"))
    smp, disks = given.get("smp"), given.get("disks")
    return launched(
        Started(
            lab=text(given, "lab"),
            breenix=text(given, "breenix"),
            image=text(given, "image"),
            kernel=text(given, "kernel"),
            config=text(given, "config"),
            disks=tuple(map(str, disks)) if isinstance(disks, list) else (),
            smp=smp if isinstance(smp, int) and not isinstance(smp, bool) else None,
            deterministic=given.get("deterministic") is True,
        )
    )


def attach(given: Message) -> Held:
    """A QEMU that runs. Raises `InputError`, `LinkError`."""
    gdb = text(given, "gdb")
    if not gdb:
        raise InputError("attach needs gdb", fix='"gdb": "unix:PATH" or "HOST:PORT"')
    return attached(
        gdb,
        qmp=text(given, "qmp"),
        ram=text(given, "ram"),
        serial=text(given, "serial"),
        kernel=text(given, "kernel"),
    )


def sources(given: Message) -> tuple[Path, ...]:
    """Where the configuration says the source lies: one directory or several."""
    named = given.get("source")
    found = named if isinstance(named, list) else [named]
    return tuple(Path(one) for one in found if isinstance(one, str) and one)


def text(given: Message, name: str) -> str | None:
    """A text of a request, None where it is left out or empty. Raises `InputError`."""
    value = given.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InputError(f"{name} should be a text, and is {str(value)[:40]}")
    return value
