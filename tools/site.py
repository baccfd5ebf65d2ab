"""The pages of the docs site: ``python tools/site.py OUT`` copies docs/ and writes what is generated
(commands, finding codes, JSON schema); mkdocs makes HTML of OUT (mkdocs.yml, `make docs`).

mkdocs-material: its pages are Markdown as the repository's are, searchable without a server, and
mkdocstrings writes the Python API out of the docstrings; Sphinx would want them in another markup.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from breenix_gdbagent.checks.finding import Code
from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.commands import COMMANDS
from breenix_gdbagent.commands.alltogether import every_parser
from breenix_gdbagent.commands.manual import PAGES, PROGRAM
from breenix_gdbagent.commands.shell.texts import overview
from breenix_gdbagent.lab import ARCHITECTURES, scenarios

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"


def main(out: Path) -> None:
    """Write all pages to `out`, anew."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ROOT / "docs", out, ignore=shutil.ignore_patterns("examples", "*.1"))
    (out / "commands.md").write_text("\n".join(commands()), encoding="utf-8")
    shell = f"# Commands of the shell\n\n```\n{overview()}\n```\n"
    (out / "shell-commands.md").write_text(shell, encoding="utf-8")
    (out / "schema.md").write_text("\n".join(schema()), encoding="utf-8")
    (out / "python-api.md").write_text(API, encoding="utf-8")
    codes = out / "codes"
    codes.mkdir()
    (codes / "index.md").write_text("\n".join(index()), encoding="utf-8")
    for code in all_codes().values():
        (codes / f"{code.name}.md").write_text("\n".join(page(code)), encoding="utf-8")


def commands() -> Iterator[str]:
    """Every command with its options, as ``--help`` has it."""
    yield "# Commands\n"
    yield "What each is for, every option, and examples; `breenix-gdbagent help COMMAND` says the same.\n"
    for name, parser in every_parser().items():
        yield f"## {name}\n\n{COMMANDS.get(name, '').capitalize()}\n\n{PAGES[name].text}\n"
        yield from (f"- {option}" for option in _options(parser))
        yield "\n```sh"
        for what, line in PAGES[name].examples:
            yield f"{PROGRAM} {line}    # {what}"
        yield "```\n"


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        below = isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
        if not below and action.help != argparse.SUPPRESS:
            value = action.metavar if isinstance(action.metavar, str) else ""
            flags = ", ".join(action.option_strings)
            yield f"`{' '.join(filter(None, (flags, value)))}` {action.help or ''}"


def index() -> Iterator[str]:
    """The codes by family."""
    yield "# Finding codes\n"
    yield "Every code that `ci`, `audit` and `report` give, with a real example of each.\n"
    yield "| code | severity | what it is |\n|---|---|---|"
    for code in sorted(all_codes().values(), key=lambda c: c.name):
        yield f"| [{code.name}]({code.name}.md) | {code.severity} | {code.title} |"


def page(code: Code) -> Iterator[str]:
    """One code: how it arises, how it is confirmed and mended, and what it looks like."""
    yield f"# {code.name}\n\n{code.title[0].upper()}{code.title[1:]} (severity: {code.severity}).\n"
    yield f"## How it arises\n\n{code.arises}\n"
    yield f"## How to confirm it\n\n{code.confirm}\n"
    yield f"## How to mend it\n\n{code.mend}\n"
    example = EXAMPLES / f"{code.name}.txt"
    if example.is_file():
        yield f"## An example\n\n```\n{example.read_text(encoding='utf-8').rstrip()}\n```\n"
    else:
        yield "No scenario of the lab guest shows it; its tests break one thing in a sound stop.\n"
    shown = [
        f"`{one.name}`" + (f" ({arch})" if arch != ARCHITECTURES[0] else "")
        for arch in ARCHITECTURES
        for one in scenarios(arch).values()
        if code.name in (*one.codes, *one.strict)
    ]
    if shown:
        yield f"Scenarios of the lab guest that show it: {', '.join(shown)}.\n"


def schema() -> Iterator[str]:
    """The JSON schema of the report document."""
    path = ROOT / "breenix_gdbagent" / "report" / "schema.json"
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=1)
    yield "# The report document\n"
    yield "What `--json` prints and a snapshot keeps, as JSON Schema (`schema: 1`).\n"
    yield f"```json\n{text}\n```"


API = """# The Python API

What `import breenix_gdbagent as ba` gives, out of its docstrings.

::: breenix_gdbagent.api
    options:
      show_submodules: true
      show_source: false
      show_root_heading: false
"""

if __name__ == "__main__":
    main(Path(sys.argv[1]))
