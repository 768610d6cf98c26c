"""Serves probes and scrapes over HTTP, and lets nobody who reaches its port hold it up.

aiohttp's, with the bounds that it leaves to others: one request to a connection, which ends in time, however little is
sent or read; and few connections: one more ends the oldest of those whose request isn't complete, so that a probe gets
in while somebody opens thousands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from watchbill.loggers import Logger

logger = Logger("watchbill.health")
_strangers = logging.getLogger("watchbill.health.garbage")
"""The logger of garbage that isn't HTTP. It is silent: anybody who reaches the port could fill the log."""
_strangers.setLevel(logging.CRITICAL)

CONNECTIONS: Final = 64
HEAD_SECONDS: Final = 5.0
"""Seconds that a request may take to come."""
CONNECTION_SECONDS: Final = 15.0
"""Seconds that a connection may last: the request, and the making, sending and reading of the answer."""

Page = Callable[[web.BaseRequest], Awaitable[web.Response]]


class HttpServer:
    """Serves pages: a path, and the function that makes its answer."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listens; port 0 takes any free one, told by `port`. Raises OSError when it is taken."""
        self._runner = web.ServerRunner(_Server(self._pages), shutdown_timeout=0)
        await self._runner.setup()
        # As many as the loop accepts at once, before it looks at one of them: each is a descriptor.
        await web.TCPSite(self._runner, host, port, backlog=CONNECTIONS).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stops serving. Open requests get no answer."""
        if self._runner is not None:
            await self._runner.cleanup()


class _Server(web.Server):
    def __init__(self, pages: Mapping[str, Page]) -> None:
        super().__init__(
            self._answer, keepalive_timeout=HEAD_SECONDS, lingering_time=0, access_log=None, logger=_strangers
        )
        self._pages = pages
        self._asking: dict[RequestHandler, asyncio.Transport] = {}
        """Connections whose request isn't complete, the oldest first."""
        self._ends: dict[RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._ends[handler] = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, transport.abort)
        if len(self._ends) > CONNECTIONS and self._asking:
            self._asking.pop(next(iter(self._asking))).abort()
        self._asking[handler] = transport

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._asking.pop(handler, None)
        if end := self._ends.pop(handler, None):
            end.cancel()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self._asking.pop(request.protocol, None)
        answer = await self._page(request)
        answer.force_close()
        return answer

    async def _page(self, request: web.BaseRequest) -> web.Response:
        page = self._pages.get(request.path)
        if page is None:
            return web.Response(status=404, text="Not Found\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="Method Not Allowed\n", headers={"Allow": "GET, HEAD"})
        try:
            return await page(request)
        except Exception:
            logger.exception("%s could not be answered", request.path)
            return web.Response(status=500, text="Internal Server Error\n")
