"""The MCP server by counts: every scenario, cancelled runs, odd calls, clients that are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from breenix_gdbagent import lab
from tests.guest.processes import children

pytest.importorskip("mcp")

from tests.guest.mcpclient import MOST_TEXT, Agent, drive
from tests.guest.test_mcp import codes

pytestmark = pytest.mark.timeout(1800)
CANCELLED, ODD, KILLED = 100, 1000, 50
LONG = 600.0
SEED = 23


def test_every_scenario_gives_its_codes() -> None:
    wrong: dict[str, tuple[set[str], set[str]]] = {}

    async def job(agent: Agent) -> None:
        for name, scenario in lab.scenarios().items():
            await agent.call("launch", lab=name)
            await agent.call("run", seconds=2 if scenario.exit == 4 else 60)
            found = await codes(agent)
            if found != set(scenario.codes):
                wrong[name] = found, set(scenario.codes)

    drive(job)
    assert wrong == {}


def test_cancelled_runs_are_followed_by_an_answer() -> None:
    """Cancelled at any moment, before it has begun to run, too."""
    chance = random.Random(SEED)

    async def job(agent: Agent) -> None:
        await agent.call("launch", lab="hang")
        await agent.call("run", until="never", seconds=0.5)
        for _ in range(CANCELLED):
            with anyio.move_on_after(chance.choice((0.001, 0.01, 0.05, 0.2)) * chance.random()):
                await agent.call("run", until="never", seconds=LONG)
            with anyio.fail_after(30):
                walked = await agent.call("walk", va="rip")
            assert walked["pa"] is not None

    drive(job)


ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**30, "", " ", "0x", "0xffffffffffffffffff", "nowhere", "(",
    "\n" * 50, "a" * 9000, "\x00", "é\U0001f600", [], ["x"], {}, {"a": 1}, "rip", "999999999999",
)  # fmt: skip
NAMES = (
    "run", "interrupt", "step", "explain", "walk", "look", "points", "console", "log", "snapshot",
    "when", "who_wrote", "open", "attach", "launch", "nothing", "",
)  # fmt: skip
ARGUMENTS = (
    "until", "seconds", "location", "how", "count", "code", "start", "va", "root", "what", "place",
    "action", "send", "expect", "query", "level", "context", "path", "memory", "gdb", "lab", "zzz",
)  # fmt: skip


def test_odd_calls_are_answered_in_words() -> None:
    """Wrong types, unknown names, calls with nothing held, while it runs, after it has died."""
    chance = random.Random(SEED)

    async def odd(agent: Agent) -> None:
        names = chance.sample(ARGUMENTS, chance.randint(0, 4))
        given = {name: chance.choice(ODD_VALUES) for name in names}
        name = chance.choice(NAMES)
        if name == "look":
            given.setdefault("what", chance.choice(("memory", "value", "map", "source", "who")))
        if name in ("run", "console", "step"):
            given["seconds"] = 0.05
        if name == "launch":
            given.pop("lab", None)
        result = await agent.client.call_tool(name, given)
        (content,) = result.content
        assert len(content.text.encode()) <= MOST_TEXT, (name, given)
        assert "Traceback" not in content.text and "defect of the agent" not in content.text, (
            name, given, content.text,
        )  # fmt: skip
        if result.is_error:
            assert 1 <= len(content.text.splitlines()) <= 3, (name, given, content.text)

    async def job(agent: Agent) -> None:
        for _ in range(ODD // 4):
            await odd(agent)
        await agent.call("launch", lab="guard-page")
        await agent.call("run", seconds=30)
        for _ in range(ODD // 4):
            await odd(agent)
        await agent.call("launch", lab="hang")
        async with anyio.create_task_group() as group:
            group.start_soon(_running, agent)
            for _ in range(ODD // 4):
                await odd(agent)
        await agent.call("launch", lab="unexpected-exit")
        await agent.call("run", seconds=30)
        for _ in range(ODD // 4):
            await odd(agent)

    drive(job)


async def _running(agent: Agent) -> None:
    await agent.either("run", until="never", seconds=2)


CLIENT = """
import anyio, sys
from tests.guest.mcpclient import drive
async def job(agent):
    print("begun", flush=True)
    while True:
        await agent.call("launch", lab="hang")
        with anyio.move_on_after(0.3):
            await agent.call("run", until="never", seconds=600)
drive(job)
"""


def test_a_client_that_is_killed_leaves_nothing() -> None:
    chance = random.Random(SEED)
    for _ in range(KILLED):
        client = subprocess.Popen([sys.executable, "-c", CLIENT], stdout=subprocess.PIPE)
        assert client.stdout is not None and client.stdout.readline()
        end = time.monotonic() + chance.random()
        while time.monotonic() < end:
            time.sleep(0.01)
        below = children(client.pid)
        assert below
        client.send_signal(signal.SIGKILL)
        client.wait()
        client.stdout.close()
        _all_end(below)


def _all_end(pids: list[int]) -> None:
    """Wait for their end; the test's own limit is for those that do not."""
    while left := [pid for pid in pids if _alive(pid)]:
        assert left
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
