"""The HTML face as text: complete, inert, small, and the same every time."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report import html, htmllog, machine
from breenix_gdbagent.report.document import RunRecord
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.report.runline import moments
from breenix_gdbagent.report.story import target_words
from breenix_gdbagent.run_report import build
from breenix_gdbagent.views.machine_state import MachineState
from breenix_gdbagent.views.stop_detail import stop_detail
from tests.unit.report import documents, stops

VOID = {"meta", "input", "br", "link"}


class Page(HTMLParser):
    """Tags, text, ids and references of a page; complains of tags that do not close."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, (tag, self._open)
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def real() -> tuple[Report, Kernel]:
    """A report about a capture of the real kernel, with its stop at hand."""
    kernel = Kernel(stops.stop("breenix-first-gp"))
    return build(
        {"kind": "snapshot", "kernel": None}, RunRecord(), examine(kernel.stop, kernel)
    ), kernel


@pytest.mark.parametrize("make", [documents.clean, documents.faulted, documents.hostile])
def test_is_well_formed_and_every_reference_resolves(make: Any) -> None:
    page = Page(html.render(documents.report(make())))
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        if name == "href":
            assert value and value.startswith("#") and value[1:] in ids


def test_tells_every_finding_with_its_evidence() -> None:
    document = documents.faulted()
    text = Page(html.render(documents.report(document))).text
    for finding in document["findings"]:
        assert finding["code"] in text and finding["summary"] in text
        assert finding["fingerprint"] in text
    assert "could not push the frame" in text
    assert "PDPT[0]" in text and "not mapped: not present" in text
    assert "no symbol of the heap" in text


def test_hostile_text_stays_text() -> None:
    source = html.render(documents.report(documents.hostile()))
    page = Page(source)
    assert page.tags.count("script") == 1  # our own; the table data needs a stop at hand
    assert documents.HOSTILE in page.text
    assert "<script>alert" not in source
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", source)
    assert not any(name.startswith("on") for name, _ in page.attributes)


def test_reaches_for_nothing_outside() -> None:
    page = Page(html.render(documents.report(documents.faulted())))
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not any(name in ("src", "action", "srcset") for name, _ in page.attributes)
    policy = next(v for n, v in page.attributes if n == "content" and v and "default-src" in v)
    assert policy.startswith("default-src 'none'") and "sha256-" in policy


def test_the_same_document_gives_the_same_page() -> None:
    assert html.render(documents.report(documents.faulted())) == html.render(
        documents.report(documents.faulted())
    )


def test_real_stop_within_the_size_and_the_maps_complete(real: tuple[Report, Kernel]) -> None:
    document, kernel = real
    source = html.render(document, stop_detail(kernel))
    assert len(source.encode()) < 2 << 20
    page = Page(source)
    assert page.tags.count("svg") == 9  # master and eight processes
    assert "0xffffc90000031000" in page.text.replace("0x0000", "0x") or "ffffc900000" in page.text
    without = html.render(document)
    assert len(without) < len(source) and without.count("<svg") == 9


def test_listing_has_every_range_of_the_space(real: tuple[Report, Kernel]) -> None:
    document, kernel = real
    text = Page(html.render(document, stop_detail(kernel))).text
    for stack in kernel.stacks:
        walked = kernel.walk(kernel.reference_root or 0, stack.bottom)
        assert walked.mapped
        assert f"{stack.bottom:#018x}-" in text


def test_log_lines_up_stops_and_markers() -> None:
    document = documents.faulted()
    document["stops"][0]["serial"] = [{"port": 0, "line": 1}]
    log = htmllog.log_rows(documents.report(document), None)
    assert [(r["kind"], r["number"]) for r in log["rows"]] == [
        ("line", 1), ("stop", 0), ("marker", 2),
    ]  # fmt: skip
    assert log["stops"][0]["text"].startswith("fault, vector 8 (#DF)")


def test_log_of_a_real_stop_ends_with_the_stop(real: tuple[Report, Kernel]) -> None:
    document, kernel = real
    log = htmllog.log_rows(document, stop_detail(kernel))
    assert log["rows"][-1]["kind"] == "stop" and log["left_out"] == 0
    assert len(log["rows"]) == len(real[1].stop.serial.lines()) + 1


def test_the_machine_is_there(real: tuple[Report, Kernel]) -> None:
    """Registers, the instruction that faulted, processes, threads, heap and frames."""
    document, kernel = real
    source = html.render(document, stop_detail(kernel))
    text = Page(source).text
    assert "No code: " in text, "this capture keeps no page of code, and the page says so"
    for name in ("rax", "r15", "rip", "eflags"):
        assert f"{name} {kernel.stop.cpu.registers[name]:#x}" in text
    assert 'id="machine"' not in source, "without an ELF there is nothing to show"


def test_a_part_that_is_not_known_says_why() -> None:
    state = MachineState(lacking=(("heap", "it is not mapped"),), processes=(), frames=None)
    assert machine.tables_of(state) == [], "nothing at all is no section"
    assert machine.tables_of(None) == []


def test_the_run_in_order() -> None:
    document = documents.faulted()
    document["run"]["markers"] = [{"text": "up", "seconds": 0.25}]
    document["stops"][0]["seconds"] = 0.5
    (first, second) = moments(documents.report(document))
    assert (first.kind, first.share, first.text) == ("marker", 50.0, "up")
    assert (second.kind, second.share) == ("fault", 100.0) and "#DF" in second.text
    document["run"]["markers"] = []
    assert moments(documents.report(document)) == [], "one moment is no line"


def test_short_where_nothing_is_wrong() -> None:
    """Only how it ended and the checks stand open."""
    clean = html.render(documents.report(documents.clean()))
    folded = clean.partition('<details class="more rest"')[2].partition('<section id="checks">')[0]
    assert 'id="memory"' in folded and 'id="spaces"' in folded
    assert 'id="stops"' not in folded
    assert 'class="more rest"' not in html.render(documents.report(documents.faulted()))


def test_another_kernel_is_not_called_breenix() -> None:
    document = documents.faulted()
    document["target"] = {"kind": "breenix", "config": "breenix", "kernel": "os.elf"}
    assert "Breenix" in target_words(documents.report(document))
    document["adapter"] = "none"
    said = html.render(documents.report(document))
    assert "Breenix" not in said.partition("<title>")[2].partition("</header>")[0]
