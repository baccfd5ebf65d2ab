"""`pt map`, `pt who --va` and `pt diff` of two stops, as a user types them, on the captures."""

from __future__ import annotations

import json
import re

import pytest

from breenix_gdbagent.commands import run
from tests.unit.captures import BREENIX, LINUX, capture

FIRST_GP, SYSCALL = "breenix-first-gp", "breenix-seed-syscall"
LINE = re.compile(r"^0x([0-9a-f]{16})-0x([0-9a-f]{16}) ", re.MULTILINE)


def core(name: str) -> str:
    return str(capture(name) / "core.elf")


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(["pt", *arguments])
    out = capsys.readouterr()
    assert not out.err
    return code, out.out


def in_the_way(capsys: pytest.CaptureFixture[str], name: str, va: int) -> dict[str, dict]:  # type: ignore[type-arg]
    code, out = asked(capsys, "who", "--va", hex(va), "--snapshot", core(name), "--json")
    found = {one["root"]: one for one in json.loads(out)}
    assert code == (0 if any(one["code"] for one in found.values()) else 1)
    return found


@pytest.mark.parametrize("name", BREENIX)
def test_a_kernel_stack_is_taken_for_all_at_one_place(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = in_the_way(capsys, name, 0xFFFF_C900_0000_2000)
    assert len(found) >= 6
    for root, one in found.items():
        assert one["code"] == "map.already-mapped" and one["shared_from"] == 3, root
        others = found.keys() - {root}
        assert {frozenset(level["shared_by"]) for level in one["levels"][1:]} == {frozenset(others)}
        assert one["levels"][0]["shared_by"] == []
    assert len({one["pa"] for one in found.values()}) == 1


def test_user_stacks_through_the_master(capsys: pytest.CaptureFixture[str]) -> None:
    """a43d6d48: what one process maps there the master and seven others have mapped, too."""
    found = in_the_way(capsys, FIRST_GP, 0x7FFF_FF02_1000)
    taken = {root for root, one in found.items() if one["code"]}
    assert len(taken) == 8
    own = next(one for root, one in found.items() if root not in taken)
    assert own["reason"] == "not-present" and own["shared_from"] is None and own["pa"] is None


def test_an_address_that_is_free_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys, "who", "--va", "0x5000_0000_0000", "--snapshot", core(SYSCALL))
    assert code == 1 and "free" in out and "taken" not in out


@pytest.mark.parametrize("name", (*BREENIX, *LINUX))
def test_folded_slots_are_still_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = asked(capsys, "map", "--snapshot", core(name))
    _, document = asked(capsys, "map", "--snapshot", core(name), "--json")
    ranges = json.loads(document)["ranges"]
    shown = [(int(a, 16), int(b, 16)) for a, b in LINE.findall(out)]
    assert shown == sorted(shown)
    folded = sum(int(n) for n in re.findall(r"the same in (\d+) more slots", out))
    if name in BREENIX:
        assert folded > 200 and len(shown) + folded == len(ranges)
    else:
        assert {(int(r["start"], 16), int(r["end"], 16)) for r in ranges} >= set(shown)


def test_who_has_a_frame(capsys: pytest.CaptureFixture[str]) -> None:
    """A page of a user stack: the direct map, the stack through two page tables, and 1-3 MiB."""
    target = ("--snapshot", core(FIRST_GP), "--ram-size", "512M")
    code, out = asked(capsys, "who", "0x28b000", *target)
    assert code == 0 and out.startswith("physical 0x28b000: RAM; the allocator's word is not known")
    assert len(out.splitlines()) == 1 + 2 * 3
    _, document = asked(capsys, "who", "0x28b123", *target, "--json")
    found = json.loads(document)
    assert found["ram"] is True and found["allocator"] is None and found["reason"]
    kinds = {(m["va"], m["kind"], m["effective"]["u"]) for m in found["mappings"]}
    assert kinds == {
        ("0x2000028b123", "direct-map", False),
        ("0x7fffff001123", "user-stack", True),
        ("0x28b123", "user-memory", False),
    }
    assert {m["role"] for m in found["mappings"]} == {"boot", "master", "process"}


def test_who_has_no_ram(capsys: pytest.CaptureFixture[str]) -> None:
    target = ("--snapshot", core(FIRST_GP), "--ram-size", "512M")
    code, out = asked(capsys, "who", "0xfee00000", *target)
    assert code == 0 and "no RAM, a device's or a hole" in out
    assert asked(capsys, "who", "0xfff00000000", *target)[0] == 1


def test_two_stops(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys, "diff", core(FIRST_GP), core(SYSCALL), "--json")
    found = json.loads(out)
    assert code == 1
    master = next(one for one in found if one["role"] == "master")
    # The stacks of processes 6 to 8, which only the later of the two stops has.
    gone = {c["start"] for c in master["changes"] if c["after"] is None}
    assert {"0xffffc90000078000", "0xffffc90000089000", "0xffffc9000009a000"} <= gone
    only = [one for one in found if one["changes"] is None]
    assert only and all((one["before"] is None) != (one["after"] is None) for one in only)


def test_a_stop_against_itself(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys, "diff", core(SYSCALL), core(SYSCALL))
    assert code == 0 and "same" in out


def test_what_is_not_known_is_no_change(capsys: pytest.CaptureFixture[str]) -> None:
    """A root in no memory that we have: nothing was removed there."""
    code, out = asked(capsys, "diff", "master", "0x1fff0000", "--snapshot", core(SYSCALL), "--json")
    found = json.loads(out)
    assert code == 1
    assert {one["reason"] for one in found} == {"unreadable"} and len(found) == 2


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys, "who", "--va", "0x900000000000", "--snapshot", core(SYSCALL))
    assert code == 1 and "non-canonical" in out and "mapped in this" not in out


def test_two_stops_and_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    file = core(SYSCALL)
    assert run(["pt", "diff", file, file, "--snapshot", file]) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 3
