"""``bt ps threads locks heap frames symbol print type list disassemble``: names on any target."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from breenix_gdbagent.addresses import hex64
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.examined import add_run_options, kernel_of
from breenix_gdbagent.commands.frames import bt
from breenix_gdbagent.commands.output import print_json
from breenix_gdbagent.commands.target import add_target_options, target_of
from breenix_gdbagent.errors import ReadError, SymbolNotFound
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.locations import parse_number
from breenix_gdbagent.report import names as shown
from breenix_gdbagent.report.numbers import LETTERS
from breenix_gdbagent.symbols import LoadedImage
from breenix_gdbagent.symbols.spots import spots
from breenix_gdbagent.views.roots import root_of

if TYPE_CHECKING:
    from breenix_gdbagent.evaluation.evaluation import Evaluation

Verb = Callable[[Kernel, argparse.Namespace], int]
AROUND = 5  # source lines above and below
INSTRUCTIONS = 12
WIDTH = 100  # columns of a printed value


def run(name: str, argv: list[str]) -> int:
    """One of the commands that name things; see each parser."""
    options = build(name).parse_args(argv)
    if name in OF_THE_ELF and elf_alone(options):
        with elf_kernel(options.kernel) as kernel:
            return answer(name, kernel, options)
    target = target_of(options, default_lab=False)
    with kernel_of(target) as kernel:
        return answer(name, kernel, options)


OF_THE_ELF = ("symbol", "type", "list", "disassemble")
"""What is asked of the file alone has an answer without a guest."""


def elf_alone(options: argparse.Namespace) -> bool:
    """Whether --kernel is all that names a target."""
    others = ("lab", "breenix", "image", "gdb", "replay", "snapshot", "config")
    return options.kernel is not None and all(getattr(options, one) is None for one in others)


@contextmanager
def elf_kernel(path: Path) -> Iterator[Kernel]:
    """A stop of no guest: the ELF at its link addresses. Raises `InputError`."""
    from breenix_gdbagent.live.frozen import NoMemory
    from breenix_gdbagent.stop import Stop, StopReason
    from breenix_gdbagent.symbols import Image

    image = Image.open(path).loaded(0)
    yield Kernel(Stop((), NoMemory("no guest is looked at"), StopReason("elf"), image=image))


def answer(name: str, kernel: Kernel, options: argparse.Namespace) -> int:
    """Answer at one stop. What the stop lacks is said in one sentence, exit 1."""
    try:
        return VERBS[name](kernel, options)
    except SymbolNotFound as error:
        if options.json:
            print_json({"not_found": error.what, "near": list(error.near)})
        else:
            print(error)
        return 1
    except ReadError as error:
        if options.json:
            print_json({"not_checked": error.what})
        else:
            print(f"not checked: {error}")
        return 1


def build(name: str) -> Parser:
    """The options of one of the commands that name things."""
    parser = Parser(f"breenix-gdbagent {name}")
    add_arguments(name, parser)
    add_target_options(parser)
    add_run_options(parser)
    return parser


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of one command, without the target's; the shell's are the same."""
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    if name == "bt":
        parser.add_argument("what", nargs="*", metavar="COUNT|full", help="so many frames")
        parser.add_argument("--full", "-full", action="store_true", help="with their variables")
        parser.add_argument("--pid", metavar="N", help="the frames of a process")
        parser.add_argument("--thread", metavar="N", help="the frames of a thread")
        parser.add_argument("--all", action="store_true", help="every CPU and thread")
        parser.add_argument("--cpu", metavar="N", help="the frames of a CPU")
        parser.add_argument("--root", metavar="CR3", help="read the stacks of the CPUs under it")
    elif name in ("symbol", "print", "type"):
        parser.add_argument("what", metavar=_WHAT[name], help=_MEANT[name])
    elif name in ("list", "disassemble"):
        default = "default: RIP" + ("; N: a line of RIP's file" if name == "list" else "")
        parser.add_argument("what", nargs="?", metavar="LOCATION", help=default)
    if name == "print":
        parser.add_argument("--format", metavar="F", choices=LETTERS, help="as gdb's print/F")
    if name in ("symbol", "print", "list", "disassemble"):
        parser.add_argument("--pid", metavar="N|NAME", help="whose addresses are meant")
    if name == "list":
        parser.add_argument("--source", type=Path, metavar="DIR", help="where the source lies")
    if name == "disassemble":
        parser.add_argument(
            "--count", type=int, default=INSTRUCTIONS, metavar="N",
            help=f"instructions ({INSTRUCTIONS})",
        )  # fmt: skip


def _evaluation(kernel: Kernel, options: argparse.Namespace) -> Evaluation:
    """What expressions are evaluated on: the stop's CPU, in the process that --pid names."""
    from breenix_gdbagent.evaluation.evaluation import Evaluation

    root = None if options.pid is None else root_of(kernel, None, options.pid)
    return Evaluation.of(kernel, root=root)


_WHAT = {"symbol": "NAME|ADDRESS", "print": "EXPR", "type": "PATH"}
_MEANT = {
    "symbol": "a name or an address of the kernel",
    "print": "a static, a field, a register, or what is reckoned of them",
    "type": "a Rust type; its last names suffice",
}


