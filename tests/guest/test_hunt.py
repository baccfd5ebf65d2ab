"""Hunts as their user makes them: boots, clusters, the document, Ctrl-C and going on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.guest.labrun import agent
from tests.guest.processes import children, command_line

FAULT = "page-fault.guard-page@kernel::scenarios::probes::recurse"


def test_a_hunt_and_its_document(tmp_path: Path) -> None:
    place = tmp_path / "hunt"
    made = agent(
        "hunt", "--lab", "guard-page", "--boots", "6", "--vary", "seed,memory,clock,delay",
        "--seed", "5", "-o", str(place), "--json",
    )  # fmt: skip
    assert made.code == 1, made.err
    document = made.document
    assert document["boots"] == 6
    assert document["outcomes"] == {"findings": 6}
    (cluster,) = document["clusters"]
    assert cluster["fingerprint"] == FAULT
    assert cluster["code"] == "page-fault.guard-page"
    assert (cluster["severity"], cluster["count"], cluster["rate"]) == ("error", 6, 1.0)
    assert cluster["low"] < 1.0 == cluster["high"]
    assert set(cluster["first"]["settings"]) == {"seed", "memory", "clock", "delay"}
    snapshot = agent("report", cluster["snapshot"], "--json")
    assert "page-fault.guard-page" in snapshot.codes("error")
    again = agent("hunt", "report", str(place), "--json")
    assert again.document == document


def test_a_clean_kernel_gives_no_cluster_and_exit_0(tmp_path: Path) -> None:
    made = agent("hunt", "--lab", "--boots", "3", "-o", str(tmp_path / "hunt"))
    assert made.code == 0, made.err
    assert "no cluster" in made.out
    assert "3 passed" in made.out


def test_ctrl_c_loses_nothing_and_resume_ends_it(tmp_path: Path) -> None:
    place = tmp_path / "hunt"
    running = subprocess.Popen(
        [
            sys.executable, "-m", "breenix_gdbagent", "hunt", "--lab", "guard-page",
            "--boots", "100000", "--jobs", "2", "-o", str(place),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    assert "new: " + FAULT in running.stderr.readline()  # the first boot is kept
    below = children(running.pid)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 3
    assert "interrupted" in said
    assert f"hunt --resume {place}" in said
    assert not [pid for pid in below if b"qemu" in command_line(pid)]

    kept = agent("hunt", "report", str(place), "--json").document["boots"]
    ended = agent("hunt", "--resume", str(place), "--boots", str(kept + 2), "--json")
    assert ended.code == 1, ended.err
    assert ended.document["boots"] >= kept
    assert [c["fingerprint"] for c in ended.document["clusters"]] == [FAULT]


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    place = str(tmp_path / "hunt")
    for arguments, said in (
        (["--lab"], "needs -o"),
        (["--lab", "-o", place, "--vary", "moon"], "no 'moon' to vary"),
        (["--lab", "-o", place, "--smp", "2", "--vary", "smp"], "contradict"),
        (["--gdb", "unix:/nowhere", "-o", place], "booted once"),
        (["--lab", "gard-page", "-o", place], "guard-page"),
        (["--resume", str(tmp_path)], "is no hunt"),
        (["-o", place], "no target"),
    ):
        refused = agent("hunt", *arguments)
        assert (refused.code, refused.out) == (2, ""), refused.err
        assert said in refused.err
        assert not Path(place).exists()


def test_a_defect_that_comes_at_times_is_told_apart_by_when_a_tick_arrives(tmp_path: Path) -> None:
    """Under the instruction counter the same settings end the same; others end otherwise."""
    made = [
        agent(
            "hunt",
            "--lab",
            "half-written-entry",
            "--boots",
            "12",
            "--vary",
            "memory,clock",
            "--seed",
            "4",
            "-o",
            str(tmp_path / name),
            "--json",
        )
        for name in ("a", "b")
    ]
    assert [one.code for one in made] == [1, 1], made[0].err
    first, second = (one.document["clusters"] for one in made)
    assert [c["fingerprint"].partition("@")[2] for c in first] == [
        "kernel::scenarios::sometimes::count_tick"
    ]
    assert 0 < first[0]["count"] < 12
    assert [(c["count"], c["first"]) for c in first] == [(c["count"], c["first"]) for c in second]
    alike = agent("hunt", "compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert (alike.code, "may be chance" in alike.out) == (0, True)
