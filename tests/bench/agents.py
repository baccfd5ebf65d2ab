"""What the protocol costs: a walk through MCP beside the same walk by the Python API."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from breenix_gdbagent import launch
from tests.bench.harness import Row, absent, judged, pairs

NAME = "a walk through MCP"
BARE, FLOOR = "a call for no guest, same server", 3.0
PYTHON, MOST = "the same walk, Python", 1500.0
"""Nine microseconds beside two processes that tell each other in JSON: what is to be seen here is
that it stays a matter of the protocol. A call that is refused is its floor."""
CALLS = 50
ADDRESS = "rsp"


def rows() -> list[Row]:
    """The same address of the same kind of stop; the server is a process of its own."""
    try:
        from tests.guest.mcpclient import agent
    except ImportError:
        lacking = ((BARE, FLOOR), (PYTHON, MOST))
        return [absent(NAME, against, "ms", "<=", most) for against, most in lacking]
    found: list[Row] = []

    async def measure() -> None:
        async with agent() as client:
            await client.call("launch", lab="guard-page")
            await client.call("run")
            with launch(lab="guard-page") as vm:
                vm.run(seconds=60)

                async def walked() -> None:
                    await client.client.call_tool("walk", {"va": ADDRESS})

                async def refused() -> None:
                    await client.client.call_tool("walk", {})

                def over(action: Callable[[], Awaitable[object]]) -> float:
                    async def several() -> float:
                        begun = time.perf_counter()
                        for _ in range(CALLS):
                            await action()
                        return (time.perf_counter() - begun) / CALLS * 1e3

                    return anyio.from_thread.run(several)

                def python() -> float:
                    begun = time.perf_counter()
                    for _ in range(CALLS):
                        vm.walk(ADDRESS)
                    return (time.perf_counter() - begun) / CALLS * 1e3

                def measured() -> None:
                    beside = pairs(lambda: over(walked), lambda: over(refused))
                    found.append(judged(NAME, beside, BARE, "ms", "<=", FLOOR))
                    both = pairs(lambda: over(walked), python)
                    found.append(judged(NAME, both, PYTHON, "ms", "<=", MOST))

                await anyio.to_thread.run_sync(measured)

    anyio.run(measure)
    return found
