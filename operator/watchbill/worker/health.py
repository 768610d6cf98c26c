"""What a process shows over HTTP: /healthz, /readyz and /metrics.

Alive: the event loop answers. Ready: from the start, and no longer once drained; never for the store's sake or for
load, because scale-in reads readiness (OPERATOR protocol, §4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import redis.asyncio
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from watchbill import metrics
from watchbill.errors import WatchbillError
from watchbill.names import CrewKeys
from watchbill.store import figures

FIGURES_SECONDS: Final = 1.0


class HealthServer:
    """Serves until closed. `observe` reads the figures that the metrics show; called at each scrape."""

    def __init__(self, observe: Callable[[], Awaitable[None]], is_ready: Callable[[], bool]) -> None:
        self._observe = observe
        self._is_ready = is_ready
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listens; port 0 takes any free one, told by `port`. Raises OSError when it is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self._is_ready() else web.Response(status=503, text="drained\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        # Without the store the last figures stay: a scrape must not fail, or take long, when it is needed most.
        with suppress(WatchbillError, redis.exceptions.RedisError, TimeoutError):
            async with asyncio.timeout(FIGURES_SECONDS):
                await self._observe()
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def observe(client: redis.asyncio.Redis, crews: Sequence[CrewKeys]) -> None:
    """Reads these crews' figures for the metrics."""
    async for crew, found in figures.each(client, crews):
        metrics.QUEUES.show(crew, found)
