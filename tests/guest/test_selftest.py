"""The page-fault matrix on the real (emulated) CPU agrees with what the tables predict."""

from __future__ import annotations

import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

from breenix_gdbagent.selftest import bench, running
from breenix_gdbagent.selftest.bench import Outcome
from breenix_gdbagent.selftest.matrix import GROUPS, RIGHTS, Builder, Group
from breenix_gdbagent.x86.verdict import Verdict
from tests.guest.labrun import agent

RECIPE = Path(__file__).parents[2] / "fixtures/selftest"
FORBIDDEN = Verdict(False, ("write-protected",), 14, 0x3, also=(0x2,))
VA = 0x1000


def test_every_case_agrees() -> None:
    result = agent("selftest", "--json")
    assert result.code == 0, result.err
    told = result.document
    # All rights at 4, 3 and 2 levels, in 2 rings by 3 kinds of access, under 2^5 control bits.
    product_of_rights = len(RIGHTS) ** 4 + len(RIGHTS) ** 3 + len(RIGHTS) ** 2
    assert told["cases"] > product_of_rights * 6 * 32
    assert told["differ"] == []
    assert len({g["name"] for g in told["groups"]}) == 32
    # Reserved bits: two sizes of page and PS at the PML4, six accesses each; NX without NXE too.
    for group in told["groups"]:
        assert group["agree"] > 2000
        assert group["deviation"] == 18 or "NXE" not in group["name"]


def test_the_groups_are_the_whole_product() -> None:
    bits = {(g.wp, g.smep, g.smap, g.ac, g.nxe) for g in GROUPS}
    assert bits == set(product((True, False), repeat=5))


def test_the_mappings_are_the_whole_product() -> None:
    builder = Builder(root=0x1000, next_frame=0x1000, page=0x20_0000)
    builder.new_table()
    mappings = list(builder.mappings())
    assert len({m.va for m in mappings}) == len(mappings)
    for size, levels in (("4K", 4), ("2M", 3), ("1G", 2)):
        made = {m.entries for m in mappings if m.size == size}
        assert made >= set(product(RIGHTS, repeat=levels))
        absent = {m.entries.index(0) for m in mappings if m.size == size and 0 in m.entries}
        assert absent == set(range(levels))


@pytest.mark.parametrize(
    ("predicted", "outcome", "compared"),
    [
        (Verdict(True), Outcome(None, None, None), "agree"),
        (Verdict(True), Outcome(14, 0, 0), "differ"),
        (FORBIDDEN, Outcome(14, 0x3, VA), "agree"),
        (FORBIDDEN, Outcome(14, 0x3, VA + 1), "differ"),
        (FORBIDDEN, Outcome(14, 0x2, VA), "deviation"),
        (FORBIDDEN, Outcome(14, 0x7, VA), "differ"),
        (FORBIDDEN, Outcome(13, 0, VA), "differ"),
        (FORBIDDEN, Outcome(None, None, None), "differ"),
    ],
)
def test_what_counts_as_agreement(predicted: Verdict, outcome: Outcome, compared: str) -> None:
    assert running.compare(predicted, outcome, VA) == compared


@pytest.mark.parametrize(
    ("believed", "on", "kinds", "rings"),
    [
        (Group(wp=False), Group(), {"write"}, {0}),
        (Group(smep=True), Group(), {"fetch"}, {0}),
        (Group(smap=True), Group(smap=True, ac=True), {"read", "write"}, {0}),
        (Group(nxe=False), Group(), {"read", "write", "fetch"}, {0, 3}),
    ],
    ids=["WP", "SMEP", "AC", "NXE"],
)
def test_a_wrong_prediction_is_noticed(
    monkeypatch: pytest.MonkeyPatch, believed: Group, on: Group, kinds: set[str], rings: set[int]
) -> None:
    """Where a control bit is another than is believed, the prediction and the CPU part ways."""
    original = bench.Bench.run
    monkeypatch.setattr(
        bench.Bench, "run", lambda self, group, root, mappings: original(self, on, root, mappings)
    )
    (tally,) = running.run(lambda done, of: None, [believed])
    assert {r.case.kind for r in tally.differ} == kinds
    assert {r.case.ring for r in tally.differ} == rings


@pytest.mark.skipif(shutil.which("as") is None, reason="no assembler")
def test_the_runner_is_what_its_source_says(tmp_path: Path) -> None:
    kept = Path(bench.__file__).with_name("runner.bin")
    subprocess.run(["as", "-o", tmp_path / "o", RECIPE / "runner.s"], check=True)
    subprocess.run(
        ["objcopy", "-O", "binary", "--only-section", ".text", tmp_path / "o", tmp_path / "bin"],
        check=True,
    )
    assert (tmp_path / "bin").read_bytes() == kept.read_bytes()
