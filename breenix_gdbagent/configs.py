"""The machines: one TOML file each, QEMU's arguments as data.

A file says all of QEMU's command line; this module only puts the values of one run into it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from breenix_gdbagent.errors import InputError, QemuMissing
from breenix_gdbagent.stop import AdapterSource

_PLACEHOLDER = re.compile(r"\{([a-z_0-9]+)\}")
_SIZE = re.compile(r"([0-9]+)([KMGT]?)")
_KEYS = {
    "name", "about", "program", "serial_ports", "needs", "arguments", "settings", "when",
    "markers", "exit", "firmware", "adapter", "kernel_has", "disks",
}  # fmt: skip

_PLACED = ("accel", "memory", "cpu", "smp")
"""Settings that are one placeholder each; the others switch arguments on (`Config.when`)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be overridden for one run. `memory` is as QEMU takes it (``512M``)."""

    accel: str = "tcg"
    memory: str = "512M"
    cpu: str = "qemu64"
    smp: int = 1
    network: bool = False
    deterministic: bool = False

    @property
    def memory_bytes(self) -> int:
        """RAM in bytes; a bare number is MiB, as for QEMU's -m. Raises `InputError`."""
        found = _SIZE.fullmatch(self.memory.upper())
        if found is None or int(found[1]) == 0:
            raise InputError(f"{self.memory!r} is no size of RAM", fix="write 512M or 1G")
        return int(found[1]) << {"K": 10, "": 20, "M": 20, "G": 30, "T": 40}[found[2]]


@dataclass(frozen=True, slots=True)
class Firmware:
    """UEFI code, and the template of its variables."""

    code: Path
    vars: Path


