"""``dap``: a Debug Adapter on stdio."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from breenix_gdbagent import lab
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.guarding import guarded
from breenix_gdbagent.editors.adapter import Adapter
from breenix_gdbagent.editors.wire import Message, framed, read_message


def run(name: str, argv: list[str]) -> int:
    """``dap [--source DIR]``: serves the editor that started it, until that is gone."""
    options = build(name).parse_args(argv)
    # Only the protocol's messages go out on stdout: whatever else is printed goes to stderr.
    wire = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(message: Message) -> None:
        try:
            wire.write(framed(message))
            wire.flush()
        except (BrokenPipeError, ValueError):
            return  # the editor is gone, which its silence tells too

    adapter = Adapter(send, guarded, (*options.source, *lab.sources()))
    adapter.serve(lambda: read_message(sys.stdin.buffer))
    return 0


def build(name: str) -> Parser:
    """The options of `dap`."""
    parser = Parser("breenix-gdbagent dap")
    parser.add_argument(
        "--source", type=Path, action="append", default=[], metavar="DIR",
        help="where the kernel's source lies",
    )  # fmt: skip
    return parser
