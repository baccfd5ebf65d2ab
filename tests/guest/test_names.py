"""``print`` and its like on the lab guest, against the guest's own word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from breenix_gdbagent.control.values import value_of
from breenix_gdbagent.symbols.tree_text import one_line
from tests.guest.labrun import agent
from tests.guest.live_support import needs_qemu
from tests.guest.stopped_lab import StoppedLab, stopped

pytestmark = needs_qemu

SHAPES = "kernel::scenarios::shapes::SHAPES"
# Where we show more than Debug does of what the guest hands out: the value inside a Once or lock.
SHOWN = {"once": "Some(77)", "nothing": "None", "locked": "Some(Busy)"}


@pytest.fixture(scope="module")
def shapes() -> Iterator[StoppedLab]:
    with stopped("shapes", 2025) as found:
        yield found


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("names") / "shapes"
    result = agent("snapshot", "--lab", "shapes", "--until", "LAB COMPLETE", "-o", str(file))
    assert result.code == 0, result.err
    return file


def in_debug_form(text: str) -> str:
    """Our text with numbers as Debug writes them."""
    return re.sub(r"\b0x[0-9a-f]+\b", lambda found: str(int(found[0], 16)), text)


def test_every_shape_is_what_the_guest_says(shapes: StoppedLab) -> None:
    told = shapes.told("value")
    assert len(told) == 47
    kernel = shapes.kernel()
    for line in told:
        path = line["path"]
        shown = one_line(value_of(kernel, f"{SHAPES}.{path}"))
        if path in SHOWN:
            assert line["debug"] == SHOWN[path]
            continue
        assert in_debug_form(shown) == line["debug"], path
    assert one_line(value_of(kernel, f"{SHAPES}.once")) == "77"
    assert one_line(value_of(kernel, f"{SHAPES}.nothing")) == "<not initialised>"
    assert (
        one_line(value_of(kernel, f"{SHAPES}.locked"))
        == "Mutex { lock: 0 (free), data: Some(Busy) }"
    )


def test_print_on_a_snapshot(snapshot: Path) -> None:
    from_file = ("--snapshot", str(snapshot))
    whole = agent("print", *from_file, SHAPES)
    assert whole.code == 0 and whole.out.startswith("Mutex {\n  lock: 0 (free),\n")
    assert agent("print", *from_file, f"{SHAPES}.tree[130].name").out == '"item 13"\n'
    one = agent("print", *from_file, "--json", f"{SHAPES}.tree[160]").document
    assert one["value"]["wide"] == 16 << 100 and one["value"]["result"] == {"Ok": 16}
    assert one["value"]["deep"] == {"Some": None} and one["value"]["flag"] is False
    gone = agent("print", *from_file, f"{SHAPES}.nosuch")
    assert gone.code == 1 and "nosuch" in gone.out
