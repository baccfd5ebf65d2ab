"""The SDK's own client, at the other end of ``breenix-gdbagent mcp``."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import jsonschema
from mcp import Client, StdioServerParameters

SERVER = ("-m", "breenix_gdbagent", "mcp")
MOST_TEXT = 4096


@dataclass
class Agent:
    """A client that checks every answer against its tool's schema; `told` are the texts so far."""

    client: Client
    schemas: dict[str, Any]
    told: list[str] = field(default_factory=list)

    async def call(self, tool: str, **given: Any) -> dict[str, Any]:
        """The answer of a call that must succeed."""
        result = await self.client.call_tool(tool, given)
        text = self._text(result)
        assert not result.is_error, text
        found: dict[str, Any] = result.structured_content
        jsonschema.validate(found, self.schemas[tool])
        assert json.loads(text) == found
        return found

    async def refused(self, tool: str, **given: Any) -> str:
        """The words of a call that must fail: at most three lines, and no traceback."""
        result = await self.client.call_tool(tool, given)
        text = self._text(result)
        assert result.is_error, text
        assert 1 <= len(text.splitlines()) <= 3 and "Traceback" not in text
        return text

    async def either(self, tool: str, **given: Any) -> str:
        """The text of a call, whatever comes of it."""
        return self._text(await self.client.call_tool(tool, given))

    def _text(self, result: Any) -> str:
        (content,) = result.content
        text: str = content.text
        assert len(text.encode()) <= MOST_TEXT
        self.told.append(text)
        return text


@asynccontextmanager
async def agent(*options: str) -> AsyncIterator[Agent]:
    """A server of ours and a client to it."""
    server = StdioServerParameters(command=sys.executable, args=[*SERVER, *options])
    async with Client(server) as client:
        listed = await client.list_tools()
        yield Agent(client, {tool.name: tool.output_schema for tool in listed.tools})


def drive(job: Callable[[Agent], Awaitable[None]], *options: str) -> None:
    """Do `job` with a client."""

    async def run() -> None:
        async with agent(*options) as found:
            await job(found)

    anyio.run(run)
