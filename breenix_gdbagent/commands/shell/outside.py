"""The shell's commands that lead out of it: the user's own gdb, a snapshot file, IPython."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

from breenix_gdbagent.commands.output import writable
from breenix_gdbagent.commands.shell.beside import Beside
from breenix_gdbagent.commands.shell.line import Line, arguments
from breenix_gdbagent.commands.shell.session import Session
from breenix_gdbagent.errors import InputError, SaveIncomplete
from breenix_gdbagent.jsonvalue import Json

MEMORY = ("tables", "kernel", "all")


def do_gdb(session: Session, line: Line) -> int:
    """Without words a bridge for the user's own gdb; else a question to one of ours."""
    if not line.text:
        bridge = Beside.of(session).bridge()
        kernel = session.debugger.image
        elf = kernel.path if kernel is not None else "KERNEL"
        print(f"gdb {elf} -ex 'target remote {bridge.server.path}'")
        print("  both see every stop; `monitor COMMAND` in gdb is this shell")
        return 0
    # Not while holding the guest: gdb asks it through a bridge of ours, from another thread.
    with session.while_stopped():
        session.kernel  # noqa: B018  (raises while the guest runs)
    gdb = Beside.of(session).gdb()
    # It caches registers and memory of the stop that it saw last.
    gdb.console("maintenance flush register-cache")
    gdb.console("maintenance flush dcache")
    if line.text.startswith("!"):
        print(gdb.console(line.text[1:].strip()).rstrip("\n"))
    else:
        print(gdb.evaluate(line.text))
    return 0


def do_save(session: Session, line: Line) -> int:
    from breenix_gdbagent import run_report
    from breenix_gdbagent.checks.run import facts_of
    from breenix_gdbagent.commands.target import description
    from breenix_gdbagent.report.document import History, RunRecord

    options = arguments(line, ("file", ""), ("memory", "?"))
    memory = options.memory or "kernel"
    if memory not in MEMORY:
        raise InputError(f"{memory!r} is none of {', '.join(MEMORY)}")
    path = Path(options.file).expanduser()
    writable(path)
    with session.while_stopped():
        kernel = session.kernel
        record, target = RunRecord(seconds=kernel.stop.seconds), description(session.target)
        facts = facts_of(kernel.stop.reason)
        lacking = None
        try:
            wrote = session.debugger.written if session.arbiter is not None else []
            machine: dict[str, Json] = {"written": list[Json](wrote)} if wrote else {}
            run_report.save(path, kernel, memory, target, record, facts, History(), machine)
        except SaveIncomplete as incomplete:
            lacking = incomplete
    print(f"{path}: {path.stat().st_size:,} bytes")
    if lacking is not None:
        raise lacking
    return 0


def do_ipython(session: Session, line: Line) -> int:
    arguments(line)
    # Not what this command prints: it has the terminal, and no pager must wait for its end.
    with session.while_stopped(), redirect_stdout(sys.__stdout__):
        return embed(session)


def embed(session: Session) -> int:
    """IPython on the guest; the shell goes on where Python has left it. Raises `InputError` where
    IPython is not installed, and where nobody sits at a terminal."""
    try:
        from IPython import start_ipython
    except ImportError:
        raise InputError("IPython is not installed", fix="pip install ipython") from None
    if not sys.stdin.isatty():
        raise InputError("IPython needs a terminal", fix="in a script: import breenix_gdbagent")
    import breenix_gdbagent as ba

    names: dict[str, object] = {"ba": ba, "kernel": session.kernel, "stop": session.kernel.stop}
    if session.arbiter is not None:
        vm = names["vm"] = ba.Vm(session.arbiter)
        vm.event = session.event
    print(f"breenix_gdbagent: {', '.join(sorted(names))}; Ctrl-D leaves")
    start_ipython(argv=["--no-banner", "--no-confirm-exit"], user_ns=names)
    return 0
