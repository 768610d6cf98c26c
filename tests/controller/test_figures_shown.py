"""What the operator's metrics say of queues: what reconciling reads anyway, and old figures read anew at a scrape."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from watchbill import connection, metrics
from watchbill.controller import controller
from watchbill.controller.memory import CrewMemory
from watchbill.controller.stored import Stored
from watchbill.names import CrewKeys
from watchbill.plan.replicas import Load
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import figures, submissions
from watchbill.store.queue import Queue
from watchbill.store.submissions import Submission

PrivateRedis = Callable[[], Awaitable[Any]]


async def no_crew(_: object) -> None:
    """The API server has no crew."""


class NoHeartbeats:
    """A scheduler for crews without heartbeats."""

    async def add(self, *_: Any, **__: Any) -> None: ...
    async def follow(self, *_: Any, **__: Any) -> None: ...

    def fires(self, *_: Any) -> bool:
        return False

    async def remove(self, *_: Any) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


@pytest.fixture(autouse=True)
def _own_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.QUEUES, "_crews", {})


@asynccontextmanager
async def store(private_redis: PrivateRedis) -> AsyncIterator[tuple[redis.asyncio.Redis, Stored]]:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        yield client, Stored(client, NoHeartbeats(), "me", no_crew)


async def synced(stored: Stored, name: str) -> CrewKeys:
    """The crew, once it is stored as the reconciler stores it."""
    seen = {"metadata": {"uid": f"uid-of-{name}", "generation": 1}}
    definition = CrewDefinition(name=name, agents=[AgentDefinition(agent_id="a", agent_class="EchoAgent")])
    assert await stored.sync(("team", name), seen, definition, [], CrewMemory())
    return CrewKeys("team", name)


async def give(client: redis.asyncio.Redis, keys: CrewKeys, *ids: str) -> None:
    queue = Queue(client, keys, f"uid-of-{keys.crew.partition('/')[2]}")
    await submissions.submit(
        queue.client, queue.keys, queue.uid, [Submission(i, "a", "{}") for i in ids], max_queued=100
    )


def shown(crew: str, state: str = "waiting") -> float | None:
    namespace, name = metrics.of_crew(crew)
    series = f'watchbill_queue_depth{{crew="{name}",namespace="{namespace}",state="{state}"}} '
    lines = metrics.QUEUES.text(is_open_metrics=False).splitlines()
    return next((float(line.removeprefix(series)) for line in lines if line.startswith(series)), None)


async def evalshas(client: redis.asyncio.Redis) -> int:
    stats = await client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_reconciling_shows_what_it_read_and_a_removed_crew_is_shown_no_more(
    private_redis: PrivateRedis,
) -> None:
    async with store(private_redis) as (client, stored):
        keys = await synced(stored, "busy")
        assert shown("team/busy") is None, "it never had anything to do"
        await give(client, keys, "t1", "t2")
        await synced(stored, "busy")
        assert shown("team/busy") == 2
        await stored.remove(("team", "busy"), "uid-of-busy", CrewMemory())
        assert shown("team/busy") is None


async def test_a_scrape_reads_only_crews_with_something_to_show_and_only_when_that_is_old(
    private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store(private_redis) as (client, stored):
        crews = [await synced(stored, f"c{i}") for i in range(30)]
        for keys in crews[:3]:
            await give(client, keys, "t1")
            await synced(stored, keys.crew.partition("/")[2])
        await give(client, crews[0], "t2")
        await figures.figures(client, crews[0])  # so that the server has the script
        await client.config_resetstat()
        await controller.show_figures(client)
        assert await evalshas(client) == 0, "all of that was read just now"
        assert shown("team/c0") == 1

        monkeypatch.setattr(controller, "FIGURES_SECONDS", 0.0)
        await controller.show_figures(client)
        assert await evalshas(client) == 3, "27 idle crews cost nothing"
        assert shown("team/c0") == 2
        assert shown("team/c9") is None

        monkeypatch.setattr(controller, "FIGURES_AT_ONCE", 2)
        await client.config_resetstat()
        await controller.show_figures(client)
        assert await evalshas(client) == 2, "however many there are"
        await give(client, crews[2], "t3")
        await controller.show_figures(client)
        assert shown("team/c2") == 2, "the oldest go first"


async def test_retries_of_deliveries_hold_no_worker_and_are_work_once_they_are_due(private_redis: PrivateRedis) -> None:
    async with store(private_redis) as (client, stored):
        keys = await synced(stored, "sends")
        queue = Queue(client, keys.deliveries(), "uid-of-sends")
        await client.hset(keys.meta, "delivers", "1")
        seconds, _ = await client.time()
        later = Submission("d", "to:ops", "{}", due_ms=(int(seconds) + 7200) * 1000)
        await submissions.submit(queue.client, queue.keys, queue.uid, [later], max_queued=100)
        seen = {"metadata": {"uid": "uid-of-sends", "generation": 1}}
        state = await stored.sync(("team", "sends"), seen, None, [], CrewMemory())
        assert state is not None
        assert state.load.none
        assert state.load.due_in is not None
        assert 7100 < state.load.due_in <= 7200
        (member,) = await client.zrange(queue.keys.delayed, 0, -1)
        await client.zadd(queue.keys.delayed, {str(member): 1})
        state = await stored.sync(("team", "sends"), seen, None, [], CrewMemory())
        assert state is not None
        assert state.load == Load(0, 0, None, deliveries=1)
