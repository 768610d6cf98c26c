"""Serves /healthz, /readyz and /metrics of a process over HTTP.

Alive: the event loop answers. Ready: from the start, and no longer once drained; never for the store's sake or for
load, because scale-in reads readiness (OPERATOR protocol, §4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import redis.asyncio
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from watchbill import metrics
from watchbill.errors import WatchbillError
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.store import figures
from watchbill.worker.http import HttpServer

logger = Logger("watchbill.health")

FIGURES_SECONDS: Final = 1.0


class HealthServer:
    """Serves until it is closed. Each scrape calls `observe`, which reads the figures that the metrics show."""

    def __init__(self, observe: Callable[[], Awaitable[None]], is_ready: Callable[[], bool]) -> None:
        self._observe = observe
        self._is_ready = is_ready
        self._server = HttpServer({"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics})

    @property
    def port(self) -> int:
        return self._server.port

    async def start(self, host: str, port: int) -> None:
        """Listens; port 0 takes any free one, told by `port`. Raises OSError when it is taken."""
        await self._server.start(host, port)

    async def close(self) -> None:
        await self._server.close()

    async def _healthz(self) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self) -> web.Response:
        return web.Response(text="ready\n") if self._is_ready() else web.Response(status=503, text="drained\n")

    async def _metrics(self) -> web.Response:
        # Without the store the last figures stay: a scrape must not fail, or take long, when it is needed most.
        try:
            async with asyncio.timeout(FIGURES_SECONDS):
                await self._observe()
        except (WatchbillError, redis.exceptions.RedisError, TimeoutError):
            pass
        except Exception:
            logger.exception("the figures of queues could not be read")
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def observe(client: redis.asyncio.Redis, crews: Sequence[CrewKeys]) -> None:
    """Reads these crews' figures for the metrics."""
    async for crew, found in figures.each(client, crews):
        metrics.QUEUES.show(crew, found)
