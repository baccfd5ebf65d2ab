"""The sentences about translation tables of aarch64."""

from __future__ import annotations

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.translation_tables import EntryFacts
from breenix_gdbagent.report.wording.base import Words, tells


@tells(EntryFacts)
def entry(finding: Finding, facts: EntryFacts) -> Words:
    """Which entry names what."""
    more = f", and {counted(facts.more, 'more entry', 'more entries')}" if facts.more else ""
    said = f"the level {facts.level} entry at {hex64(facts.entry_pa)} is {hex64(facts.entry)}"
    return Words(
        f"{facts.space}, for {hex64(facts.va)}: {said} and names {hex64(facts.target)}{more}"
    )
