"""Guests by the names people have for them: a scenario, a checkout, an image, a QEMU that runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from breenix_gdbagent.errors import InputError

if TYPE_CHECKING:
    from breenix_gdbagent.configs import Config
    from breenix_gdbagent.live import LiveVm
    from breenix_gdbagent.symbols import Image
    from breenix_gdbagent.targets.checkout import Build
    from breenix_gdbagent.targets.machine_choice import MachineChoice

Setting = str | int | bool | None
DEFAULT_LINGER = 3.0


class Start(Protocol):
    """Starts a machine, as `live.launch` does; `elf` is its kernel."""

    def __call__(
        self,
        config: Config,
        *,
        elf: Image,
        image: Path | None = None,
        kernel: Path | None = None,
        disks: Sequence[Path] = (),
        append: str | None = None,
    ) -> LiveVm: ...


def plainly(
    config: Config,
    *,
    elf: Image,
    image: Path | None = None,
    kernel: Path | None = None,
    disks: Sequence[Path] = (),
    append: str | None = None,
) -> LiveVm:
    """Just that."""
    from breenix_gdbagent.live import launch

    return launch(config, image=image, kernel=kernel, disks=disks, append=append)


class Machine(NamedTuple):
    """A guest in our hands, the ELF of its kernel where one is given, seconds to stay after its
    own marker, the disk images it boots from, and how build and machine were chosen, where they
    were."""

    vm: LiveVm
    image: Image | None
    linger: float
    files: tuple[Path, ...] = ()
    build: Build | None = None
    choice: MachineChoice | None = None


def lab(
    scenario: str = "clean",
    *,
    stripped: bool = False,
    config: str | None = None,
    arch: str | None = None,
    start: Start = plainly,
    **settings: Setting,
) -> Machine:
    """Start the lab guest, that of the architecture `arch`; None: of the one that `config` has.
    The caller closes `vm`. Raises `InputError`, `QemuError`."""
    from breenix_gdbagent import lab
    from breenix_gdbagent.architectures import of_program
    from breenix_gdbagent.symbols import Image

    machine = _config(config or lab.machine(arch or lab.X86_64), settings)
    its = of_program(machine.program).name
    if arch not in (None, its):
        raise InputError(
            f"machine {machine.name} is {its}, not {arch}", fix="leave --config or --arch away"
        )
    plan = lab.scenario(scenario, its)
    elf = lab.elf(stripped, its)
    smp = settings.get("smp")
    if isinstance(smp, int) and smp < plan.smp:
        raise InputError(f"the lab's {scenario} needs a machine of {plan.smp} CPUs, not of {smp}")
    many = plan.smp if smp is None and plan.smp > 1 else None
    machine = machine.with_settings(cpu=plan.cpu, smp=many)
    image = Image.open(elf)
    vm = start(machine, elf=image, kernel=elf, append=plan.append)
    return Machine(vm, image, 0.0)


def breenix(
    directory: Path | None = None,
    *,
    image: Path | None = None,
    kernel: Path | None = None,
    disks: Sequence[Path] = (),
    config: str | None = None,
    start: Start = plainly,
    **settings: Setting,
) -> Machine:
    """Start a Breenix: a built checkout, or an image and the ELF that is in it. Machine and disks
    are those that the kernel wants, unless `config` and `disks` name others. The caller closes
    `vm`. Raises `InputError` where they do not belong together, `QemuError`."""
    from breenix_gdbagent.symbols import Image
    from breenix_gdbagent.targets.checkout import find_build, verify
    from breenix_gdbagent.targets.machine_choice import choose

    if config is not None:
        _takes_image(_config(config, settings))
    build = None
    if directory is not None:
        build = find_build(directory, kernel)
        image, kernel = build.image, build.kernel
    elif image is None or kernel is None:
        raise InputError("an image needs its kernel's ELF, and an ELF its image")
    else:
        verify(image, kernel)
    choice = choose(kernel, image, directory, config, disks)
    machine = _config(choice.config, settings)
    elf = Image.open(kernel)
    loaded = kernel if "kernel" in machine.needs else None
    vm = start(machine, elf=elf, image=image, kernel=loaded, disks=choice.disks)
    return Machine(vm, elf, DEFAULT_LINGER, (image, *choice.disks), build, choice)


def _takes_image(machine: Config) -> None:
    """Raises `InputError` for a machine that boots no image."""
    if "image" not in machine.needs:
        raise InputError(
            f"machine {machine.name} boots no image",
            "it boots the kernel's ELF by -kernel" if "kernel" in machine.needs else "",
            "leave the image away: --config NAME --kernel ELF, or name another --config",
        )


def kernel(
    elf: Path,
    *,
    config: str,
    disks: Sequence[Path] = (),
    start: Start = plainly,
    **settings: Setting,
) -> Machine:
    """Start the kernel `elf`, whoever's, on a machine that boots with QEMU's -kernel. The caller
    closes `vm`. Raises `InputError` for a machine that needs an image, `QemuError`."""
    from breenix_gdbagent.symbols import Image

    machine = _config(config, settings)
    if "image" in machine.needs:
        raise InputError(
            f"machine {machine.name} needs --image",
            "it boots from an image that the kernel is in",
            "add --image IMG, or boot the ELF itself: --config kernel",
        )
    image = Image.open(elf)
    vm = start(machine, elf=image, kernel=elf, disks=disks)
    return Machine(vm, image, DEFAULT_LINGER, tuple(disks))


def running(
    gdb: str,
    *,
    qmp: str | Path | None = None,
    ram: Path | None = None,
    serial: str | None = None,
    kernel: Path | None = None,
    ram_size: str | None = None,
    adapter: str | None = None,
) -> Machine:
    """Take hold of a QEMU that runs already; closing `vm` leaves it as it was found. Addresses are
    ``unix:PATH`` or ``HOST:PORT``. Raises `InputError`, `LinkError`."""
    source = None
    if adapter is not None:
        from breenix_gdbagent.kernel.adapters import source_of  # 17 of the 117 ms of `pt walk`

        source = source_of(adapter)
    ram_map = None
    if ram_size:
        from breenix_gdbagent.memory.ramfile import parse_ram_size

        ram_map = parse_ram_size(ram_size)
    if ram is not None and not Path(ram).is_file():
        raise InputError(f"there is no RAM file {ram}")
    image = None
    if kernel is not None:
        from breenix_gdbagent.symbols import Image

        image = Image.open(kernel)
    from breenix_gdbagent.live import attach

    vm = attach(gdb, _address(qmp), ram, serial, ram_map=ram_map)
    vm.adapter = source
    return Machine(vm, image, 0.0)


def _config(name: str, settings: dict[str, Setting]) -> Config:
    """The machine with the settings that are given; None leaves one as it is. ``adapter`` is the
    word for what is known of the kernel, where the machine's file does not say or says another."""
    from breenix_gdbagent import configs

    rest = {key: value for key, value in settings.items() if key != "adapter"}
    machine = configs.load(name).with_settings(**rest)
    word = settings.get("adapter") or machine.adapter_file
    return machine if word is None else _with_adapter(machine, str(word))


def _with_adapter(machine: Config, word: str) -> Config:
    """The machine with what is known of its kernel, whose texts and statuses stand in where the
    machine's file says nothing of them."""
    from breenix_gdbagent.kernel.adapters import adapter_of, source_of

    source = source_of(word)
    adapter = adapter_of(None, None, source)
    return replace(
        machine,
        adapter=source,
        success=machine.success or adapter.success,
        progress=machine.progress or tuple(adapter.progress),
        exit_success=machine.exit_success or adapter.exit_success,
        exit_failed=machine.exit_failed or adapter.exit_failed,
    )


def _address(path: str | Path | None) -> str | None:
    """A QMP socket may be named by its bare path."""
    if path is None:
        return None
    text = str(path)
    if text.startswith("unix:") or (":" in text and "/" not in text):
        return text
    return f"unix:{text}"
