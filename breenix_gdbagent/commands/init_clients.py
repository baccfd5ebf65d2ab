"""``init agent`` and ``init editor``: files that make a kernel's repository know of us."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from breenix_gdbagent.agents.skills import skill_text, with_section
from breenix_gdbagent.commands import Parser
from breenix_gdbagent.editors import launching
from breenix_gdbagent.errors import InputError
from breenix_gdbagent.wholefile import appearing

SKILLS = ".claude/skills"


def agent(argv: list[str]) -> int:
    """``init agent [DIR]``: a skill, and a section of AGENTS.md."""
    options = build_agent().parse_args(argv)
    root = _directory(options.directory)
    name = f"{options.skills.rstrip('/')}/breenix-gdbagent/SKILL.md"
    book = root / "AGENTS.md"
    try:
        before = book.read_text(encoding="utf-8") if book.exists() else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{book} is no text file") from error
    _write(root / name, skill_text(), force=options.force)
    _write(book, with_section(before, name), force=True)
    print("with MCP besides, for a client that has it:")
    print(f"  claude mcp add breenix-gdbagent -- {_program()} mcp")
    return 0


def build_agent() -> Parser:
    """The options of `init agent`."""
    parser = Parser("breenix-gdbagent init agent")
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path(), metavar="DIR",
        help="the kernel's repository (where you are)",
    )  # fmt: skip
    parser.add_argument("--skills", default=SKILLS, metavar="DIR", help=f"skills ({SKILLS})")
    parser.add_argument("--force", action="store_true", help="replace a skill that is there")
    return parser


def editor(argv: list[str]) -> int:
    """``init editor [DIR]``: launch configurations of VS Code."""
    options = build_editor().parse_args(argv)
    root = _directory(options.directory)
    for name in (launching.EXTENSION, launching.LAUNCH):
        if (root / name).exists() and not options.force:
            raise InputError(f"{root / name} is there already", fix="use --force to replace it")
    _write(root / launching.EXTENSION, launching.extension(_program()), force=True)
    _write(root / launching.LAUNCH, launching.launch_configurations(), force=True)
    print("next: open the folder in VS Code (1.89 or newer), install the workspace's recommended")
    print("  extension breenix-gdbagent, and start one of the configurations")
    return 0


def build_editor() -> Parser:
    """The options of `init editor`."""
    parser = Parser("breenix-gdbagent init editor")
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path(), metavar="DIR",
        help="the kernel's repository (where you are)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    return parser


def _directory(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"there is no directory {path}", fix="name the kernel's repository")
    return path


def _program() -> str:
    """Our own command, as a client can start it from anywhere."""
    own = Path(sys.argv[0])
    found = str(own.absolute()) if own.name == "breenix-gdbagent" else None
    return found or shutil.which("breenix-gdbagent") or "breenix-gdbagent"


def _write(path: Path, text: str, *, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{path} is there already", fix="use --force to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as out:
        out.write(text.encode())
    print(path)
