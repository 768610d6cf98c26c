"""A real receiver of webhooks, for the tests of deliveries: what it got, and what it is told to answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from watchbill.api.delivery import Destination


@dataclass
class Receiver:
    """Answers 204, or the first of `answers` (status, headers) while there are any."""

    port: int = 0
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    always: int = 204
    hangs: bool = False
    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(webhook-id, body) of each request."""
    traces: list[str | None] = field(default_factory=list)
    """Its `traceparent`."""
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    @property
    def ids(self) -> list[str]:
        return [webhook_id for webhook_id, _ in self.got]

    @property
    def tasks(self) -> list[str]:
        return [body["task_id"] for _, body in self.got]

    def destination(self, name: str = "ops", **fields: Any) -> Destination:
        return Destination.model_validate(
            {"name": name, "webhook": {"url": f"http://127.0.0.1:{self.port}/{name}"}, **fields}
        )

    async def open(self) -> None:
        """Listens, from the second time on at the same port."""
        app = web.Application()
        app.router.add_post("/{name}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def close(self) -> None:
        self.let_go.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def renew(self) -> None:
        """What comes from now on waits for another `let_go`."""
        self.let_go = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.Response:
        self.got.append((request.headers["webhook-id"], await request.json()))
        self.traces.append(request.headers.get("traceparent"))
        if self.hangs:
            await self.let_go.wait()  # the one of now: see renew
        status, headers = self.answers.pop(0) if self.answers else (self.always, {})
        return web.Response(status=status, headers=headers)


@asynccontextmanager
async def receiving(**options: Any) -> AsyncIterator[Receiver]:
    receiver = Receiver(**options)
    await receiver.open()
    try:
        yield receiver
    finally:
        await receiver.close()
