"""When all is listed anew, and reconciled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import test_operator

from waiting import until
from watchbill import background, connection
from watchbill.clock import SYSTEM
from watchbill.controller.cache import Key
from watchbill.controller.controller import LEFT_OUT_MOST, Controller
from watchbill.kubernetes_api import KubernetesApi
from watchbill.scheduler import Scheduler
from watchbill.settings import Settings
from watchbill.testing import FakeClock

api_server = test_operator.api_server


async def test_a_resync_is_left_out_while_crews_wait_though_not_for_ever(
    api_server: test_operator.ApiServer, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    store, clock = await private_redis(), FakeClock()

    async def reconcile(_: Key) -> None:
        pass

    async with connection.connected(store.url) as client, await KubernetesApi.connect() as kubernetes:
        settings = Settings(watch_namespaces="team", resync_seconds=300)
        made = Controller(settings, client, kubernetes, Scheduler(client, SYSTEM), "me", "replica", clock)
        queue = vars(made)["_queue"]
        resync = asyncio.create_task(made._resync())

        async def listings(periods: int) -> int:
            """How often it lists within so many periods."""
            before = api_server.listed
            for _ in range(periods):
                await until(lambda: clock.sleepers == [300])
                clock.advance(300)
            await until(lambda: clock.sleepers == [300])
            return api_server.listed - before

        await until(lambda: clock.sleepers == [300])
        assert queue.oldest_seconds == 0
        assert await listings(LEFT_OUT_MOST) == 0, "its crew waits all the while"
        assert await listings(1) == 1
        working = asyncio.create_task(queue.run(reconcile, 1))
        assert await listings(2) == 2, "nothing waits"
        await background.end(resync, working)
