"""One connection to one tool server that speaks MCP: by standard input and output, or by streamable HTTP.

The library negotiates the protocol: 2026-07-28, or the handshake of the versions before. Every wait has a bound, which
is the server's `timeoutSeconds`. A server that fails is named by its error, and begun anew at the next use.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from watchbill import metrics
from watchbill.agents import mcp_child, outgoing
from watchbill.api.tool_sources import ToolServer
from watchbill.errors import NotWorthRetrying, RetryLater, UserActionRequired, WatchbillError, needed
from watchbill.loggers import Logger
from watchbill.redaction import redact

with needed("A tool server", "mcp"):
    import httpx2
    from mcp import types
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared.exceptions import MCPError

logger = Logger("watchbill.tools")

RESULT_MAX: Final = 256 * 1024
"""Characters of one result above which it is refused."""
TOOLS_MAX: Final = 1000
_PAGES_MAX: Final = 50
_STREAM_SECONDS: Final = 300.0
"""Seconds that a server's stream of messages may be silent. Each call has its own bound."""
_LINES_KEPT: Final = 5
_SAID_MAX: Final = 500
_END_SECONDS: Final = 6.0
"""Seconds for a server to end: a little more than the library takes to kill it."""
_OF_THE_CALL: Final = frozenset({types.INVALID_PARAMS})
"""Errors of the protocol that a model may mend, by other arguments."""


@dataclass(slots=True, eq=False)
class _Life:
    """One connection, from its begin to its end."""

    ready: asyncio.Future[tuple[Client, dict[str, types.Tool]]]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    keeping: asyncio.Task[None] | None = None
    calls: int = 0
    """Calls under way."""
    is_left: bool = False
    """No other call is made by it: it ends when those that are under way have."""

    @property
    def is_up(self) -> bool:
        ready = self.ready
        return ready.done() and not ready.cancelled() and ready.exception() is None and not self.over.is_set()