def _location(
    kernel: Kernel, text: str | None, image: LoadedImage | None, options: argparse.Namespace
) -> int:
    """RIP, or what ``0x...``, ``symbol+offset``, ``file.rs:12`` or an expression names; the first
    of several."""
    if text is None:
        return kernel.stop.cpu.rip
    number = parse_number(text)
    if number is not None:
        return number
    from breenix_gdbagent.evaluation.places import find_place

    elf = None if image is None else image.image
    place = find_place(text, elf, _evaluation(kernel, options))
    return place.at(0 if image is None else image.bias)[0]


def _placed(kernel: Kernel, text: str | None) -> LoadedImage | None:
    """The kernel's ELF where it runs, None where none is given. Raises `ReadError` for a name while
    it is not known where that is."""
    stop = kernel.stop
    if stop.unplaced is not None and text is not None and parse_number(text) is None:
        return stop.loaded
    return stop.image


def anywhere(kernel: Kernel) -> LoadedImage:
    """The kernel's ELF where it runs, at its link addresses while that is not known yet: what is
    asked by name has an answer all the same."""
    stop = kernel.stop
    return stop.elf.loaded(0) if stop.image is None else stop.image


# Processes, threads, allocators ---------------------------------------------------------------


def _ps(kernel: Kernel, options: argparse.Namespace) -> int:
    try:
        table = kernel.structures.processes
    except ReadError as error:
        return _ps_by_root(kernel, options, error)
    if options.json:
        print_json([shown.process_json(p) for p in table.processes])
    else:
        print(shown.processes_text(table.processes, table.locked))
    return 0


def _ps_by_root(kernel: Kernel, options: argparse.Namespace, lacking: ReadError) -> int:
    """Processes without the kernel's types: the roots that are a process's, with the names that
    its log has for them. Raises `ReadError` where there are none."""
    roots = [space for space in kernel.spaces if space.role == "process"]
    if not roots:
        raise lacking
    if options.json:
        print_json([shown.root_json(space) for space in roots])
    else:
        print(shown.roots_text(roots, lacking.what))
    return 0


def _threads_by_cpu(kernel: Kernel, options: argparse.Namespace, lacking: ReadError) -> int:
    """The threads that run, by the per-CPU blocks. Raises `ReadError` where there are none."""
    rows = [
        (cpu.index, block, kernel.thread_name(cpu))
        for cpu in kernel.stop.cpus
        if (block := kernel.percpu_of(cpu)) is not None and block.current_thread
    ]
    if not rows:
        raise lacking
    if options.json:
        print_json([shown.running_json(cpu, block, name) for cpu, block, name in rows])
    else:
        print(shown.running_text(rows, lacking.what))
    return 0


def _threads(kernel: Kernel, options: argparse.Namespace) -> int:
    try:
        scheduler = kernel.structures.scheduler
    except ReadError as error:
        return _threads_by_cpu(kernel, options, error)
    rows = list(scheduler.threads)
    try:
        rows += [p.thread for p in kernel.structures.processes.processes if p.thread is not None]
    except ReadError as error:
        if not options.json:
            print(f"process copies are not checked: {error.what}")
    rows.sort(key=lambda t: (t.id, t.copy))
    if options.json:
        print_json([shown.thread_json(t, scheduler) for t in rows])
    else:
        print(shown.threads_text(rows, scheduler, kernel.describe))
    return 0


def _locks(kernel: Kernel, options: argparse.Namespace) -> int:
    from breenix_gdbagent.kernel.locks import locks

    found = locks(kernel)
    if options.json:
        print_json(shown.locks_json(found))
    else:
        print(shown.locks_text(found))
    return 0


def _heap(kernel: Kernel, options: argparse.Namespace) -> int:
    heap = kernel.structures.heap
    if options.json:
        print_json(shown.heap_json(heap))
    else:
        print(shown.heap_text(heap))
    return 0


def _frames(kernel: Kernel, options: argparse.Namespace) -> int:
    frames = kernel.structures.frames
    if options.json:
        print_json(shown.frames_json(frames))
    else:
        print(shown.frames_text(frames))
    return 0


# Symbols, values, code ------------------------------------------------------------------------


def _symbol(kernel: Kernel, options: argparse.Namespace) -> int:
    image = kernel.stop.loaded
    from breenix_gdbagent.evaluation.expressions import address_at

    va = address_at(_evaluation(kernel, options), options.what)
    hit = image.symbol_at(va)
    lines = spots(image, va)
    if options.json:
        print_json(
            {
                "address": hex64(va),
                "name": hit.name if hit is not None else None,
                "offset": hex64(hit.offset) if hit is not None else None,
                "also": list[Json](hit.also) if hit is not None else [],
                "lines": [
                    {"function": s.function, "file": s.file, "line": s.line, "inlined": s.inlined}
                    for s in lines
                ],
            }
        )
    elif hit is None:
        print(f"no symbol covers {hex64(va)}")
    else:
        print(f"{hex64(va)} {hit}")
        for other in hit.also:
            print(f"  or {other}, the same code")
        for spot in lines:
            print(f"  {'inlined ' if spot.inlined else ''}{spot}")
    return 0 if hit is not None else 1


