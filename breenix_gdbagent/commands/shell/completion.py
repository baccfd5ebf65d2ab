"""What Tab offers: commands, symbols, fields, processes, addresses, files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from breenix_gdbagent.commands.shell.info import TOPICS
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.commands.shell.texts import ALIASES, COMMANDS, GROUPS, Takes, find
from breenix_gdbagent.errors import AgentError, InputError
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.x86.vectors import VECTOR_NAMES

MOST = 200
_PLACE = re.compile(r"(?P<file>[\w/.-]+\.rs):\d*\Z")
_PATH = re.compile(r"[A-Za-z_$`][\w:$`]*(?:\.\w*|\[\w*\]?)*\Z")
WHEN = ("process ", "cpu ", "count ", "if ")


class ShellCompleter(Completer):
    """Offers what fits where the cursor is. It never waits for a guest that runs."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._functions: list[str] | None = None

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """What may stand at the cursor, the nearest first."""
        text = document.text_before_cursor.lstrip()
        name, space, rest = text.partition(" ")
        if not space:
            yield from _commands(name)
            return
        try:
            command = find(name)
        except InputError:
            return
        word = rest.rpartition(" ")[2]
        offered = self._offered(command.name, command.takes, rest, word)
        seen: set[str] = set()
        for one in offered:
            if one not in seen:
                seen.add(one)
                yield Completion(one, -len(word))
            if len(seen) >= MOST:
                return

    def _offered(self, name: str, takes: Takes, rest: str, word: str) -> Iterator[str]:
        before = rest[: len(rest) - len(word)].split()
        if takes == "command":
            yield from _beginning(word, COMMANDS)
        elif takes == "topic":
            yield from _beginning(word, () if before else TOPICS)
        elif takes == "file":
            yield from files(word)
        elif takes == "point":
            yield from _beginning(word, self._points())
        elif takes == "space":
            yield from _beginning(word, self._roots())
        elif before and before[-1] in ("process", "--pid"):
            yield from _beginning(word, self._processes())
        elif before[-1:] == ["exception"]:
            yield from _beginning(word, (v.lstrip("#") for v in VECTOR_NAMES.values()))
        elif takes == "check":
            yield from self._invariant(word, before)
        elif takes in ("code", "value", "symbol"):
            yield from self._code(name, takes, word, before)
        elif name == "catch":
            yield from _beginning(word, ("all", "unexpected", "none"))
        elif name == "bt":
            yield from _beginning(word, ("--all", "--pid", "--thread", "--cpu", "--root"))

    def _invariant(self, word: str, before: list[str]) -> Iterator[str]:
        from breenix_gdbagent.checks.examine import CHECKS

        if not before:
            yield from _beginning(word, ("audit", *(n for n, _ in CHECKS)))
        elif before[-1] == "at":
            yield from self._symbols(word)
        else:
            yield from _beginning(word, ("at ",))

    def _code(self, name: str, takes: Takes, word: str, before: list[str]) -> Iterator[str]:
        if takes == "code" and not before:
            if name in ("break", "tbreak"):
                yield from _beginning(word, ("exception ",))
            yield from self._symbols(word)
            return
        if takes == "symbol":
            yield from self._addresses(word)
            yield from self._symbols(word)
            return
        if name in ("break", "tbreak", "checkpoint"):
            yield from _beginning(word, WHEN)
        if name == "watch" and not before:
            yield from _beginning(word, ("entry ", "-r ", "-a "))
        yield from self._values(word)

    # Of the kernel -----------------------------------------------------------------------------

    def _kernel(self) -> Kernel | None:
        """The stop at hand, None while the guest runs."""
        return None if self.session.running else self.session.known

    def _symbols(self, word: str) -> Iterator[str]:
        image = self.session.image
        bare = word.lstrip("`")
        if image is None or len(bare) < 2:
            return
        if self._functions is None:
            names = (s.name for s in image.symbols.symbols if s.executable or s.kind == "object")
            self._functions = sorted({n for n in names if " " not in n and "{" not in n}, key=len)
        lowered = bare.lower()
        tail = [n for n in self._functions if n.rpartition("::")[2].lower().startswith(lowered)]
        yield from tail
        yield from (n for n in self._functions if lowered in n.lower())

    def _values(self, word: str) -> Iterator[str]:
        """Registers, special names, statics; behind a dot the fields of what stands before it."""
        from breenix_gdbagent.evaluation.operands import REGISTERS

        found = _PATH.search(word)
        path = found[0] if found is not None else ""
        lead = word[: len(word) - len(path)]
        dot = path.rfind(".")
        if dot > 0:
            for name in self._fields(path[:dot]):
                if name.startswith(path[dot + 1 :]):
                    yield f"{lead}{path[: dot + 1]}{name}"
            return
        special = ("thread", "process", "tid", "pid", "cpu", "ring", "u64[")
        marked = [f"${r}" for r in sorted(REGISTERS)] if path.startswith("$") else sorted(REGISTERS)
        for name in _beginning(path, (*special, *marked)):
            yield lead + name
        image = self.session.image
        if image is not None and image.has_dwarf and len(path) >= 2:
            wanted = path.lower()
            names = [n for n in image.debug.index.statics if "<" not in n and "{" not in n]
            names = [n for n in names if wanted in n.lower()]
            names.sort(key=lambda n: (wanted not in n.rpartition("::")[2].lower(), n))
            yield from (lead + name for name in names)

    def _fields(self, path: str) -> list[str]:
        """Field names of a value at the stop at hand."""
        kernel = self._kernel()
        if kernel is None:
            return []
        from breenix_gdbagent.evaluation.expressions import parse
        from breenix_gdbagent.symbols.values import Value

        try:
            with self.session.while_stopped():
                value = parse(path, kept=self.session.kept).value(self.session.evaluation)
                return inner_fields(value) if isinstance(value, Value) else []
        except AgentError:
            return []

    def _addresses(self, word: str) -> Iterator[str]:
        """Addresses that are worth a walk: where the CPU is, the stacks."""
        kernel = self._kernel()
        if kernel is None or not (word.startswith("0") or not word):
            return
        cpu = kernel.stop.cpu
        places = [cpu.at, cpu.stack, cpu.get("cr2"), cpu.get("far_el1")]
        try:
            with self.session.while_stopped():
                for stack in (*kernel.stacks, *kernel.ist):
                    places += [stack.top - 8, stack.bottom]
        except AgentError:
            pass
        yield from _beginning(word, (f"{p:#x}" for p in places if p))

    def _processes(self) -> list[str]:
        kernel = self._kernel()
        if kernel is None:
            return []
        try:
            with self.session.while_stopped():
                spaces = [s for s in kernel.named_spaces if s.role == "process"]
        except AgentError:
            return []
        pids = [str(s.pid) for s in spaces if s.pid is not None]
        return pids + [s.name for s in spaces if s.name]

    def _roots(self) -> list[str]:
        kernel = self._kernel()
        return [] if kernel is None else [f"{s.root:#x}" for s in kernel.named_spaces]

    def _points(self) -> list[str]:
        arbiter = self.session.arbiter
        if arbiter is None:
            return []
        return [str(p.number) for p in arbiter.debugger.table if p.number > 0]