class Connection:
    """A server as one worker uses it."""

    def __init__(self, crew: str, server: ToolServer) -> None:
        """`crew`: `namespace/name`. Begins nothing yet."""
        self._server = server
        self._life: _Life | None = None
        self._lives: set[_Life] = set()
        self._said: deque[str] = deque(maxlen=_LINES_KEPT)
        self._up = metrics.TOOL_SERVER_UP.labels(*metrics.of_crew(crew), server.name)

    async def tools(self) -> Mapping[str, types.Tool]:
        """The server's tools by name. Begins the connection if there is none. Raises RetryLater when the server doesn't
        start or answer in time, UserActionRequired when somebody must change something first."""
        return (await self._connected()).ready.result()[1]

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """The result of a tool: JSON if the server gives it, else text. Raises ValueError for what a model may mend,
        RetryLater when the server has gone, and TimeoutError."""
        life = await self._connected()
        life.calls += 1
        try:
            return _value(await self._called(life, name, arguments))
        finally:
            life.calls -= 1
            if life.is_left and not life.calls:
                life.over.set()

    async def _called(self, life: _Life, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        client, _ = life.ready.result()
        try:
            async with asyncio.timeout(self._server.timeout_seconds):
                return await client.call_tool(name, arguments)
        except TimeoutError:
            raise TimeoutError(f"{self._named} gave no answer within {self._server.timeout_seconds} s") from None
        except MCPError as error:
            if error.code in _OF_THE_CALL:
                raise ValueError(error.message) from None
            if error.code == types.CONNECTION_CLOSED:
                self._leave(life)
                raise self._gone() from None
            # A server that has begun anew knows no session of before, and each says that by another error.
            life.is_left = self._server.url is not None
            raise RetryLater(f"{self._named} answered with an error: {redact(error.message)[:_SAID_MAX]}") from None
        except WatchbillError:
            raise
        except Exception as error:
            self._leave(life)
            raise self._gone(error) from None

    def _leave(self, life: _Life) -> None:
        """By HTTP each call has a connection of its own: others may still get their answers."""
        if self._server.url is not None:
            life.is_left = True
        else:
            life.over.set()

    async def aclose(self) -> None:
        """Ends the connection, and the server's process."""
        for life in self._lives:
            life.over.set()
        if keeping := {life.keeping for life in self._lives if life.keeping is not None}:
            _, late = await asyncio.wait(keeping, timeout=_END_SECONDS)
            for one in late:
                one.cancel()
            if late:
                await asyncio.wait(late, timeout=_END_SECONDS)

    @property
    def _named(self) -> str:
        return f"tool server {self._server.name!r}"

    async def _connected(self) -> _Life:
        life, before = self._life, None
        if life is None or life.over.is_set() or life.is_left:
            if life is not None and self._server.url is None:  # one process after the other
                before = life.keeping
            life = self._life = _Life(asyncio.get_running_loop().create_future())
            life.keeping = asyncio.create_task(self._keep(life, before))
            self._lives.add(life)
            life.keeping.add_done_callback(lambda _: self._lives.discard(life))
        done, _ = await asyncio.wait([life.ready], timeout=self._server.timeout_seconds)
        if not done:
            life.over.set()
            raise RetryLater(f"{self._named} did not start within {self._server.timeout_seconds} s{self._last_lines()}")
        life.ready.result()
        return life

    async def _keep(self, life: _Life, before: asyncio.Task[None] | None) -> None:
        """Holds the connection from its begin to its end, in one task, as the library needs it."""
        ready, over = life.ready, life.over
        if before is not None:
            await asyncio.wait([before])
        if over.is_set():  # whoever wanted it has given up
            ready.set_exception(self._failed(None))
            ready.exception()
            return
        self._said.clear()
        starting = asyncio.create_task(over.wait())
        holding = asyncio.create_task(self._hold(ready, over))
        await asyncio.wait([starting, holding], return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        if not holding.done() and not ready.done():  # it hangs as it starts
            holding.cancel()
        await asyncio.wait([holding])
        if not any(one.is_up for one in self._lives - {life}):
            self._up.set(0)
        error = None if holding.cancelled() else holding.exception()
        if not ready.done():
            ready.set_exception(self._failed(error))
            ready.exception()  # whoever waited may have left
        over.set()

    async def _hold(self, ready: asyncio.Future[Any], over: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            transport = await stack.enter_async_context(self._transport(over))
            client = await stack.enter_async_context(Client(transport))
            tools = await _all_tools(client)
            server, version = client.server_info, client.protocol_version
            name = f" ({server.name} {server.version})" if server else ""
            logger.info("%s%s is ready with %d tools, by protocol %s", self._named, name, len(tools), version)
            self._up.set(1)
            ready.set_result((client, tools))
            await over.wait()

    @asynccontextmanager
    async def _transport(self, over: asyncio.Event) -> AsyncGenerator[Any]:
        server = self._server
        if server.url is not None:
            headers = outgoing.headers(server.headers, self._named)
            seconds = float(server.timeout_seconds)
            timeout = httpx2.Timeout(seconds, read=max(seconds, _STREAM_SECONDS))
            async with httpx2.AsyncClient(transport=_Guarded(), headers=headers, timeout=timeout) as http:
                yield streamable_http_client(server.url, http_client=http)
            return
        command = [sys.executable, "-S", str(Path(mcp_child.__file__)), *(server.command or ())]
        environment = {name: os.environ[name] for name in server.env if name in os.environ}
        parameters = StdioServerParameters(command=command[0], args=command[1:], env=environment)
        reading, writing = os.pipe()
        lines = asyncio.create_task(self._read_lines(reading, over))
        try:
            with os.fdopen(writing, "w") as errors:
                yield _Closing(stdio_client(parameters, errlog=errors), errors.close)
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(lines, 1.0)  # its last words; those that it left behind may hold it open

    async def _read_lines(self, pipe: int, over: asyncio.Event) -> None:
        """Logs what the server writes to its standard error, whose end is the server's end."""
        reader = asyncio.StreamReader(limit=64 * 1024)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", 0)
        )
        try:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:  # longer than the limit
                    continue
                if not line:
                    break
                text = redact(line.decode("utf-8", "replace").rstrip())
                self._said.append(text[:_SAID_MAX])
                logger.info("%s: %s", self._named, text)
            over.set()
        finally:
            transport.close()

    def _failed(self, error: BaseException | None) -> WatchbillError:
        """The error for a server that did not start."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, WatchbillError):
            return error
        url = self._server.url
        if url is not None and error is not None and (reason := outgoing.refused(error, url)):
            return UserActionRequired(f"{self._named}: {reason}")
        said = "" if error is None else f": {redact(str(error) or type(error).__name__)[:_SAID_MAX]}"
        return RetryLater(f"{self._named} can't be used{said}{self._last_lines()}")

    def _gone(self, error: Exception | None = None) -> RetryLater:
        said = "" if error is None else f" ({type(error).__name__})"
        return RetryLater(f"{self._named} has gone while it worked{said}{self._last_lines()}")

    def _last_lines(self) -> str:
        return f". It last wrote: {' | '.join(self._said)}" if self._said else ""


class _Closing:
    """A transport that calls a function as soon as it is open: our copy of a pipe's end must not keep it open."""

    def __init__(self, transport: Any, opened: Any) -> None:
        self._transport, self._opened = transport, opened

    async def __aenter__(self) -> Any:
        try:
            return await self._transport.__aenter__()
        finally:
            self._opened()

    async def __aexit__(self, *error: Any) -> Any:
        return await self._transport.__aexit__(*error)


async def _all_tools(client: Client) -> dict[str, types.Tool]:
    found: dict[str, types.Tool] = {}
    cursor = None
    for _ in range(_PAGES_MAX):
        page = await client.list_tools(cursor=cursor)
        found |= {tool.name: tool for tool in page.tools}
        cursor = page.next_cursor
        if cursor is None or len(found) > TOOLS_MAX:
            break
    if len(found) > TOOLS_MAX or cursor is not None:
        raise UserActionRequired(f"a tool server has more than {TOOLS_MAX} tools, or pages of them without end")
    return found


def _value(result: types.CallToolResult) -> Any:
    """The result for the model. Raises ValueError if the tool failed, with the words of the server."""
    parts = [
        block.text if isinstance(block, types.TextContent) else f"[{block.type}, which is left out]"
        for block in result.content
    ]
    text = "\n".join(parts)
    if len(text) > RESULT_MAX or len(str(result.structured_content or "")) > RESULT_MAX:
        raise NotWorthRetrying(f"the result has more than {RESULT_MAX // 1024} Ki characters. Ask for less")
    if result.is_error:
        raise ValueError(redact(text) or "the tool failed, and didn't say why")
    return text if result.structured_content is None else result.structured_content


class _Guarded(httpx2.AsyncBaseTransport):
    """HTTP for the library over our own sessions, which connect only where a crew's tools may."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = str(request.url)
        headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() not in _OURS]
        timeout = request.extensions.get("timeout", {})
        limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout.get("connect"), sock_read=timeout.get("read"))
        try:
            response = await outgoing.session(url).request(
                request.method,
                url,
                data=await request.aread() or None,
                headers=headers,
                allow_redirects=False,
                timeout=limits,
            )
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no answer in time", request=request) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ConnectError(type(error).__name__, request=request) from error
        return httpx2.Response(
            response.status, headers=list(response.headers.items()), stream=_Body(response), request=request
        )


_OURS: Final = frozenset({"host", "accept-encoding", "connection", "content-length", "transfer-encoding"})


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._response.content.iter_any():
                yield part
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no answer in time") from error
        except aiohttp.ClientError as error:
            raise httpx2.ReadError(type(error).__name__) from error

    async def aclose(self) -> None:
        self._response.close()
