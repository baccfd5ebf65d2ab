"""``breenix-gdbagent`` and ``python -m breenix_gdbagent``."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from breenix_gdbagent import startup

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is the contract's."""
    from breenix_gdbagent.commands import run

    return run(sys.argv[1:] if argv is None else argv)


def process() -> NoReturn:
    """`main` as a whole process, from its first moment to its last.

    Until a command has its own handlers there is nothing to clean up, and once its answer is out
    no signal may change the code.
    """
    startup.collect_rarely()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _too_early)
    sys.unraisablehook = _hear_again
    _open_standard_streams()
    startup.put_off()
    startup.share_methods()
    code = main()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    startup.end_at_once(code)


def _open_standard_streams() -> None:
    """Who started us may have closed them (``>&-``): then Python has None there, and the next file
    that is opened, QEMU's socket say, takes their number and gets our answer. In their place comes
    a device that reads as empty, refuses an answer (it would be lost) and swallows errors."""
    modes = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)
    for number, (name, mode) in enumerate(zip(("stdin", "stdout", "stderr"), modes, strict=True)):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, mode)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
        stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _too_early(number: int, frame: object) -> NoReturn:
    """A signal while Python is still importing us."""
    what = "interrupted" if number == signal.SIGINT else "terminated"
    os.write(2, f"breenix-gdbagent: {what} before it began\n".encode())
    os._exit(3)


def _hear_again(lost: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that came inside a callback which cannot raise (importlib's locks have one) would
    be printed and forgotten: it comes again a moment later."""
    numbers = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
    number = numbers.get(lost.exc_type)
    if number is None:
        sys.__unraisablehook__(lost)
        return
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001)


if __name__ == "__main__":
    process()
