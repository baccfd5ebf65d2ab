"""What leads out of the shell: the user's own gdb, a snapshot, Python."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent.commands.output import writable
from breenix_gdbagent.commands.shell.beside import Beside
from breenix_gdbagent.commands.shell.session import Line, Session, arguments
from breenix_gdbagent.errors import InputError

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
    with session.standing():
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
    from breenix_gdbagent import archive
    from breenix_gdbagent.checks.run import RunFacts
    from breenix_gdbagent.commands.target import description
    from breenix_gdbagent.report.document import History, RunRecord

    options = arguments(line, ("file", ""), ("memory", "?"))
    memory = options.memory or "kernel"
    if memory not in MEMORY:
        raise InputError(f"{memory!r} is none of {', '.join(MEMORY)}")
    path = Path(options.file).expanduser()
    writable(path)
    with session.standing():
        kernel = session.kernel
        record = RunRecord(seconds=kernel.stop.seconds)
        target = description(session.target) if session.target is not None else {"kind": "shell"}
        archive.save(path, kernel, memory, target, record, RunFacts(), History(), {})
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def do_ipython(session: Session, line: Line) -> int:
    arguments(line)
    with session.standing():
        return embed(session)


def embed(session: Session) -> int:
    """IPython where it is installed, else Python's own prompt."""
    import breenix_gdbagent as ba

    names: dict[str, object] = {"ba": ba, "session": session, "run": session.execute}
    if session.arbiter is not None:
        names["vm"] = session.arbiter.debugger.vm
    if session.known is not None or session.arbiter is not None:
        names["kernel"] = session.kernel
        names["stop"] = session.kernel.stop
    banner = f"breenix_gdbagent: {', '.join(sorted(names))}; run('COMMAND') is the shell"
    try:
        from IPython import start_ipython
    except ImportError:
        import code

        code.interact(banner + " (IPython is not installed)", local=names, exitmsg="")
        return 0
    start_ipython(argv=["--no-banner", "--no-confirm-exit"], user_ns=names)
    return 0
