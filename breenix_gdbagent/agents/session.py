"""What one client holds: at most one guest, or one stop out of a file, and how it came to it."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent import targets
from breenix_gdbagent.agents.recordings import HeldRecording
from breenix_gdbagent.debugger.held import Held, HeldGuest, HeldStop
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.jsonvalue import Json


class Session:
    """One client's session. `write`: whether the guest may be written to; `sources` are
    directories where the kernel's source lies."""

    def __init__(self, *, write: bool = False, sources: tuple[Path, ...] = ()) -> None:
        self.write = write
        self.sources = sources
        self.held_now: Held | None = None
        self.told_lines = 0

    @property
    def held(self) -> Held:
        """What is held. Raises `InputError` where nothing is."""
        if self.held_now is None:
            raise InputError(
                "nothing is held yet",
                fix="launch a guest (launch with lab, breenix, or image and kernel), attach to "
                "one, or open a snapshot",
            )
        return self.held_now

    @property
    def recording(self) -> HeldRecording:
        """The recording that is held. Raises `InputError` for anything else."""
        held = self.held
        if not isinstance(held, HeldRecording):
            raise InputError(
                "this is no recording",
                "only what was recorded can be asked when, or moved in",
                "make one on the command line: breenix-gdbagent record -o DIR; then open it",
            )
        return held

    def may_write(self, what: str) -> None:
        """Raises `InputError` unless the server was started to write."""
        if not self.write:
            raise InputError(
                f"{what} would write into the guest, and this server only looks",
                "it was started without --write",
                "whoever runs it starts it as: breenix-gdbagent mcp --write",
            )

    def close(self) -> None:
        """Let go of what is held."""
        held, self.held_now = self.held_now, None
        self.told_lines = 0
        if held is not None:
            held.close()

    def interrupt(self) -> bool:
        """From any thread: ask a guest that runs to stop."""
        return self.held_now is not None and self.held_now.interrupt()

    # Taking hold -----------------------------------------------------------------------------

    def launch(
        self,
        *,
        lab: str | None,
        breenix: str | None,
        image: str | None,
        kernel: str | None,
        config: str | None,
        disks: tuple[str, ...],
        smp: int | None,
        deterministic: bool,
    ) -> None:
        """Start a guest, which stands before its first instruction; the one of before ends.
        Raises `InputError`, `QemuError`."""
        clock = True if deterministic else None
        named = [n for n, v in (("lab", lab), ("breenix", breenix), ("image", image)) if v]
        if len(named) > 1:
            raise InputError(f"two guests at once: {' and '.join(named)}", fix="name one")
        target: dict[str, Json] = {"kind": "lab", "scenario": lab, "stripped": False}
        files = [Path(one) for one in disks]
        self.close()
        if lab:
            machine = targets.lab(lab, config=config, smp=smp, deterministic=clock)
        elif breenix or image:
            machine = targets.breenix(
                Path(breenix) if breenix else None,
                image=Path(image) if image else None,
                kernel=Path(kernel) if kernel else None,
                disks=files,
                config=config,
                smp=smp,
                deterministic=clock,
            )
            target = _named("breenix", config or "breenix", kernel)
        elif kernel and config:
            machine = targets.kernel(
                Path(kernel), config=config, disks=files, smp=smp, deterministic=clock
            )
            target = _named("kernel", config, kernel)
        else:
            raise InputError(
                "no guest named",
                fix="launch takes lab (a scenario), breenix (a built checkout), image and kernel, "
                "or kernel and config",
            )
        self.held_now = HeldGuest(machine, target)

    def attach(
        self,
        gdb: str,
        *,
        qmp: str | None,
        ram: str | None,
        serial: str | None,
        kernel: str | None,
    ) -> None:
        """Take hold of a QEMU that runs, which stops it; let go, it goes on as it was found.
        Raises `InputError`, `LinkError`."""
        self.close()
        machine = targets.running(
            gdb,
            qmp=qmp,
            ram=Path(ram) if ram else None,
            serial=serial,
            kernel=Path(kernel) if kernel else None,
        )
        self.held_now = HeldGuest(machine, {"kind": "gdb", "kernel": _file(kernel)})

    def open(self, path: str, kernel: str | None) -> None:
        """A stop out of a file, or a recording, which is a directory. Raises `InputError`."""
        elf = Path(kernel) if kernel else None
        found = HeldRecording(Path(path), elf) if Path(path).is_dir() else HeldStop(Path(path), elf)
        self.close()
        self.held_now = found


def _named(kind: str, config: str, kernel: str | None) -> dict[str, Json]:
    return {"kind": kind, "config": Path(config).name, "kernel": _file(kernel)}


def _file(path: str | None) -> str | None:
    return Path(path).name if path else None