@dataclass(frozen=True, slots=True)
class CheckoutDisk:
    """A disk that a kernel boots with, as its own build leaves it: `path` in the checkout, the
    places `instead` of it, what is on it, the command that builds it, and whether the kernel does
    not boot without."""

    path: str
    about: str = ""
    build: str = ""
    needed: bool = False
    instead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Files:
    """What boots in one run."""

    image: Path | None = None
    kernel: Path | None = None
    disks: tuple[Path, ...] = ()
    append: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """One machine. `success` is the marker that ends a run which names no other end, `failure` are
    those by which the kernel says that its own tests failed. `kernel_has` are texts by which a
    kernel's ELF is known to want this machine, each with what it means. `adapter_file` names what
    is known of the kernel that it boots, `adapter` is that, read."""

    name: str
    about: str
    program: str
    arguments: tuple[str, ...]
    when: Mapping[str, tuple[str, ...]]
    settings: Settings
    serial_ports: int = 1
    needs: tuple[str, ...] = ()
    success: str | None = None
    failure: tuple[str, ...] = ()
    progress: tuple[str, ...] = ()
    exit_success: frozenset[int] = frozenset()
    exit_failed: frozenset[int] = frozenset()
    firmware: tuple[Firmware, ...] = field(default=())
    adapter_file: str | None = None
    adapter: AdapterSource | None = None
    kernel_has: Mapping[str, str] = field(default_factory=dict)
    disks: tuple[CheckoutDisk, ...] = ()

    def with_settings(self, **overrides: str | int | bool | None) -> Config:
        """A copy with those settings that are not None. Raises `InputError` for unknown ones, and
        for one that the machine's arguments have no place for, so that nothing would change."""
        given = {k: v for k, v in overrides.items() if v is not None}
        if unknown := set(given) - {f.name for f in fields(Settings)}:
            raise InputError(f"machine {self.name} has no setting {', '.join(sorted(unknown))}")
        changed = replace(self, settings=_settings(given, self.settings))
        for name in _PLACED:
            value = getattr(changed.settings, name)
            fixed = all(f"{{{name}}}" not in part for part in self.arguments)
            if fixed and value != getattr(self.settings, name):
                raise InputError(
                    f"machine {self.name} cannot be given another {name}: {value}",
                    f"its arguments have no {{{name}}}",
                    f"write {{{name}}} where its file says that of QEMU",
                )
        return changed

    def debug_exit(self, status: int) -> int | None:
        """The value that the guest wrote to isa-debug-exit, from QEMU's exit status.

        QEMU ends with ``(value << 1) | 1`` (hw/misc/debugexit.c); 1 is also how it ends when it
        cannot start, so that one is not decoded. None when the status tells of no such write.
        """
        return status >> 1 if status & 1 and status > 1 else None

    def outcome(self, status: int) -> str:
        """``success``, ``failed`` or ``unexpected``, for QEMU's exit status."""
        if status in self.exit_success:
            return "success"
        return "failed" if status in self.exit_failed else "unexpected"

    def find_firmware(self) -> Firmware | None:
        """The first pair of the list that is on this host; None when the machine needs none.

        Raises `QemuMissing` with the install line.
        """
        if not self.firmware:
            return None
        for pair in self.firmware:
            if pair.code.is_file() and pair.vars.is_file():
                return pair
        raise QemuMissing(
            "no UEFI firmware (OVMF) on this machine",
            f"none of the {len(self.firmware)} places that {self.name}.toml lists has it",
            "install it: apt install ovmf (Fedora: edk2-ovmf; macOS: brew install qemu)",
        )

    def command_line(self, files: Files, values: Mapping[str, str]) -> list[str]:
        """Arguments of QEMU, the program not included. `values` are the agent's placeholders.

        Raises `InputError`: a file that the machine needs is not given, one that it has no place
        for is, or the file names a placeholder that nobody knows.
        """
        self.check(files)
        given = {
            **{f.name: str(getattr(self.settings, f.name)) for f in fields(Settings)},
            **values,
        }
        given |= {
            k: str(v)
            for k, v in (("image", files.image), ("kernel", files.kernel))
            if v is not None
        }
        if files.append is not None:
            given["append"] = files.append
        out = list(self.arguments)
        if files.append is not None:
            out += self.when.get("append", ())
        for name in ("network", "deterministic"):
            on = bool(getattr(self.settings, name))
            out += self.when.get(name if on else f"no_{name}", ())
        parts = [self._fill(part, given) for part in out]
        for n, disk in enumerate(files.disks, 1):
            more = {**given, "disk": str(disk), "n": str(n)}
            parts += [self._fill(part, more) for part in self.when.get("disk", ())]
        return parts

    def check(self, files: Files) -> None:
        """Raises `InputError` unless these files are what the machine takes, and are there."""
        for name in ("image", "kernel"):
            path: Path | None = getattr(files, name)
            if path is None and name in self.needs:
                raise InputError(f"machine {self.name} needs --{name}")
        for path in (files.image, files.kernel, *files.disks):
            if path is not None and not path.is_file():
                raise InputError(f"there is no file {path}", fix="is it built?")
        if files.disks and "disk" not in self.when:
            raise InputError(f"machine {self.name} takes no --disk")
        if files.append is not None and "append" not in self.when:
            raise InputError(f"machine {self.name} takes no kernel command line")

    def _fill(self, part: str, values: Mapping[str, str]) -> str:
        """`part` with its placeholders filled in; commas doubled inside a list of options.

        In QEMU's ``a=b,c=d`` a literal comma is written twice (QEMU docs/system/invocation).
        """

        def value(found: re.Match[str]) -> str:
            try:
                text = values[found[1]]
            except KeyError:
                raise InputError(
                    f"{self.name}.toml names {found[0]}, which nothing fills in"
                ) from None
            return text if part == found[0] else text.replace(",", ",,")

        return _PLACEHOLDER.sub(value, part)


