"""The HTML face in a real browser: no errors, all reachable, hostile names inert."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from breenix_gdbagent.checks.examine import examine
from breenix_gdbagent.kernel.view import Kernel
from breenix_gdbagent.report import html
from breenix_gdbagent.report.document import RunRecord
from breenix_gdbagent.report.model import Report
from breenix_gdbagent.run_report import build
from breenix_gdbagent.targets.saved import saved
from breenix_gdbagent.views.stop_detail import stop_detail
from tests.guest.browser import Browser, needs_chromium
from tests.guest.labrun import agent
from tests.unit.report import documents, stops

pytestmark = [needs_chromium, pytest.mark.xdist_group("chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    started = Browser()
    yield started
    started.close()


@pytest.fixture
def page(browser: Browser) -> Browser:
    browser.said.clear()
    browser.asked.clear()
    browser.scripts(True)
    return browser


@pytest.fixture(scope="module", params=["lab", "breenix-first-gp"])
def document(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Report, Kernel]:
    """Our own guest, which is everywhere, and the real kernel where its capture is."""
    if request.param == "lab":
        file = tmp_path_factory.mktemp("snapshot") / "fault"
        assert agent("snapshot", "--lab", "kernel-stack-unmapped", "-o", str(file)).code == 1
        kernel = Kernel(saved(file)[0])
    else:
        kernel = Kernel(stops.stop(request.param))
    made = build({"kind": "snapshot"}, RunRecord(), examine(kernel.stop, kernel))
    return made, kernel


@pytest.fixture(scope="module")
def real(
    document: tuple[Report, Kernel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("page") / "real.html"
    path.write_text(html.render(document[0], stop_detail(document[1])), encoding="utf-8")
    return path


def _written(tmp_path: Path, document: documents.Document) -> Path:
    path = tmp_path / "report.html"
    path.write_text(html.render(documents.report(document)), encoding="utf-8")
    return path


def test_no_console_errors_and_no_network(page: Browser, real: Path) -> None:
    page.open(real)
    assert page.said == []
    assert page.asked == [real.as_uri()]
    assert page.value("performance.now()") < 5000


def test_every_finding_is_reachable(page: Browser, tmp_path: Path) -> None:
    document = documents.faulted()
    page.open(_written(tmp_path, document))
    seen = page.value(
        "[...document.querySelectorAll('article.finding')].map(f => {"
        " f.scrollIntoView(); const r = f.getBoundingClientRect();"
        " return [f.querySelector('h3').innerText, r.height > 40 && r.width > 200]; })"
    )
    assert sorted(code for code, _ in seen) == sorted(f["code"] for f in document["findings"])
    assert all(visible for _, visible in seen)
    target = page.value("document.querySelector('.cause a').getAttribute('href')")
    assert page.value(f"document.querySelector('{target} h3').innerText") == "kernel-stack.unmapped"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_a_reader_at_night_wants_is_seen(
    page: Browser, real: Path, document: tuple[Report, Kernel], width: int, scheme: str
) -> None:
    """The instruction, registers and the kernel's tables: there, of some size, to be told from
    what is behind them."""
    page.open(real, width, scheme=scheme)
    marks = page.value(
        "[...document.querySelectorAll('.code mark')].map(m => { m.scrollIntoView();"
        " const s = getComputedStyle(m), r = m.getBoundingClientRect();"
        " return [m.innerText, r.height > 10 && r.width > 100, s.color !== s.backgroundColor]; })"
    )
    without = page.value("document.querySelector('#stops').innerText.split('No code: ').length - 1")
    assert len(marks) + without == len(document[1].stop.cpus)
    assert all(text.startswith("=> 0x") and seen and told for text, seen, told in marks)
    assert page.value("document.querySelectorAll('.general li').length") >= 17
    titles = page.value("[...document.querySelectorAll('#machine h3')].map(h => h.innerText)")
    named = ["Processes", "Threads", "Kernel heap", "Frame allocator"]
    assert titles == (named if document[1].stop.image is not None else [])


def test_paper_has_all_of_it(page: Browser, real: Path) -> None:
    page.open(real)
    page.call("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll('section')].filter(s => s.offsetHeight > 20).length"
    assert page.value(shown) == page.value("document.querySelectorAll('section').length")
    assert not page.value("document.querySelector('nav').offsetHeight")
    page.call("Emulation.setEmulatedMedia", media="")
    assert page.call("Page.printToPDF")["data"]


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_sticks_out(page: Browser, real: Path, width: int) -> None:
    page.open(real, width)
    assert page.value("document.documentElement.scrollWidth") <= width


def test_hostile_names_are_inert(page: Browser, tmp_path: Path) -> None:
    page.open(_written(tmp_path, documents.hostile()))
    page.value("window.alert = () => { window.__ran = true }")
    assert page.value("window.__ran === undefined")
    assert page.value("document.scripts.length") == 1
    assert documents.HOSTILE in page.value("document.querySelector('#spaces').innerText")
    assert page.said == []


def test_an_injected_script_would_not_run(page: Browser, tmp_path: Path) -> None:
    """The policy holds even where escaping had failed."""
    path = _written(tmp_path, documents.clean())
    source = path.read_text(encoding="utf-8")
    path.write_text(source.replace("<main", "<script>window.__ran=1</script><main"), "utf-8")
    page.open(path)
    assert page.value("window.__ran === undefined")
    assert any("Content Security Policy" in said for said in page.said)


def test_text_without_scripts(page: Browser, real: Path) -> None:
    page.scripts(False)
    page.open(real)
    page.scripts(True)  # to be able to ask; the page's own script has had its chance
    assert page.value("document.querySelector('#theme').hidden")
    for section in ("story", "stops", "stacks", "memory", "spaces", "log", "checks"):
        assert page.value(f"document.querySelector('#{section}').innerText.length") > 20, section
    assert page.value("document.querySelectorAll('#memory pre').length") > 1


def test_page_tables_open_lazily_to_the_last_level(
    page: Browser, real: Path, document: tuple[Report, Kernel]
) -> None:
    page.open(real)
    spaces = len(document[0].maps["spaces"])
    assert page.value("document.querySelectorAll('.tree details').length") == spaces >= 4
    page.value("document.querySelector('.tree details').open = true")
    count = "document.querySelectorAll('.tree details').length"
    page.value("new Promise(r => setTimeout(r, 0))")
    for _ in range(4):
        page.value("[...document.querySelectorAll('.tree details')].forEach(d => d.open = true)")
        before = page.value(count)
    assert before > spaces
    text = page.value("document.querySelector('.tree').innerText")
    assert "PT[" in text and "PML4[402]" in text and "one table in" in text


def test_dark_and_light_differ(page: Browser, real: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    page.open(real, scheme="light")
    light = page.value(colour)
    page.open(real, scheme="dark")
    dark = page.value(colour)
    assert light != dark
    page.value("document.querySelector('#theme').click()")
    assert page.value(colour) == light


def test_colour_by_sharing(page: Browser, real: Path) -> None:
    page.open(real)
    colours = (
        "[...new Set([...document.querySelectorAll('rect')].map(r => getComputedStyle(r).fill))]"
    )
    by_rights = page.value(colours)
    page.value("document.querySelector('#by-sharing').click()")
    by_sharing = page.value(colours)
    assert len(by_rights) >= 5 and len(by_sharing) == 3 and set(by_rights) != set(by_sharing)


def test_zoom_brings_a_region_into_view(page: Browser, real: Path) -> None:
    page.open(real)
    page.value(
        "[...document.querySelectorAll('.zone')]"
        ".find(z => z.textContent === 'kernel stacks').click()"
    )
    left, width, shown = page.value(
        "(() => { const a = document.querySelector('.axis').getBoundingClientRect();"
        " const z = [...document.querySelectorAll('.zone')]"
        ".find(z => z.textContent === 'kernel stacks').getBoundingClientRect();"
        " return [z.left - a.left, z.width, a.width]; })()"
    )
    assert left >= 0 and left + width <= shown + 1 and width > shown / 2


def test_the_log_filter_hides_other_lines(page: Browser, real: Path) -> None:
    page.open(real)
    page.value(
        "(() => { const f = document.querySelector('#filter'); f.value = 'frame_allocator';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    shown = page.value(
        "[...document.querySelectorAll('.log > div:not(.stop)')]"
        ".filter(d => d.offsetHeight).map(d => d.textContent.toLowerCase())"
    )
    assert shown and all("frame_allocator" in line for line in shown)
