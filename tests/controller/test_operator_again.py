"""An operator that waits for the API server again, whose CRDs were rolled back."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import test_operator
from prometheus_client import REGISTRY

from waiting import until
from watchbill import connection, metrics
from watchbill.controller import served
from watchbill.controller.operator import Operator
from watchbill.names import CrewKeys
from watchbill.scheduler import Scheduler
from watchbill.settings import Settings
from watchbill.store import definitions, submissions
from watchbill.store.submissions import Submission

api_server = test_operator.api_server


async def test_nothing_stays_of_a_controller_that_has_ended_and_its_figures_are_shown_no_more(
    api_server: test_operator.ApiServer,
    private_redis: Callable[[], Awaitable[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rolled_back = asyncio.Event()

    async def until_lacking(*_: object) -> None:
        await rolled_back.wait()

    def shown() -> tuple[float | None, bool]:
        leads = REGISTRY.get_sample_value("watchbill_operator_leader")
        return leads, 'crew="echo",namespace="team"' in metrics.QUEUES.text(is_open_metrics=False)

    monkeypatch.setattr(served, "until_lacking", until_lacking)
    api_server.serves_crews = True
    store = await private_redis()
    operator = Operator(Settings(watch_namespaces="team"), store.url, Scheduler)
    running = asyncio.create_task(operator.run())
    await until(lambda: api_server.ready() == "AgentsUnchecked")
    async with connection.connected(store.url) as client:
        keys = CrewKeys("team", "echo")
        uid = (await definitions.identity(client, keys)).uid
        await submissions.submit(client, keys, uid, [Submission("t", "a", "{}")], max_queued=9)
    await until(lambda: shown() == (1, True))
    former = weakref.ref(vars(operator)["_controller"])
    gc.freeze()  # as after a collection that was slow
    api_server.serves_crews = False
    rolled_back.set()
    await until(lambda: shown() == (0, False))
    await until(lambda: former() is None)
    operator.stop()
    async with asyncio.timeout(180):
        await running
