"""The files that teach agents without MCP: a skill, and a section of AGENTS.md."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent / "skill"
BEGIN, END = "<!-- breenix-gdbagent: begin -->", "<!-- breenix-gdbagent: end -->"


def skill_text() -> str:
    """The skill, as its file is written."""
    return (HERE / "SKILL.md").read_text(encoding="utf-8")


def with_section(text: str, skill_file: str) -> str:
    """AGENTS.md with our section, in the place of an older one, else at its end."""
    section = (HERE / "section.md").read_text(encoding="utf-8").replace("SKILL_FILE", skill_file)
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if begun and ended:
        return before + section.rstrip("\n") + after
    return f"{text.rstrip()}\n\n{section}" if text.strip() else section
