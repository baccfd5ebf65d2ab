"""The terminal face: what it tells, in which order, within which width."""

from __future__ import annotations

import re

import pytest

from breenix_gdbagent.report.ink import Ink
from breenix_gdbagent.report.page import Page
from breenix_gdbagent.report.story import ordered
from breenix_gdbagent.report.text import render
from tests.unit.report import documents

SGR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("width", [80, 160])
def test_fits_the_width(width: int) -> None:
    for document in (documents.clean(), documents.faulted()):
        for line in render(documents.report(document), width).splitlines():
            assert len(line) <= width, line


def test_story_comes_first_and_the_cause_next() -> None:
    text = render(documents.report(documents.faulted()), 80)
    order = [
        text.index(said)
        for said in (
            "ERROR double-fault", "The CPU could not push", "How it came to this",
            "ERROR kernel-stack.unmapped", "walk of", "WARNING kernel-stack.executable",
            "INFO page-fault.handled", "Stopped", "Kernel stacks x address spaces", "Memory map",
            "NOT CHECKED heap",
        )
    ]  # fmt: skip
    assert order == sorted(order)


def test_findings_are_told_by_weight_whatever_the_documents_order() -> None:
    document = documents.faulted()
    document["findings"].reverse()
    text = render(documents.report(document), 80)
    assert text.index("ERROR double-fault") < text.index("ERROR kernel-stack.unmapped")
    assert text.index("ERROR kernel-stack.unmapped") < text.index("WARNING kernel-stack.exec")


def test_a_cause_is_told_right_after_what_it_caused() -> None:
    document = documents.clean()
    document["findings"] = [
        documents.finding("cr3.unknown"),
        documents.finding(
            "panic", kind="run", cause="heap.corrupt", because=["heap.corrupt@child"]
        ),
        documents.finding("heap.corrupt"),
    ]
    assert [f.code for f in ordered(documents.report(document))] == [
        "panic",
        "heap.corrupt",
        "cr3.unknown",
    ]


def test_a_page_makes_everything_printable() -> None:
    page = Page(80, Ink(True))
    page.line("a\x1b[2J", ("error", "b\x00"), ("dim", "  "))
    assert page.lines == ["a\\x1b[2J\x1b[1;31mb\\x00\x1b[0m"]


def test_walk_marks_the_entry_that_stopped_it() -> None:
    lines = render(documents.report(documents.faulted()), 80).splitlines()
    at = next(n for n, line in enumerate(lines) if line.lstrip().startswith("PDPT [  0]"))
    assert "0x145000" in lines[at]
    assert "the walk ends here" in lines[at + 1] and "not present" in lines[at + 1]
    assert "PML4 [402]" in lines[at - 1]


def test_walk_of_a_mapped_page_says_what_is_permitted() -> None:
    text = render(documents.report(documents.faulted()), 80)
    assert "= physical 0x300000, 4 KiB page, read-only, user, executable" in text


def test_matrix_shows_the_space_that_lacks_the_stacks() -> None:
    text = render(documents.report(documents.faulted()), 80)
    part = text[text.index("Kernel stacks x") : text.index("Memory map")]
    assert re.search(r"slot 1 +\. \. - +RSP0 of CPU 0", part)
    assert "c 0x2b1000, child (pid 2)" in part
    assert "- not mapped" in part


def test_matrix_groups_columns_that_do_not_fit() -> None:
    document = documents.faulted()
    roots = [hex(0x1000 * n) for n in range(1, 61)]
    document["maps"]["spaces"] = roots
    document["maps"]["own"] = [[] for _ in roots]
    for row in document["maps"]["stacks"]:
        row["cells"] = "." * 30 + "-" + "." * 29
    text = render(documents.report(document), 80)
    part = text[text.index("Kernel stacks x") : text.index("Memory map")]
    assert max(map(len, part.splitlines())) <= 80
    assert "0x1000 and 58 more alike" in part and "b 0x1f000" in part


def test_memory_map_names_the_region_that_a_space_lacks() -> None:
    text = render(documents.report(documents.faulted()), 80)
    assert re.search(r"402 +0xffffc90000000000 +NOT MAPPED +kernel stacks", text)


def test_a_clean_run_says_little() -> None:
    text = render(documents.report(documents.clean()), 80)
    assert text.startswith("PASSED: nothing found\n")
    assert "3 kernel stacks x 3 address spaces" in text
    assert "Memory map" not in text and "Last lines" not in text
    assert len(text.splitlines()) < 12


def test_what_was_expected_and_did_not_come_is_no_finding() -> None:
    document = documents.clean()
    document["run"] |= {"outcome": "findings", "exit": 1, "missing": ["panic"]}
    head = render(documents.report(document), 80).splitlines()[0]
    assert head == "FAILED: expected and not seen: panic; nothing else found"
    document = documents.faulted()
    document["run"] |= {"outcome": "findings", "missing": ["panic", "hang"]}
    head = render(documents.report(document), 200).splitlines()[0]
    assert re.match(r"FAILED: expected and not seen: panic, hang; seen: \d+ error", head), head


def test_not_every_space_is_a_process() -> None:
    """The bootloader's tables and the master are no process, and no word is said twice."""
    said = {
        "the bootloader's tables": "space the bootloader's tables",
        "master": "space master",
        "process 0x2aa000": "process 0x2aa000",
        "init (pid 1)": "process init (pid 1)",
    }
    for label, words in said.items():
        document = documents.faulted()
        for finding in document["findings"]:
            finding["evidence"]["process"] = label
        text = " ".join(render(documents.report(document), 100).split())
        assert words in text
        assert "process process" not in text and f"process {label}" not in text.replace(words, "")
    for label, words in (("boot", "the bootloader's tables"), ("master", "the master space")):
        document = documents.clean()
        document["run"]["outcome"] = "examined"
        document["stops"][0]["cpus"][0]["process"] = label
        assert f"CPU 0 in ring 0, {words}:" in render(documents.report(document), 100)


def test_not_checked_is_never_among_the_passed() -> None:
    lines = render(documents.report(documents.faulted()), 80).splitlines()
    passed = next(line for line in lines if line.startswith("Checks passed"))
    assert "heap" not in passed
    assert "NOT CHECKED heap: no symbol of the heap" in lines


def test_colour_only_when_asked_and_it_changes_nothing_else() -> None:
    document = documents.faulted()
    plain, painted = (
        render(documents.report(document), 80),
        render(documents.report(document), 80, colour=True),
    )
    assert "\x1b" not in plain
    assert "\x1b" in painted
    assert SGR.sub("", painted) == plain


def test_no_control_character_of_the_guest_reaches_the_terminal() -> None:
    text = render(documents.report(documents.hostile()), 80)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    assert f"red {documents.HOSTILE}\\xfffe" in text and "\\x1b[2J\\x00" in text


def test_unknown_is_said() -> None:
    assert "owner root not known" in render(documents.report(documents.faulted()), 80)


def test_wide_terminals_get_the_pictures_side_by_side() -> None:
    lines = render(documents.report(documents.faulted()), 160).splitlines()
    assert any("Kernel stacks x" in line and "Memory map" in line for line in lines)
