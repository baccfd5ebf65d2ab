"""The docs site: a page for each command and code, each code with an example of a real run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from breenix_gdbagent.checks.register import all_codes
from breenix_gdbagent.commands import COMMANDS
from breenix_gdbagent.commands.alltogether import every_parser
from breenix_gdbagent.lab import X86_64, scenarios
from tests.unit.report.contract_codes import CONTRACT

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def made(out: Path) -> Path:
    subprocess.run([sys.executable, ROOT / "tools" / "site.py", out], check=True)
    return out


def test_every_code_has_an_example_that_shows_it() -> None:
    """Whose command is one of the lab guest and whose text tells that code."""
    there = {path.stem for path in EXAMPLES.glob("*.txt")}
    shown = {c for one in scenarios(X86_64).values() for c in (*one.codes, *one.strict)}
    assert shown & set(CONTRACT) <= there <= set(all_codes()), "make examples"
    for code in there:
        command, first, *_ = (EXAMPLES / f"{code}.txt").read_text("utf-8").splitlines()
        assert re.match(r"\$ breenix-gdbagent ci --lab [a-z0-9-]+", command), code
        assert re.match(rf"(ERROR|WARNING|INFO) +{re.escape(code)}\b", first), code


def test_the_site_has_every_code_and_every_command(tmp_path: Path) -> None:
    site = made(tmp_path / "docs")
    for code in all_codes().values():
        page = (site / "codes" / f"{code.name}.md").read_text("utf-8")
        example = (EXAMPLES / f"{code.name}.txt").is_file()
        assert code.mend in page and ("## An example" in page) == example
    commands = (site / "commands.md").read_text("utf-8")
    assert all(f"\n## {name}\n" in commands for name in every_parser())
    assert '"schema"' in (site / "schema.md").read_text("utf-8")
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert all((site / name).is_file() for name in _files(nav))


def _files(part: object) -> list[str]:
    if isinstance(part, str):
        return [part]
    parts = part.values() if isinstance(part, dict) else part
    return [name for one in parts for name in _files(one)]  # type: ignore[attr-defined]


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for name, what in COMMANDS.items():
        assert re.search(rf"(?m)^  {name} +{re.escape(what)}$", text), f"{name}: make readme"


def test_mkdocs_builds_it_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install -e .[docs]")
    pages = made(tmp_path / "docs")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    settings = settings.replace("docs_dir: build/docs", f"docs_dir: {pages}")
    settings = settings.replace("paths: [.]", f"paths: [{ROOT}]")
    (tmp_path / "mkdocs.yml").write_text(settings, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-f", tmp_path / "mkdocs.yml",
         "-d", tmp_path / "site"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "double-fault" in (tmp_path / "site" / "codes" / "double-fault.html").read_text("utf-8")
