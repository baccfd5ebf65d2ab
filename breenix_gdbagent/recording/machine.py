"""A machine that QEMU can record and play again: what has to be otherwise than its file says.

QEMU docs/system/replay.rst, and what was measured beyond it: with its KVM page for the APIC
(``kvmvapic``) QEMU waits for itself for ever inside a ``loadvm``; an e1000 stalls after one; every
disk that can be written has to be a file that keeps snapshots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from breenix_gdbagent.architectures import of_program
from breenix_gdbagent.configs import Config, Files
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.recording import manifest as names

_PLACED = ("ram", "run", "gdb_fd", "qmp_fd")
_OWN_NODE = "breenix-gdbagent-state"
_DISKS = {"-hda": 0, "-hdb": 1, "-hdc": 2, "-hdd": 3}
_NO_REPLAY = ("virtio-gpu", "virtio-keyboard", "virtio-tablet", "virtio-mouse", "virtio-rng")
_PAIR = re.compile(r"(?:[^,]|,,)+")


@dataclass(slots=True)
class Recordable:
    """A machine with placeholders left: ``{recording}`` and ``{disks}`` are directories. `copies`
    are files to be held as they are and `disks` raw images to be made qcow2, each with its name in
    the directory; `icount` is what stands behind ``-icount``."""

    config: Config
    words: list[str]
    copies: dict[str, Path] = field(default_factory=dict)
    disks: dict[str, Path] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    icount: str = "shift=auto"

    def machine(self, rr: str | None, loads: str | None = None) -> Config:
        """The machine that records or replays (`rr`), or runs under the instruction counter alone;
        `loads` is the snapshot that it begins with, without rr."""
        icount = self.icount
        if rr is not None:
            icount += f",rr={rr},rrfile={{recording}}/{names.LOG},rrsnapshot={names.INIT}"
        words = [*self.words, "-icount", icount]
        if loads is not None:
            words += ["-loadvm", loads]
        needs = tuple(name for name in self.config.needs if name == "kernel")
        return replace(self.config, arguments=tuple(words), when={}, firmware=(), needs=needs)


def recordable(config: Config, files: Files, elf: Path) -> Recordable:
    """The machine `config` with `files` as one that can be recorded; `elf` is its kernel's. Raises
    `InputError` for what cannot be, with what can be done instead, and `QemuMissing`."""
    _refuse(config)
    config.check(files)
    firmware = config.find_firmware()
    values = {name: f"{{{name}}}" for name in _PLACED}
    if firmware is not None:
        values |= {"firmware_code": str(firmware.code), "firmware_vars": str(firmware.vars)}
    out = Recordable(config, [], {names.KERNEL: elf.resolve()})
    if config.settings.network and _has_e1000(config.when.get("network", ())):
        config = config.with_settings(network=False)
        out.changes.append("no network: an e1000 cannot be played from a snapshot")
    words = config.command_line(_resolved(files), values)
    for word in words:
        _refuse_word(word, config.name)
    out.words = list(_converted(words, out))
    out.words += of_program(config.program).record_options
    state = f"if=none,id={_OWN_NODE},format=qcow2,file={{disks}}/state.qcow2"
    out.words += ["-drive", state]
    return out


def _resolved(files: Files) -> Files:
    return Files(
        None if files.image is None else files.image.resolve(),
        None if files.kernel is None else files.kernel.resolve(),
        tuple(disk.resolve() for disk in files.disks),
        files.append,
    )


def _refuse(config: Config) -> None:
    settings = config.settings
    if settings.smp > 1:
        raise InputError(
            f"a machine of {settings.smp} CPUs cannot be recorded",
            "QEMU records what one CPU does",
            "record it with --smp 1, or run it with: ci --deterministic --smp N",
        )
    if settings.accel != "tcg":
        raise InputError(
            f"a machine under {settings.accel} cannot be recorded",
            "only QEMU's own translation (tcg) counts instructions",
            "leave --accel away",
        )


def _refuse_word(word: str, machine: str) -> None:
    if word == "-enable-kvm" or re.search(r"\baccel=(?!tcg)\w+", word):
        raise InputError(
            f"machine {machine} is not run by tcg, which alone can be recorded",
            f"its file says {word}",
            "write accel={accel} there",
        )
    kind = word.partition(",")[0]
    if kind.startswith(_NO_REPLAY):
        raise InputError(
            f"machine {machine} has a device that does not replay: {kind}",
            "what it does is not written to QEMU's log",
            "record a machine without it: a copy of its file, --config FILE",
        )


def _has_e1000(words: Sequence[str]) -> bool:
    return any(re.match(r"e1000(,|$)", word) or "model=e1000" in word for word in words)


def _converted(words: list[str], out: Recordable) -> Iterator[str]:
    """QEMU's words with their files inside the recording. Raises `InputError`."""
    rest = iter(words)
    has_network = "-nodefaults" in words
    for word in rest:
        if word == "-icount":
            out.icount = _without_rr(next(rest, ""))
        elif word == "-device" or word in ("-nic", "-net"):
            has_network = has_network or word != "-device"
            yield from _device(word, next(rest, ""), out)
        elif word == "-netdev":
            yield from _netdev(next(rest, ""), words)
        elif word in _DISKS:
            yield "-drive"
            yield _drive(f"index={_DISKS[word]},media=disk,format=raw,file={next(rest, '')}", out)
        elif word == "-drive":
            yield word
            yield _drive(next(rest, ""), out)
        elif word == "-chardev":
            yield word
            yield _chardev(next(rest, ""))
        else:
            yield _held(word, out)
    if not has_network:
        yield from ("-nic", "none")