def _settings(given: Mapping[str, object], base: Settings) -> Settings:
    for f in fields(Settings):
        want = type(getattr(base, f.name))
        if f.name in given and type(given[f.name]) is not want:
            raise InputError(f"setting {f.name} is a {want.__name__}, not {given[f.name]!r}")
    if "smp" in given and int(str(given["smp"])) < 1:
        raise InputError(f"a machine has one CPU or more, not {given['smp']}")
    if unknown := set(given) - {f.name for f in fields(Settings)}:
        raise InputError(f"no such setting: {', '.join(sorted(unknown))}")
    return replace(base, **given)  # type: ignore[arg-type]


def directory() -> Path:
    """Where the machines' files are: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "qemu_configs"
    return inside if inside.is_dir() else package.parent / "qemu_configs"


def names() -> list[str]:
    """Names of the machines that come with the package."""
    return sorted(path.stem for path in directory().glob("*.toml"))


def load(name: str) -> Config:
    """The machine of that name, or of that TOML file. Raises `InputError`."""
    path = Path(name)
    if not name.endswith(".toml"):
        path = directory() / f"{name}.toml"
        if "/" in name or not path.is_file():
            raise InputError(
                f"there is no machine {name!r}",
                fix=f"one of {', '.join(names())}, or the path of a .toml file",
            )
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or "") from error
    except (ValueError, RecursionError) as error:
        # Of tomllib, and of what it calls: text that is no UTF-8, a number of 5,000 digits.
        raise InputError(f"{path} is no TOML", str(error)) from error
    try:
        return _config(data, path.parent)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} describes no machine",
            f"{type(error).__name__}: {error}",
            f"compare it with {directory() / 'lab.toml'}",
        ) from error


def _config(data: Mapping[str, object], folder: Path) -> Config:
    if unknown := set(data) - _KEYS:
        raise KeyError(f"unknown key {', '.join(sorted(unknown))}")
    markers, ends = _table(data.get("markers")), _table(data.get("exit"))
    firmware = data.get("firmware", ())
    if not isinstance(firmware, (list, tuple)):
        raise TypeError("firmware is no list")
    success = markers.get("success")
    ports = data.get("serial_ports", 1)
    if not isinstance(ports, int) or not 0 <= ports <= 4:
        raise ValueError("serial_ports is 0 to 4")
    return Config(
        name=str(data["name"]),
        about=str(data.get("about", "")),
        program=str(data["program"]),
        arguments=_strings(data["arguments"]),
        when={k: _strings(v) for k, v in _table(data.get("when")).items()},
        settings=_settings(_table(data.get("settings")), Settings()),
        serial_ports=ports,
        needs=_strings(data.get("needs", ())),
        success=None if success is None else str(success),
        failure=_strings(markers.get("failure", ())),
        progress=_strings(markers.get("progress", ())),
        exit_success=_statuses(ends.get("success", ())),
        exit_failed=_statuses(ends.get("failed", ())),
        adapter_file=_beside(data.get("adapter"), folder),
        firmware=tuple(
            Firmware(Path(str(pair["code"])), Path(str(pair["vars"]))) for pair in firmware
        ),
        kernel_has={k: str(v) for k, v in _table(data.get("kernel_has")).items()},
        disks=_disks(data.get("disks", ())),
    )


def _disks(value: object) -> tuple[CheckoutDisk, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError("disks is no list")
    return tuple(
        CheckoutDisk(**{**disk, "instead": _strings(disk.get("instead", ()))}) for disk in value
    )


def _beside(adapter: object, folder: Path) -> str | None:
    """The adapter's name, or its file beside the machine's."""
    if adapter is not None and not isinstance(adapter, str):
        raise TypeError("adapter is no text")
    if adapter is None or not adapter.endswith(".toml"):
        return adapter
    return str(folder / adapter)


def _table(value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no table")
    return value


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{value!r} is no list")
    if not all(isinstance(item, str) for item in value):
        raise TypeError(f"{value!r} has an item that is no string")
    return tuple(value)


def _statuses(value: object) -> frozenset[int]:
    if not isinstance(value, Sequence) or not all(isinstance(item, int) for item in value):
        raise TypeError(f"{value!r} is no list of exit statuses")
    return frozenset(value)
