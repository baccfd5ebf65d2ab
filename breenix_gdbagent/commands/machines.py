"""The machine that the target options name, started: `--lab`, `--breenix`, `--image`, `--config`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breenix_gdbagent import targets
from breenix_gdbagent.commands.target import Target
from breenix_gdbagent.targets import Machine

if TYPE_CHECKING:
    from breenix_gdbagent.recording.recorder import Recorder
    from breenix_gdbagent.targets.checkout import Build
    from breenix_gdbagent.targets.machine_choice import MachineChoice


def open_machine(target: Target, recorder: Recorder | None = None) -> Machine:
    """Launch or attach; what is launched is recorded by `recorder`, where there is one. The caller
    closes `vm`. Raises `InputError`, `QemuError`, `LinkError`."""
    options = target.options
    if target.kind == "gdb":
        from breenix_gdbagent.commands.progress import SlowRead

        machine = targets.running(
            options.gdb,
            qmp=options.qmp,
            ram=options.ram,
            serial=options.serial,
            kernel=options.kernel,
            ram_size=options.ram_size,
            adapter=getattr(options, "adapter", None),
        )
        machine.vm.reading = SlowRead()
        return machine
    settings: dict[str, Any] = {
        "smp": options.smp,
        **getattr(options, "settings", {}),
        "accel": options.accel,
        "deterministic": True if options.deterministic else None,
        "adapter": getattr(options, "adapter", None),
    }
    if recorder is not None:
        settings["start"] = recorder.start
    if target.kind == "lab":
        return targets.lab(
            options.lab,
            stripped=options.stripped,
            config=options.config,
            arch=options.arch,
            **settings,
        )
    if target.kind == "kernel":
        return targets.kernel(
            options.kernel, config=options.config, disks=options.disk, **settings
        )
    machine = targets.breenix(
        options.breenix,
        image=options.image,
        kernel=options.kernel,
        disks=options.disk,
        config=options.config,
        **settings,
    )
    if machine.build is not None and not machine.build.only:
        _say_choice(machine.build, options.breenix)
    if machine.choice is not None:
        options.config = machine.choice.config
        _say_machine(machine.choice, options.breenix)
    return machine


def _say_machine(choice: MachineChoice, directory: Path | None) -> None:
    """Which machine was taken and why, and the disks that were found; nothing of what the user
    named."""
    if choice.why is not None:
        print(f"breenix-gdbagent: machine {choice.config}: {choice.why}", file=sys.stderr)
    for disk in choice.found:
        known = directory is not None and disk.is_relative_to(directory)
        shown = disk.relative_to(directory) if directory and known else disk
        print(f"  disk {shown}", file=sys.stderr)
    for lacking in choice.lacking:
        print(
            f"  without {lacking.path} ({lacking.about}): it is not there; {lacking.build}",
            file=sys.stderr,
        )


def _say_choice(build: Build, directory: Path) -> None:
    """Which of several builds this is, and why it and no other."""
    print(
        f"breenix-gdbagent: {build.image.relative_to(directory)} with {build.kernel.name}: the "
        f"newest of {build.images} image(s) that holds one of {build.kernels} kernel ELF(s)",
        file=sys.stderr,
    )
    if build.passed_over:
        newer = build.passed_over[0].relative_to(directory)
        print(f"  newer, but its own ELF is gone: {newer}", file=sys.stderr)
