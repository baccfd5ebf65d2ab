"""A recording in an agent's hands: moved in, and asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from breenix_gdbagent.commands import run

pytest.importorskip("mcp")

from tests.guest.mcpclient import Agent, drive


def test_a_recording_is_moved_in_and_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The write that made an entry read-only is found, with arguments out of answers alone."""
    where = tmp_path / "run"
    scenario = "kernel-slot-read-only"
    assert run(["record", "-o", str(where), "--lab", scenario, "--timeout", "60", "--json"]) == 1
    capsys.readouterr()

    async def job(agent: Agent) -> None:
        opened = await agent.call("open", path=str(where))
        worst = (await agent.call("explain"))["shown"][0]
        (moment,) = (await agent.call("when", code=worst["code"]))["shown"]
        assert moment["status"] == "found" and moment["change"]
        there = await agent.call("step", how="goto", place=str(moment["icount"]))
        assert there["place"] == moment["rip"]
        back = await agent.call("step", how="back")
        assert f"instruction {moment['icount'] - 1} of" in back["notes"][0]
        end = await agent.call("step", how="goto", place="end")
        assert (end["place"], end["notes"]) == (opened["place"], opened["notes"])
        wrote = await agent.call("who_wrote", place=moment["change"]["pa"])
        assert wrote["total"] > 1
        begun = await agent.call("step", how="goto", place="1_000_000")
        assert begun["place"] != there["place"]
        again = await agent.call("run", location=moment["rip"])
        assert again["place"] == moment["rip"]
        assert (await agent.call("run"))["place"] == opened["place"]
        assert "no instruction" in await agent.refused("step", how="instruction", count=9)

    drive(job)
