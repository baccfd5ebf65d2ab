"""The sentences about top-level slots and the shape of the page tables."""

from __future__ import annotations

from breenix_gdbagent.addresses import counted, hex64
from breenix_gdbagent.checks.finding import Finding
from breenix_gdbagent.checks.kernel_slots import SlotAliasFacts, SlotFacts
from breenix_gdbagent.checks.tables import ConflictFacts, LinkFacts, NxFacts, SharedFacts
from breenix_gdbagent.report.wording.base import Words, and_more, tells
from breenix_gdbagent.x86.paging import LEVEL


@tells(SlotFacts)
def slots_against_the_master(finding: Finding, facts: SlotFacts) -> Words:
    """Which slot of which space is not as the master's."""
    also = f" and {counted(facts.slots - 1, 'more slot')}" if facts.slots > 1 else ""
    title, place = finding.code.title, f"PML4[{facts.slot}] ({facts.holds})"
    below = ""
    if facts.below is not None:
        below = f", and {hex64(facts.below.user_page)} below it is a user page"
    return Words(f"{title}: {facts.space.label}, {place}{also}{below}")


@tells(SlotAliasFacts)
def slots_of_one_table(finding: Finding, facts: SlotAliasFacts) -> Words:
    """Which two slots name one table."""
    (first, region), (other, known) = facts.first, facts.other
    named = f" ({known})" if known is not None else ""
    also = f" (as do {facts.aliases - 2} more)" if facts.aliases > 2 else ""
    return Words(
        f"PML4[{first}] ({region}) and PML4[{other}]{named} of {facts.space.label} name one "
        f"table, {hex64(facts.table)}{also}"
    )


@tells(NxFacts)
def nx_without_nxe(finding: Finding, facts: NxFacts) -> Words:
    """How many pages that CPU cannot touch."""
    efer = "" if facts.efer is None else f" (EFER {hex64(facts.efer)})"
    return Words(
        f"CPU {facts.cpu} runs on {facts.space}, which maps {counted(facts.pages, 'page')} with "
        f"bit 63 (NX), the first at {hex64(facts.va)}, while EFER.NXE is 0 there{efer}: each "
        "access to them faults"
    )


@tells(LinkFacts)
def bad_entries(finding: Finding, facts: LinkFacts) -> Words:
    """Which entry names what."""
    where = finding.where
    return Words(
        f"{finding.code.title}: entry {hex64(where.entry or 0)} at {hex64(where.entry_pa or 0)} "
        f"({facts.space}, for addresses from {hex64(where.va or 0)}) names {hex64(facts.table)}"
        f"{and_more(facts.entries, 'entry', 'entries', ' of that table')}"
    )


@tells(ConflictFacts)
def two_purposes(finding: Finding, facts: ConflictFacts) -> Words:
    """What the frame serves as."""
    return Words(f"{_purposes(facts)} ({facts.space})")


def _purposes(facts: ConflictFacts) -> str:
    names = [LEVEL[level].name for level in reversed(facts.levels)]
    if len(names) > 1:
        return f"frame {hex64(facts.frame)} is used as a {' and '.join(names)}"
    table = f"the {names[0]} at {hex64(facts.frame)}"
    if facts.users is not None:
        # The first entry is the kernel's own, where one names the table at all.
        own = hex64(facts.entries[0].va) if len(facts.entries) > 1 else hex64(0)
        theirs = facts.entries[min(1, len(facts.entries) - 1)].va
        return f"{table} serves the kernel from {own} and {facts.users} from {hex64(theirs)}"
    first, again = facts.entries[0].va, facts.entries[1].va
    return f"{table} is named for addresses from {hex64(first)} and again from {hex64(again)}"


@tells(SharedFacts)
def shared_by_spaces(finding: Finding, facts: SharedFacts) -> Words:
    """Who shares which table."""
    labels = [space.label for space in facts.spaces]
    names = f"{', '.join(labels[:-1])} and {labels[-1]}"
    return Words(
        f"{names} share one {LEVEL[facts.level].name} of user memory, {hex64(facts.table)}, for "
        f"addresses from {hex64(facts.start)}"
    )
