"""What the workers of a crew, its agents and its clients ask of a store, for tests of rights."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from workshop import Crew

from waiting import until
from watchbill.messaging import AsyncRedisStream
from watchbill.network import RedisCache
from watchbill.store import eviction


async def work(crew: Crew) -> None:
    """What workers and clients ask."""
    worker = await crew.worker(health=True)
    await crew.submit("shaky", "b", "away:1")
    await crew.submit("dead", "b", "away")
    await crew.submit("run")
    await crew.started("run/a")
    crew.open()
    await crew.results(["shaky", "dead"])
    assert not (await crew.result("run")).success  # b fails
    assert (await crew.client.figures(crew.name)).workers == 1
    assert await eviction.fault(crew.redis) is None
    assert await crew.events()
    await crew.client.submit(crew.name, "x", agent="a", id="c", dedupe_key="k", metadata={"m": "1"})
    await crew.result("c")
    await crew.client.submit(crew.name, "x", agent="a", id="late", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    assert await crew.client.cancel(crew.name, "late")
    assert "dead" in {letter.task_id async for letter in crew.client.dead_letters(crew.name)}
    assert (await crew.client.status(crew.name, "run")).status.value == "failed"
    await say_and_remember(crew)
    await worker.drain()
    assert "NOPERM" not in worker.log
    assert "no permissions" not in worker.log, worker.log


async def say_and_remember(crew: Crew) -> None:
    """What agents ask with a stream and the cache of their crew."""
    options: dict[str, Any] = {"key_prefix": crew.keys.prefix, "retry_after": 0.01, "max_deliveries": 1}
    stream = AsyncRedisStream("news", crew.redis, **options)
    await stream.create_consumer_group("agents", "a")
    first, second = [await stream.add({"n": n}) for n in range(2)]
    assert len(await stream.read_group(wait=20)) == 2
    assert await stream.renew(first, second) == [first, second]
    assert await stream.acknowledge(first) == 1

    async def letters() -> Any:
        return await stream.read_group() or await stream.dead_letters()

    assert [letter["message_id"] for letter in await until(letters)] == [second]
    assert await stream.leave()
    assert await stream.cleanup() == {}
    cache = RedisCache(client=crew.redis, prefix=crew.keys.history)
    for agent in ("a", "b"):
        await cache.append_response(agent, "yes", expire=60)
    await cache.clear("a")
    assert await cache.get_responses("b") == await cache.get_last_responses(9) == ["yes"]
    assert await cache.get_random_responses(9) == ["yes"]
    await cache.clear_all()
