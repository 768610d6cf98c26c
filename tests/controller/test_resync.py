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


async def test_a_resync_has_only_changes_reconciled_while_crews_wait_though_not_for_ever(
    api_server: test_operator.ApiServer, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    store, clock, done = await private_redis(), FakeClock(), list[str]()
    for name in ("gone", "other"):
        metadata = {**test_operator.CREW["metadata"], "name": name, "uid": name}
        api_server.objects[f"{test_operator.CREWS}/{name}"] = {**test_operator.CREW, "metadata": metadata}

    async def reconcile(key: Key) -> None:
        done.append(key[1])

    async with connection.connected(store.url) as client, await KubernetesApi.connect() as kubernetes:
        settings = Settings(watch_namespaces="team", resync_seconds=300)
        made = Controller(settings, client, kubernetes, Scheduler(client, SYSTEM), "me", "replica", clock)
        queue, memory = vars(made)["_queue"], vars(made)["_memory"].of(("team", "echo"))
        resync = asyncio.create_task(made._resync())

        async def whole(periods: int) -> int:
            """How many of so many periods end with a resync that has all crews reconciled. Each of them lists."""
            found, before = 0, api_server.listed
            for _ in range(periods):
                memory.synced = "known"
                clock.advance(300)
                await until(lambda: clock.sleepers == [300])
                found += not memory.synced
            assert api_server.listed == before + periods
            return found

        await until(lambda: clock.sleepers == [300])
        working = asyncio.create_task(queue.run(reconcile, 1))
        await until(lambda: sorted(done) == ["echo", "gone", "other"])
        await background.end(working)

        queue.add(("team", "echo"))
        del api_server.objects[f"{test_operator.CREWS}/gone"]
        assert await whole(1) == 0
        assert {key[1] for lane in vars(queue)["_lanes"].values() for key in lane} == {"echo", "gone"}
        assert await whole(LEFT_OUT_MOST - 1) == 0, "its crew waits all the while"
        assert await whole(1) == 1
        assert {key[1] for lane in vars(queue)["_lanes"].values() for key in lane} == {"echo", "gone", "other"}
        working = asyncio.create_task(queue.run(reconcile, 1))
        await until(lambda: queue.oldest_seconds == 0)
        assert await whole(2) == 2, "nothing waits"
        await background.end(resync, working)