def _without_rr(value: str) -> str:
    kept = [part for part in value.split(",") if not part.startswith("rr")]
    return ",".join(kept) or "shift=auto"


def _device(word: str, value: str, out: Recordable) -> Iterator[str]:
    if _has_e1000([value]):
        out.changes.append("no network: an e1000 cannot be played from a snapshot")
        yield from ("-nic", "none")
        return
    yield word
    yield _held(value, out)


def _netdev(value: str, words: Sequence[str]) -> Iterator[str]:
    """What comes from a network is recorded by a filter (QEMU docs/system/replay.rst)."""
    found = re.search(r"\bid=([^,]+)", value)
    name = found[1] if found else ""
    if any(_has_e1000([word]) and f"netdev={name}" in word for word in words):
        return
    yield from ("-netdev", value, "-object", f"filter-replay,id=replay-{name},netdev={name}")


def _chardev(value: str) -> str:
    kind = value.partition(",")[0]
    ours = "{gdb_fd}" in value or "{qmp_fd}" in value
    if kind in ("socket", "udp", "pty") and not ours:
        raise InputError(
            f"a serial line by {kind} does not replay",
            f"the machine says -chardev {value}",
            "write it as: pipe,id=serial0,path={run}/serial0",
        )
    return value


def _drive(value: str, out: Recordable) -> str:
    """A drive inside the recording: one that is only read as it is, another as a qcow2 of the same
    content. Raises `InputError` for an image of another format than raw."""
    parts = dict(_split(value))
    file = parts.get("file")
    if file is None:
        return value
    path = Path(file.replace(",,", ","))
    if parts.get("readonly") == "on" or parts.get("media") == "cdrom":
        parts["file"] = f"{{recording}}/{_name(path, out.copies)}"
        return _joined(parts)
    with_format = parts.get("format", "raw")
    if with_format != "raw":
        raise InputError(
            f"{path.name} is {with_format}, and a recording is made of a raw image",
            fix=f"qemu-img convert -O raw {path.name} {path.stem}.img",
        )
    number = len(out.disks)
    name = f"disk{number}.qcow2"
    out.disks[name] = path
    parts.pop("snapshot", None)
    parts |= {"format": "qcow2", "file": f"{{disks}}/{name}"}
    return _joined(parts)


def _split(value: str) -> Iterator[tuple[str, str]]:
    """``a=b,c=d``; a comma inside is written twice."""
    for part in _PAIR.findall(value):
        key, _, rest = part.partition("=")
        yield key, rest


def _joined(parts: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" if value else key for key, value in parts.items())


def _held(word: str, out: Recordable) -> str:
    """A word of QEMU's that names a file, or has one in its list: that is held too."""
    if _is_file(word):
        return f"{{recording}}/{_name(Path(word), out.copies)}"
    parts = []
    for key, value in _split(word):
        plain = value.replace(",,", ",")
        if value and _is_file(plain):
            value = f"{{recording}}/{_name(Path(plain), out.copies)}"
        parts.append(f"{key}={value}" if value else key)
    joined = ",".join(parts)
    return joined if "{recording}" in joined else word


def _is_file(text: str) -> bool:
    return "/" in text and "{" not in text and Path(text).is_file()


def _name(path: Path, taken: dict[str, Path]) -> str:
    """The name that a file has in the recording: its own, unless another one has that."""
    for name, other in taken.items():
        if other == path:
            return name
    base = re.sub(r"[^\w.-]", "_", path.name)
    number = 0
    name = base
    while name in taken or name in (names.LOG, names.SERIAL, names.KERNEL, names.NAME):
        number += 1
        name = f"{number}-{base}"
    taken[name] = path
    return name
