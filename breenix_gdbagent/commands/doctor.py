"""``doctor``: what this machine has and lacks, with the install line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from breenix_gdbagent import configs
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.errors import AgentError, InputError, QemuMissing
from breenix_gdbagent.symbols.dwarf import Dwarf
from breenix_gdbagent.symbols.elf import ElfFile
from breenix_gdbagent.symbols.elf import build_id as own_build_id

PROGRAMS = (
    ("qemu-system-x86_64", "boots kernels", True, "qemu-system-x86"),
    ("gdb", "judges our answers, `shell` bridges to it", False, "gdb"),
    ("addr2line", "judges lines and inlines in the tests", False, "binutils"),
    ("chromium", "tests the HTML report", False, "chromium"),
)
LIBRARIES = ("construct", "prompt_toolkit", "qemu.qmp", "rich", "capstone", "jinja2")
OPTIONAL = (
    ("pyelftools", "`doctor --kernel`: `pip install pyelftools`"),
    ("pygdbmi", "asks a gdb of ours: `pip install pygdbmi`"),
    ("ipython", "`shell --ipython`: `pip install ipython`"),
)
SECONDS = 10
KVM_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Item:
    """One thing: whether it is here, what of it, and how to get it."""

    name: str
    ok: bool
    needed: bool
    found: str
    install: str = ""


def run(name: str, argv: list[str]) -> int:
    """``doctor [--kernel ELF] [--json]``; exit 1 when something that is needed is missing."""
    options = build(name).parse_args(argv)
    items = [*_programs(), _firmware(), *_libraries(), _rundir(), _process_memory(), _kvm()]
    if options.kernel is not None:
        items += _kernel(options.kernel)
    missing = any(i.needed and not i.ok for i in items)
    if options.json:
        print_json(
            [
                {
                    "name": i.name,
                    "ok": i.ok,
                    "needed": i.needed,
                    "found": i.found,
                    "install": i.install or None,
                }
                for i in items
            ]
        )
        return int(missing)
    width = max(len(i.name) for i in items)
    for i in items:
        state = "ok     " if i.ok else "MISSING" if i.needed else "absent "
        print(f"{state}  {i.name:<{width}}  {i.found}")
        if not i.ok and i.install:
            print(f"{'':7}  {'':<{width}}  install it: {i.install}")
    return int(missing)


def build(name: str) -> Parser:
    """The options of `doctor`."""
    parser = Parser("breenix-gdbagent doctor")
    parser.add_argument("--kernel", type=Path, metavar="ELF", help="what a kernel's ELF offers")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _kernel(path: Path) -> list[Item]:
    """What an ELF offers, by pyelftools; and whether the agent's own readers read the same in it.

    Raises `InputError` for what is no ELF.
    """
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        raise InputError(
            f"{path.name} cannot be read twice",
            "pyelftools is not installed",
            "pip install pyelftools",
        ) from None
    try:
        with path.open("rb") as file:
            return _read_twice(path, ELFFile(file))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ELFError, ValueError, KeyError, AssertionError) as error:
        raise InputError(f"{path.name} is no ELF that can be read: {error}") from error


def _read_twice(path: Path, elf: Any) -> list[Item]:
    from elftools.elf.sections import NoteSection, SymbolTableSection

    table = elf.get_section_by_name(".symtab")
    symbols = table.num_symbols() if isinstance(table, SymbolTableSection) else 0
    units = list(elf.get_dwarf_info().iter_CUs()) if elf.has_dwarf_info() else []
    told = ", ".join(str(v) for v in sorted({unit["version"] for unit in units}))
    notes = [n for s in elf.iter_sections() if isinstance(s, NoteSection) for n in s.iter_notes()]
    build_id = next((n["n_desc"] for n in notes if n["n_type"] == "NT_GNU_BUILD_ID"), None)
    places = {(s.name, s["sh_addr"], s["sh_size"]) for s in elf.iter_sections()}
    machine = elf.get_machine_arch()
    without = "no build-id: a snapshot knows its kernel by the file's hash alone"
    return [
        Item("kernel machine", machine == "x64", True, machine, "build it for x86_64"),
        Item("kernel symbols", symbols > 0, False, f"{symbols} in .symtab"),
        Item(
            "kernel types",
            bool(units),
            False,
            f"DWARF {told}" if told else "no DWARF: no processes, threads, values; see the README",
        ),
        Item("kernel build-id", build_id is not None, False, build_id or without),
        _compared(path, places, build_id, [unit.cu_offset for unit in units]),
    ]


def _compared(
    path: Path, places: set[tuple[str, int, int]], build_id: str | None, units: list[int]
) -> Item:
    """Our own readers beside pyelftools: sections (name, address, size), build-id, DWARF units."""
    name = "kernel, read twice"
    try:
        ours = ElfFile(path)
        differ = [
            what
            for what, same in (
                ("sections", places == {(s.name, s.address, s.size) for s in ours.sections}),
                ("build-id", build_id == own_build_id(ours)),
                ("DWARF units", units == Dwarf(ours).unit_offsets),
            )
            if not same
        ]
    except AgentError as error:
        return Item(name, False, False, f"pyelftools reads it, and we do not: {error.what}")
    if differ:
        return Item(name, False, False, f"pyelftools reads other {', '.join(differ)} than we do")
    found = f"pyelftools and we read the same {len(places)} sections and {len(units)} DWARF units"
    return Item(name, True, False, found)


def _programs() -> list[Item]:
    items = []
    for program, use, needed, package in PROGRAMS:
        path = shutil.which(program)
        found = _version(path) if path else f"{use}; not installed"
        items.append(Item(program, bool(path), needed, found, f"apt-get install {package}"))
    return items


def _version(path: str) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start: {error}"
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines else "says no version"


def _firmware() -> Item:
    try:
        pair = configs.load("breenix").find_firmware()
    except QemuMissing as error:
        return Item("UEFI firmware", False, True, error.what, "apt-get install ovmf")
    return Item("UEFI firmware", True, True, str(pair.code) if pair else "not needed")


def _libraries() -> list[Item]:
    items = []
    for library in LIBRARIES:
        version = _installed(library)
        items.append(
            Item(library, version is not None, True, version or "", f"pip install {library}")
        )
    for library, use in OPTIONAL:
        version = _installed(library)
        items.append(Item(library, version is not None, False, version or use, ""))
    return items


def _installed(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _rundir() -> Item:
    place = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    room = free >= 512 << 20
    found = f"{free >> 20} MiB free in {place} for the guest's RAM file"
    return Item("run directory", room and os.access(place, os.W_OK), True, found, "free some space")


def _process_memory() -> Item:
    if sys.platform != "linux":
        return Item("process memory", False, False, "Linux only; RAM file or gdbstub serve instead")
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    level = scope.read_text(encoding="ascii").strip() if scope.is_file() else "0"
    ok = level in ("0", "1") or os.geteuid() == 0
    return Item(
        "process memory", ok, False, f"ptrace_scope {level}: fast reads when attached without --ram"
    )


def _kvm() -> Item:
    """Whether the lab guest runs under it: that the device can be opened shows too little."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Item("KVM", False, False, "no usable /dev/kvm; TCG is the default anyway")
    from breenix_gdbagent import targets

    try:
        with targets.lab("clean", accel="kvm").vm as vm:
            marker = vm.config.success if vm.config is not None else None
            reason = vm.run([marker or ""], KVM_SECONDS)
    except AgentError as error:
        why = error.why or error.what
        return Item("KVM", False, False, f"/dev/kvm is there, and runs no guest of ours: {why}")
    if reason.kind != "marker":
        found = f"the lab guest did not come to its end under it: {reason.kind}"
        return Item("KVM", False, False, f"/dev/kvm is there, and {found}")
    return Item("KVM", True, False, f"the lab guest ran under it in {vm.clock.seconds():.2f} s")
