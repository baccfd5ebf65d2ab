"""The MCP server, driven by the protocol's own client: what an agent does at night."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from breenix_gdbagent import lab
from tests.guest.processes import children

pytest.importorskip("mcp")

from tests.guest.live_support import ELF, beside
from tests.guest.mcpclient import Agent, drive

MOST_CALLS, MOST_TOKENS, BYTES_A_TOKEN = 8, 6000, 4
LONG = 600.0


def test_scenarios_are_explained_by_their_codes(tmp_path: Path) -> None:
    """One of each kind of end: a fault, a chain, a panic, a hang, a text that never comes, warnings
    at the end of a run that went well."""
    names = ("double-fault", "handler-panics", "hang", "marker-missing", "ist-shared")

    async def job(agent: Agent) -> None:
        for name in names:
            await agent.call("launch", lab=name)
            await agent.call("run", seconds=2 if lab.scenario(name).exit == 4 else 30)
            assert await codes(agent) == set(lab.scenario(name).codes), name

    drive(job)


async def codes(agent: Agent) -> set[str]:
    """The codes of severity error and warning, of all pages."""
    found: set[str] = set()
    start: int | None = 0
    while start is not None:
        page = await agent.call("explain", start=start)
        found |= {one["code"] for one in page["shown"] if one["severity"] != "info"}
        start = page.get("next")
    return found


def test_from_launch_to_the_blamed_line() -> None:
    """With keys and types only: every argument is out of an answer, the line out of the last."""
    plan = next(name for name in lab.scenarios() if name == "guard-page")

    async def job(agent: Agent) -> None:
        await agent.call("launch", lab=plan)
        await agent.call("run")
        worst = (await agent.call("explain"))["shown"][0]
        source = await agent.call("look", what="source", place=worst["place"])
        (line,) = [row for row in source["shown"] if row.get("here")]
        assert worst["at"].endswith(f":{line['line']}") and isinstance(line["text"], str)
        walked = await agent.call("walk", va=worst["va"])
        assert walked["pa"] is None and walked["levels"]
        frames = await agent.call("look", what="backtrace")
        assert worst["place"] in {row["place"] for row in frames["shown"]}
        assert len(agent.told) <= MOST_CALLS
        assert sum(len(text.encode()) for text in agent.told) / BYTES_A_TOKEN <= MOST_TOKENS

    drive(job)


def test_a_run_is_broken_into_in_every_way() -> None:
    """By cancelling it, by `interrupt`, by its own limit; others are told it is busy meanwhile."""

    async def job(agent: Agent) -> None:
        await agent.call("launch", lab="hang")
        with anyio.move_on_after(1.5) as scope:
            await agent.call("run", until="never", seconds=LONG)
        assert scope.cancelled_caught
        stands = await agent.call("interrupt")
        assert stands["kind"] == "interrupt" and "hang" in stands["symbol"]

        async with anyio.create_task_group() as group:
            answers: dict[str, Any] = {}

            async def run() -> None:
                answers["run"] = await agent.call("run", until="never", seconds=LONG)

            group.start_soon(run)
            while "busy: running since" not in (said := await agent.either("look", what="roots")):
                assert "total" in said
            assert "total" in await agent.either("log")
            assert (await agent.call("interrupt"))["state"] == "stopped"
        assert answers["run"]["kind"] == "interrupt"

        limited = await agent.call("run", until="never", seconds=0.2)
        assert limited["kind"] == "deadline" and "its own limit" in limited["notes"][0]
        assert (await agent.call("walk", va="rip"))["pa"] is not None

    drive(job)


def test_points_steps_and_what_is_looked_at() -> None:
    async def job(agent: Agent) -> None:
        await agent.call("launch", lab="clean")
        added = await agent.call("points", action="break", what="syscall_entry process 2")
        stopped = await agent.call("run")
        assert stopped["points"] == [added["shown"][0]["number"]]
        assert stopped["symbol"] == "syscall_entry"
        before = (await agent.call("look", what="registers"))["shown"][0]
        stepped = await agent.call("step", how="instruction")
        assert stepped["kind"] == "step" and stepped["place"] != before["rip"]
        value = await agent.call("look", what="value", place="SCHEDULER.current_thread")
        assert value["shown"] == [{"text": "Some(3)"}]
        for what in ("processes", "threads", "roots", "map", "heap", "frames", "disassembly"):
            assert (await agent.call("look", what=what))["shown"], what
        pa = (await agent.call("walk", va="rip"))["pa"]
        assert (await agent.call("look", what="who", place=pa))["shown"]
        await agent.call("points", action="delete", what="all")
        there = await agent.call("run", location="kernel::syscall::dispatch")
        assert there["kind"] == "breakpoint"
        assert (await agent.call("points"))["total"] == 0

    drive(job)


def test_nothing_is_written_without_leave_and_errors_are_answers(tmp_path: Path) -> None:
    async def job(agent: Agent) -> None:
        assert "nothing is held yet" in await agent.refused("run")
        assert "did you mean look" in await agent.refused("lock")
        await agent.call("launch", lab="unexpected-exit")
        assert "--write" in await agent.refused("console", send="x")
        assert "regular expression" in await agent.refused("run", until="(")
        assert "no symbol" in await agent.refused("look", what="source", place="no_such_symbol")
        ended = await agent.call("run")
        assert ended["state"] == "ended"
        assert "ended" in await agent.refused("run")
        assert "ended" in await agent.refused("step")
        assert (await agent.call("explain"))["shown"][0]["code"] == "unexpected-exit"

    drive(job)


def test_a_snapshot_is_written_and_opened(tmp_path: Path) -> None:
    """And the report, serial text and map of what is held are resources."""
    file = tmp_path / "stop.core"

    async def job(agent: Agent) -> None:
        await agent.call("launch", lab="guard-page")
        await agent.call("run")
        live = await agent.call("explain")
        written = await agent.call("snapshot", path=str(file))
        assert written["bytes"] == file.stat().st_size
        assert "is there already" in await agent.refused("snapshot", path=str(file))
        opened = await agent.call("open", path=str(file))
        assert opened["state"] == "saved"
        assert (await agent.call("explain"))["shown"] == live["shown"]
        assert "does not run" in await agent.refused("run")
        for uri, said in (
            ("breenix://report.json", '"page-fault.guard-page"'),
            ("breenix://report.md", "page-fault.guard-page"),
            ("breenix://serial/1/1-2", "lines 1-2 of"),
            ("breenix://map", "0x"),
        ):
            read = await agent.client.read_resource(uri)
            assert said in read.contents[0].text, uri
        plan = await agent.client.get_prompt("why-did-it-fault", {"target": "lab guard-page"})
        assert "lab guard-page" in plan.messages[0].content.text

    drive(job)
    assert not children(os.getpid())


def test_a_qemu_that_runs_is_attached_to_and_left_as_it_was(tmp_path: Path) -> None:
    with beside(tmp_path, "hang") as qemu:

        async def job(agent: Agent) -> None:
            there = await agent.call("attach", gdb=qemu.gdb, qmp=qemu.qmp, kernel=str(ELF))
            assert there["state"] == "stopped"
            limited = await agent.call("run", seconds=0.2)
            assert limited["kind"] == "deadline" and "limit" in limited["notes"][0]
            assert (await agent.call("look", what="registers"))["total"]

        drive(job)
        assert qemu.status() == "running"
