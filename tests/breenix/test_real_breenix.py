"""The agent on the user's own Breenix: the real kernel is the judge.

``BREENIX_DIR`` (a built checkout), or ``BREENIX_IMAGE`` and ``BREENIX_KERNEL`` (and
``BREENIX_DISKS``, separated by colons, ``BREENIX_CONFIG``) say where one is.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.guest.labrun import Result, agent

SECONDS = "90"
MARKER = "Process management initialized"


def _target() -> list[str]:
    directory = os.environ.get("BREENIX_DIR")
    image, kernel = os.environ.get("BREENIX_IMAGE"), os.environ.get("BREENIX_KERNEL")
    found: list[str] = []
    if directory:
        found = ["--breenix", directory]
    elif image and kernel:
        found = ["--image", image, "--kernel", kernel]
    for disk in filter(None, os.environ.get("BREENIX_DISKS", "").split(":")):
        found += ["--disk", disk]
    if found and os.environ.get("BREENIX_CONFIG"):
        found += ["--config", os.environ["BREENIX_CONFIG"]]
    return found


TARGET = _target()
pytestmark = [
    pytest.mark.skipif(not TARGET, reason="no Breenix: set BREENIX_DIR or BREENIX_IMAGE"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def at_marker(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    file = tmp_path_factory.mktemp("breenix") / "marker"
    result = agent(
        "ci", *TARGET, "--until", MARKER, "--timeout", SECONDS, "--json", "-o", str(file)
    )
    return result, file


def test_it_boots_to_a_marker_without_a_fault(at_marker: tuple[Result, Path]) -> None:
    """What its tables and its TSS hold there may be wrong: no kernel is told to be sound here."""
    result, _ = at_marker
    assert result.code in (0, 1), result.err
    assert result.document["stops"][-1]["reason"] == "marker"
    assert [f["code"] for f in result.document["findings"] if f["check"] == "faults"] == []


def test_every_stack_is_looked_at(at_marker: tuple[Result, Path]) -> None:
    result, _ = at_marker
    checks = {c["name"]: c["status"] for c in result.document["checks"]}
    assert checks["kernel-stacks"] in ("passed", "failed")  # and not "not_checked"
    assert {"master"} <= {s["role"] for s in result.document["spaces"]}


def test_the_snapshot_says_the_same(at_marker: tuple[Result, Path]) -> None:
    result, file = at_marker
    kernel = TARGET[TARGET.index("--kernel") + 1] if "--kernel" in TARGET else None
    if kernel is None:
        from breenix_gdbagent.targets.checkout import find_build

        kernel = str(find_build(Path(TARGET[1]), None).kernel)
    again = agent("report", "--anew", str(file), "--kernel", kernel, "--json")
    for part in ("spaces", "findings", "checks", "maps"):
        assert again.document[part] == result.document[part]


def test_to_whatever_end_it_comes() -> None:
    """Every fault on the way is explained: none is left without a cause or an explanation."""
    result = agent("ci", *TARGET, "--timeout", SECONDS, "--json")
    assert result.code in (0, 1, 4), result.err
    for finding in result.document["findings"]:
        assert finding["summary"]
        if finding["code"].startswith(("page-fault", "general-protection", "double-fault")):
            assert finding["evidence"]["explanation"]
