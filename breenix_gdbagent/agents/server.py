"""The Model Context Protocol on stdio: the tools of a session, its resources and its prompts.

The SDK's low-level server: arguments are checked by us, so that what is wrong with them is told in
our words, and no exception of ours reaches it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import anyio.to_thread
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

from breenix_gdbagent.agents import prompts, resources
from breenix_gdbagent.agents.schema import read_arguments, to_json
from breenix_gdbagent.agents.session import Session
from breenix_gdbagent.agents.tools import BY_NAME, TOOLS, Tool
from breenix_gdbagent.errors import AgentError, InputError
from breenix_gdbagent.jsonvalue import Json
from breenix_gdbagent.version import VERSION

Guard = Callable[[Callable[[], Json]], "Json | AgentError"]
"""Does something and gives back what it answers, or what went wrong, whatever that is."""

INSTRUCTIONS = (
    "Debugs a kernel (Breenix, x86-64) in QEMU from outside, and says why it faulted. One guest, "
    "recording or snapshot at a time: launch (or attach, open), run, explain; then look, walk, "
    "step, points. Answers name places (0x..., file.rs:12) that other tools take."
)
BEAT = 0.5
ASK_AGAIN = 0.05
INVALID = -32602

Context = ServerRequestContext[dict[str, object]]


@dataclass
class Work:
    """One call that a thread does."""

    done: anyio.Event = field(default_factory=anyio.Event)
    answer: Json | AgentError = None


@dataclass(frozen=True)
class Moving:
    """A call that lets the guest run: which, since when (seconds of the event loop's clock)."""

    tool: str
    since: float


class Served:
    """One client's session, served. Calls are done in order, one at a time, each in a thread;
    while one lets the guest run the others are told so, but for those that may be called then."""

    def __init__(self, session: Session, guard: Guard) -> None:
        self.session = session
        self.guard = guard
        self.moving: Moving | None = None
        self._turn = anyio.Lock()
        self._waiting = 0

    # Tools -----------------------------------------------------------------------------------

    async def list_tools(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """All of them, with schemas and annotations."""
        return types.ListToolsResult(tools=[listed(tool) for tool in TOOLS])

    async def call_tool(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """One call. What goes wrong is its answer."""
        tool = BY_NAME.get(params.name)
        if tool is None:
            return _failed(_no_tool(params.name))
        try:
            given = read_arguments(tool.name, tool.arguments, params.arguments or {})
        except InputError as error:
            return _failed(error)
        await anyio.lowlevel.checkpoint()  # a cancellation that came before is heard first
        if tool.name == "interrupt":
            await self._broken_in()
        elif self.moving is not None and not tool.aside:
            return _failed(self._busy(tool))
        answer = await self._called(ctx, tool, given)
        return _failed(answer) if isinstance(answer, AgentError) else _answered(answer)

    async def _called(self, ctx: Context, tool: Tool, given: dict[str, Json]) -> Json | AgentError:
        def job() -> Json:
            return to_json(tool.do(self.session, given))

        if tool.aside and self.moving is not None:
            return await self._done(job)
        if not tool.moves:
            async with self._turn:
                return await self._done(job)
        self.moving = mine = Moving(tool.name, anyio.current_time())
        try:
            async with self._turn:
                return await self._done(job, ctx, given.get("seconds"))
        finally:
            self._over(mine)

    def _over(self, mine: Moving | None) -> None:
        """Calls that come now wait for the end of this one, which is near, and are not refused."""
        if self.moving is mine:
            self.moving = None

    async def _done(
        self, job: Callable[[], Json], ctx: Context | None = None, seconds: Json = None
    ) -> Json | AgentError:
        """`job` in a thread of its own. Cancelled, the guest is stopped, and we wait for that."""
        work = Work()

        async def do() -> None:
            with anyio.CancelScope(shield=True):
                work.answer = await anyio.to_thread.run_sync(lambda: self.guard(job))
                work.done.set()

        async with anyio.create_task_group() as group:
            group.start_soon(do)
            try:
                await self._beats(work, ctx, seconds)
            except anyio.get_cancelled_exc_class():
                if ctx is not None:
                    self._over(self.moving)
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await self._ended(work)
        return work.answer

    async def _ended(self, work: Work) -> None:
        """Ask until it is over: the guest may only be about to run."""
        while not work.done.is_set():
            self.session.interrupt()
            with anyio.move_on_after(ASK_AGAIN):
                await work.done.wait()

    async def _beats(self, work: Work, ctx: Context | None, seconds: Json) -> None:
        """Progress until it is over: how long, and the guest's last words."""
        if ctx is None:
            await work.done.wait()
            return
        begun = anyio.current_time()
        total = float(seconds) if isinstance(seconds, int | float) else None
        while not work.done.is_set():
            with anyio.move_on_after(BEAT):
                await work.done.wait()
                return
            passed = round(anyio.current_time() - begun, 1)
            await ctx.session.report_progress(passed, total, self._last_line())

    def _last_line(self) -> str | None:
        held = self.session.held_now
        lines = held.serial.lines() if held is not None and held.runs else []
        return lines[-1][:80] if lines else None

    async def _broken_in(self) -> None:
        """What lets the guest run is over when this returns."""
        while self.moving is not None:
            self.session.interrupt()
            await anyio.sleep(ASK_AGAIN)

    def _busy(self, tool: Tool) -> InputError:
        assert self.moving is not None
        passed = anyio.current_time() - self.moving.since
        return InputError(
            f"busy: running since {passed:.1f} s",
            f"{self.moving.tool} lets the guest run, and {tool.name} needs it stopped",
            "call interrupt, cancel that call, or wait for its end; log can be called meanwhile",
        )

    # Resources and prompts -------------------------------------------------------------------

    async def list_resources(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """What can be read."""
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    uri=one.uri, name=one.name, description=one.about, mime_type=one.mime
                )
                for one in resources.RESOURCES
            ]
        )

    async def list_templates(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        """What can be read in parts."""
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(
                    uri_template=resources.SERIAL_TEMPLATE,
                    name="serial lines",
                    description="lines of one serial port (COM1 is 1), counted from 1",
                    mime_type="text/plain",
                )
            ]
        )

    async def read_resource(
        self, ctx: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """One of them. Raises `MCPError`, which is this protocol's way to say no here."""
        uri = str(params.uri)

        def job() -> Json:
            found = resources.read(self.session, uri)
            return {"text": found.text, "mime": found.mime}

        answer: Json | AgentError
        if self.moving is not None and not resources.while_running(uri):
            answer = InputError(f"busy: {self.moving.tool} lets the guest run")
        elif self.moving is not None:
            answer = await self._done(job)
        else:
            async with self._turn:
                answer = await self._done(job)
        if isinstance(answer, AgentError):
            raise MCPError(INVALID, str(answer))
        assert isinstance(answer, dict)
        text, mime = str(answer["text"]), str(answer["mime"])
        contents = [types.TextResourceContents(uri=uri, mime_type=mime, text=text)]
        return types.ReadResourceResult(contents=list(contents))

    async def list_prompts(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        """Plans over the tools."""
        return types.ListPromptsResult(
            prompts=[
                types.Prompt(
                    name=one.name,
                    description=one.about,
                    arguments=[
                        types.PromptArgument(name=name, description=about, required=True)
                        for name, about in one.arguments
                    ],
                )
                for one in prompts.PROMPTS
            ]
        )

    async def get_prompt(
        self, ctx: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        """One of them, filled in. Raises `MCPError`."""
        try:
            about, text = prompts.filled(params.name, params.arguments or {})
        except InputError as error:
            raise MCPError(INVALID, str(error)) from None
        said = types.PromptMessage(role="user", content=types.TextContent(type="text", text=text))
        return types.GetPromptResult(description=about, messages=[said])


def listed(tool: Tool) -> types.Tool:
    """A tool as ``tools/list`` has it."""
    hints = types.ToolAnnotations(read_only_hint=True)
    if not tool.reads:
        hints = types.ToolAnnotations(read_only_hint=False, destructive_hint=tool.destroys)
    return types.Tool(
        name=tool.name,
        description=tool.about,
        input_schema=tool.takes,
        output_schema=tool.answers,
        annotations=hints,
    )


def _no_tool(name: str) -> InputError:
    import difflib

    near = difflib.get_close_matches(name, BY_NAME, 1)
    fix = f"did you mean {near[0]}?" if near else f"there are: {', '.join(BY_NAME)}"
    return InputError(f"no tool {name[:60]!r}", fix=fix)


def _failed(error: AgentError) -> types.CallToolResult:
    text = types.TextContent(type="text", text=str(error))
    return types.CallToolResult(content=[text], is_error=True)


def _answered(answer: Json) -> types.CallToolResult:
    """The answer as data, and as text for clients that show only that."""
    text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=answer
    )


def server(served: Served) -> Server[dict[str, object]]:
    """The protocol's server for a session."""
    return Server(
        "breenix-gdbagent",
        version=VERSION,
        instructions=INSTRUCTIONS,
        on_list_tools=served.list_tools,
        on_call_tool=served.call_tool,
        on_list_resources=served.list_resources,
        on_list_resource_templates=served.list_templates,
        on_read_resource=served.read_resource,
        on_list_prompts=served.list_prompts,
        on_get_prompt=served.get_prompt,
    )


def serve(session: Session, guard: Guard) -> None:
    """Serve one client on stdin and stdout until it is gone; what is held is let go then."""

    async def run() -> None:
        found = server(Served(session, guard))
        async with stdio_server() as (read, write):
            await found.run(read, write, found.create_initialization_options())

    try:
        with suppress(BrokenPipeError):
            anyio.run(run)
    finally:
        session.close()