def inner_fields(value: object) -> list[str]:
    """Fields that `value.NAME` finds: its own, else those of what it wraps."""
    from breenix_gdbagent.errors import ReadError
    from breenix_gdbagent.symbols.values import Value

    here = value
    found: list[str] = []
    for _ in range(8):
        if not isinstance(here, Value):
            break
        try:
            peeled = here.peel()
            found += [*here.fields(), *peeled.fields()]
            here = peeled._inner()
        except (ReadError, InputError):
            break
    return list(dict.fromkeys(f.removeprefix("__") for f in found))


def _commands(word: str) -> Iterator[Completion]:
    for commands in GROUPS.values():
        for one in commands:
            if one.name.startswith(word):
                yield Completion(one.name, -len(word), display_meta=one.help)
    if word in ALIASES:
        yield Completion(ALIASES[word], -len(word), display_meta=COMMANDS[ALIASES[word]].help)


def _beginning(word: str, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if name.startswith(word))


def files(word: str) -> Iterator[str]:
    """Files and directories whose path begins with `word`."""
    folder, _, last = word.rpartition("/")
    base = Path(folder).expanduser() if folder else Path("/" if word.startswith("/") else ".")
    try:
        entries = sorted(os.scandir(base), key=lambda e: e.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(last) and (last or not entry.name.startswith(".")):
            lead = f"{folder}/" if folder or word.startswith("/") else ""
            yield f"{lead}{entry.name}{'/' if entry.is_dir() else ''}"
