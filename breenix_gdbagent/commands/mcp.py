"""``mcp``: a Model Context Protocol server on stdio."""

from __future__ import annotations

from pathlib import Path

from breenix_gdbagent import lab
from breenix_gdbagent.agents.session import Session
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.commands.guarding import guarded
from breenix_gdbagent.errors import AgentError
from breenix_gdbagent.startup import put_back

PACKAGE = "mcp>=2,<3"


def run(name: str, argv: list[str]) -> int:
    """``mcp [--write] [--source DIR]``: serves the client that started it, until that is gone."""
    options = build(name).parse_args(argv)
    put_back()
    try:
        from breenix_gdbagent.agents.server import serve
    except ImportError as error:
        lacking = (error.name or "").partition(".")[0]
        if lacking not in ("mcp", "mcp_types", "anyio"):
            raise
        raise AgentError(
            "the MCP server needs the protocol's SDK, which is not installed",
            f"there is no module {error.name!r} of version 2",
            f"pip install '{PACKAGE}'",
        ) from error
    session = Session(write=options.write, sources=(*options.source, *lab.sources()))
    serve(session, guarded)
    return 0


def build(name: str) -> Parser:
    """The options of `mcp`."""
    parser = Parser("breenix-gdbagent mcp")
    parser.add_argument(
        "--write", action="store_true", help="tools may write into the guest (type on its console)"
    )
    parser.add_argument(
        "--source", type=Path, action="append", default=[], metavar="DIR",
        help="where the kernel's source lies",
    )  # fmt: skip
    return parser
