"""Serves /healthz, /readyz and /metrics of a process over HTTP, from a thread of its own.

A thread, because an agent may block the process's event loop for as long as it computes. Scale-in reads readiness, so a
busy worker must not lose it, nor be restarted, for not answering.

Ready: from the start, and no longer once drained; never for the store's sake or for load. Alive: the event loop has
turned within `stuck_seconds`. A process that has ended answers nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

import redis.asyncio
from aiohttp import web

from watchbill import metrics
from watchbill.clock import SYSTEM, Clock
from watchbill.errors import WatchbillError
from watchbill.loggers import Logger
from watchbill.metrics.page import page
from watchbill.names import CrewKeys
from watchbill.store import figures
from watchbill.worker.http import HttpServer

logger = Logger("watchbill.health")

FIGURES_SECONDS: Final = 1.0
_KUBELET: Final = "kube-probe/"
"""A kubelet's User-Agent begins with it."""
STUCK_SECONDS: Final = 30.0
"""Default of `stuck_seconds`."""


class HealthServer:
    """Serves until it is closed. Each scrape calls `observe` on the event loop of the process, which reads the figures
    that the metrics show; `is_ready` is called in the thread."""

    def __init__(
        self,
        observe: Callable[[], Awaitable[None]],
        is_ready: Callable[[], bool],
        *,
        stuck_seconds: float = STUCK_SECONDS,
        is_operator: bool = False,
        on_probe: Callable[[bool], object] = lambda _: None,
        clock: Clock = SYSTEM,
    ) -> None:
        """`is_operator`: the operator's own metrics are served, too. `stuck_seconds`: an event loop that stands still
        for so long makes the process count as dead. For a worker give what its lease keeper has: by then others have
        its tasks. `on_probe` is called in the thread with each answer to a kubelet that asks whether it is ready."""
        self._observe = observe
        self._is_ready = is_ready
        self._stuck_seconds = stuck_seconds
        self._is_operator = is_operator
        self._on_probe = on_probe
        self._clock = clock
        self._server = HttpServer({"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics})
        self._served: asyncio.AbstractEventLoop | None = None
        """The event loop of the process."""
        self._own: asyncio.AbstractEventLoop | None = None
        """The event loop of the thread."""
        self._asked_at: float | None = None
        """The time at which the loop of the process was asked to turn; None: it has turned since."""

    @property
    def port(self) -> int:
        return self._server.port

    async def start(self, host: str, port: int) -> None:
        """Listens; port 0 takes any free one, told by `port`. Raises OSError when it is taken."""
        self._served, own = asyncio.get_running_loop(), asyncio.new_event_loop()
        self._own = own
        threading.Thread(target=_run, args=(own,), name="watchbill-health", daemon=True).start()
        try:
            await _at(own, self._server.start(host, port))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stops serving. Open requests get no answer."""
        own, self._own = self._own, None
        if own is not None:
            await _at(own, self._server.close())
            own.call_soon_threadsafe(own.stop)

    # ------------------------------------------------------------ in the thread

    async def _healthz(self, _: web.BaseRequest) -> web.Response:
        now = self._clock.monotonic()
        if self._asked_at is None and self._served is not None:
            self._asked_at = now
            self._served.call_soon_threadsafe(self._turned)
        if self._asked_at is not None and now - self._asked_at >= self._stuck_seconds:
            return web.Response(status=503, text="stuck\n")
        return web.Response(text="ok\n")

    def _turned(self) -> None:
        self._asked_at = None

    async def _readyz(self, request: web.BaseRequest) -> web.Response:
        is_ready = self._is_ready()
        if request.headers.get("User-Agent", "").startswith(_KUBELET):
            self._on_probe(is_ready)
        return web.Response(text="ready\n") if is_ready else web.Response(status=503, text="drained\n")

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        # Without the store the last figures stay: a scrape must not fail, or take long, when it is needed most.
        if self._served is not None:
            with suppress(TimeoutError):  # it is blocked
                async with asyncio.timeout(FIGURES_SECONDS):
                    await _at(self._served, self._read_figures())
        text, content_type = page(",".join(request.headers.getall("Accept", ())), is_operator=self._is_operator)
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def _read_figures(self) -> None:
        """Runs on the event loop of the process."""
        try:
            async with asyncio.timeout(FIGURES_SECONDS):
                await self._observe()
        except (WatchbillError, redis.exceptions.RedisError, TimeoutError):
            pass
        except Exception:
            logger.exception("the figures of queues could not be read")


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _at(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    """Does the work on the loop of another thread."""
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


async def observe(client: redis.asyncio.Redis, crews: Sequence[CrewKeys]) -> None:
    """Reads these crews' figures for the metrics."""
    async for crew, found in figures.each(client, crews):
        metrics.QUEUES.show(crew, found)