def _print(kernel: Kernel, options: argparse.Namespace) -> int:
    from breenix_gdbagent.commands.printing import printed, printed_json, split_format

    letter, text = split_format(options.what)
    letter = options.format or letter
    found = printed(_evaluation(kernel, options), text, WIDTH, letter)
    if options.json:
        print_json(printed_json(found))
    else:
        print("\n".join(found.lines))
    return 0


def _type(kernel: Kernel, options: argparse.Namespace) -> int:
    from breenix_gdbagent.symbols.types import describe, type_of

    elf = kernel.stop.elf
    if not elf.has_dwarf:
        raise ReadError("the kernel's ELF has no debug information (DWARF)")
    types = elf.debug.types
    found = type_of(types, options.what)
    lines = describe(types, found)
    if options.json:
        print_json(
            {
                "type": types.path(found),
                "size": found.size,
                "members": [
                    {
                        "name": m.name,
                        "offset": m.offset,
                        "type": types.at(m.type).name,
                        "size": types.at(m.type).size,
                    }
                    for m in found.members
                ],
                "layout": lines,
            }
        )
    else:
        print("\n".join(lines))
    return 0


def _list(kernel: Kernel, options: argparse.Namespace) -> int:
    image = anywhere(kernel)
    line = int(options.what) if (options.what or "").isdecimal() else None
    va = _location(kernel, None if line is not None else options.what, image, options)
    chain = spots(image, va)
    if not chain or chain[0].file is None or chain[0].line is None:
        why = "" if image.image.has_dwarf else ": the ELF has no debug information (DWARF)"
        raise ReadError(f"no source line is known for {called(image, va)}{why}")
    spot = chain[0]
    wanted = (spot.line if line is None else line) or 0
    lines = source_lines(spot.file or "", wanted, options.source)
    if options.json:
        source: list[Json] = [{"line": number, "text": text} for number, text in lines]
        address = hex64(va) if line is None else None
        print_json(
            {"address": address, "file": spot.file, "line": wanted, "source": source or None}
        )
        return 0
    place = f"{spot.file}:{wanted}"
    print(place if line is not None else f"{called(image, va)} is at {place}")
    if not lines:
        where = "here" if options.source is None else f"below {options.source}"
        print(f"that file was not found {where}: --source DIR says where the kernel's source lies")
    for number, text in lines:
        print(f"{'>' if number == wanted else ' '}{number:5} {text}")
    return 0


def called(image: LoadedImage, va: int) -> str:
    """An address with its symbol."""
    name = image.name_of(va)
    return f"{hex64(va)} <{name}>" if name else hex64(va)


def source_lines(file: str, line: int, directory: Path | None) -> list[tuple[int, str]]:
    """Lines around one of a source file, looked for below `directory` or where it says; [] when
    the source is not at hand."""
    from breenix_gdbagent.views.sources import text_of

    text = text_of(() if directory is None else (directory,), file)
    first = max(line - AROUND, 1)
    return [(n, text[n - 1]) for n in range(first, min(line + AROUND, len(text)) + 1)]


def _disassemble(kernel: Kernel, options: argparse.Namespace) -> int:
    from breenix_gdbagent.report.code import code_json, code_text
    from breenix_gdbagent.views.instructions import named_instructions

    va = _location(kernel, options.what, _placed(kernel, options.what), options)
    if kernel.stop.reason.kind == "elf":
        return _disassemble_file(kernel, va, options)
    root = kernel.stop.cpu.root if options.pid is None else root_of(kernel, None, options.pid)
    if root is None:
        raise ReadError("no CPU's CR3 is known")
    found = named_instructions(kernel, root, va, options.count)
    if options.json:
        print_json(code_json(found))
    else:
        print(code_text(found, kernel.stop.cpu.at))
    return 0


def _disassemble_file(kernel: Kernel, va: int, options: argparse.Namespace) -> int:
    """Instructions as the ELF has them, at link addresses."""
    from dataclasses import replace

    from breenix_gdbagent.report.code import code_json, code_text
    from breenix_gdbagent.views.instructions import instructions

    image = kernel.stop.loaded.image

    def read(address: int, length: int) -> bytes:
        for size in (length, 15, 1):
            found = image.read(address, min(size, length))
            if found is not None:
                return found
        raise ReadError(f"the ELF has no bytes for {hex64(address)}")

    plain = instructions(kernel.arch, read, va, options.count)
    found = [replace(i, symbol=kernel.symbol(i.address)) for i in plain]
    if options.json:
        print_json(code_json(found))
    else:
        print(code_text(found, None))
    return 0


VERBS: dict[str, Verb] = {
    "bt": bt,
    "ps": _ps,
    "threads": _threads,
    "locks": _locks,
    "heap": _heap,
    "frames": _frames,
    "symbol": _symbol,
    "print": _print,
    "type": _type,
    "list": _list,
    "disassemble": _disassemble,
}
