"""A receiver per test, and a sender that may reach this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from receivers import Receiver

from watchbill.delivery import LocalSecrets, Sender
from watchbill.settings import Settings


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application(client_max_size=4 * 1024 * 1024)
    app.router.add_route("*", "/{any:.*}", found.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    if found.hold is not None:
        found.hold.set()
    await runner.cleanup()


@pytest.fixture
def secrets() -> dict[str, str]:
    """What `env:NAME` means."""
    return {}


@pytest.fixture
async def sender(secrets: dict[str, str]) -> AsyncIterator[Callable[..., Sender]]:
    """`sender(delivery_timeout_seconds=1, clock=…)` makes one; it is closed when the test ends."""
    async with AsyncExitStack() as stack:

        def make(*, clock: Any = None, store: Any = None, **settings: Any) -> Sender:
            given = {"delivery_allow": "loopback", **settings}
            options = {"clock": clock} if clock else {}
            made = Sender(Settings(**given), LocalSecrets(secrets), store=store, **options)
            stack.push_async_callback(made.aclose)
            return made

        yield make
