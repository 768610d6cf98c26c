"""Connections to a server that comes and goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from support import MANY, Crew, Feed, finished, made, opened, payload

from waiting import until
from watchbill import connection
from watchbill.connection import outages
from watchbill.errors import StoreUnavailable
from watchbill.store import runs
from watchbill.store.submissions import Submission


async def test_a_killed_server_comes_back_with_all_that_was_acknowledged(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1", "t2")
        tasks = await crew.take("w", 1, 1)
        waited: list[float] = []
        await server.kill()
        with pytest.raises(StoreUnavailable):
            await crew.submit("t3")
        done = finished(tasks[0])
        finishing = asyncio.create_task(outages.persist(lambda: crew.queue.finish("w", [done]), on_wait=waited.append))
        await until(lambda: _true(waited))
        await server.restart()
        outcomes, _ = await asyncio.wait_for(finishing, 180)
        assert outcomes == ["applied"]
        assert [t.id for t in await crew.take("w", 2)] == ["t2"]


async def _true(value: object) -> bool:
    return bool(value)


async def test_a_follower_of_events_outlives_its_server(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1", "t2")
        async with Feed(crew).following() as feed:
            await crew.finish("w", await crew.take("w", 1, 1))
            await until(lambda: _true(feed.terminal()))
            await server.kill()
            await server.restart()
            await outages.persist(lambda: crew.client.ping())
            await crew.finish("w", await crew.take("w", 2, 1))
            await until(lambda: _true(feed.terminal()["t2"]))
        assert feed.terminal() == {"t1": 1, "t2": 1}


async def test_a_server_without_memory_refuses_new_tasks_and_takes_results(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1", "t2")
        await crew.run("r1")
        await crew.client.config_set("maxmemory", "1")
        before = await crew.dump()
        with pytest.raises(StoreUnavailable, match="memory"):
            await crew.submit("t3")
        with pytest.raises(StoreUnavailable, match="memory"):
            await crew.run("r2")
        assert await crew.dump() == before
        tasks = await crew.take("w")
        sync = connection.connect_sync(crew.url)
        await asyncio.to_thread(crew.queue.renew, sync, "w", 60_000, "{}")
        sync.close()
        await crew.queue.say("w", tasks[0], "tight here", 1)
        await crew.queue.hand_back("w", tasks[1:2])
        assert await crew.finish("w", tasks[:1]) == ["applied"]
        await crew.queue.leave("w")
        assert await crew.finish("w2", await crew.take("w2")) == ["applied"] * 3
        await crew.queue.leave("w2")
        await crew.client.config_set("maxmemory", "0")
        await crew.assert_idle()
        assert await crew.submit_all([Submission("t3", "a", payload("t3"))], max_queued=MANY) == ["t3"]


# Plain ZADD and RPUSH are refused then; scripts with allow-oom are not.
async def test_a_server_without_memory_can_be_told_of_dead_workers(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1")
        await crew.take("w")
        await crew.client.delete(crew.keys.bell)
        await crew.client.config_set("maxmemory", "1")
        await crew.queue.declare_dead(["w"])
        await crew.client.config_set("maxmemory", "0")
        assert await crew.client.llen(crew.keys.bell) == 1
        assert [t.id for t in await crew.claim("next")] == ["t1"]


async def test_a_read_only_server_is_a_reason_to_wait(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1")
        tasks = await crew.take("w")
        await crew.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        before = await crew.dump()
        calls: tuple[Any, ...] = (
            crew.submit("t2"),
            crew.finish("w", tasks),
            crew.claim("w", 2),
            crew.queue.declare_dead(["w"]),
        )
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call
        assert await crew.dump() == before
        await crew.client.execute_command("REPLICAOF", "NO", "ONE")
        assert await crew.finish("w", tasks) == ["applied"]


async def test_a_server_that_misses_its_replicas_is_a_reason_to_wait(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    """docs/redis.md asks for min-replicas-to-write: a result must not be thrown away because a replica is restarted."""
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.submit("t1")
        tasks = await crew.take("w")
        sync = connection.connect_sync(server.url)
        await crew.client.config_set("min-replicas-to-write", 1)
        calls: tuple[Any, ...] = (crew.submit("t2"), crew.finish("w", tasks), crew.claim("w", 2))
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(crew.queue.renew, sync, "w", 60_000, "{}")
        sync.close()
        finishing = asyncio.create_task(outages.persist(lambda: crew.finish("w", tasks)))
        await asyncio.sleep(0.1)
        await crew.client.config_set("min-replicas-to-write", 0)
        assert await finishing == ["applied"]


async def test_a_name_that_leads_to_another_server_by_now_is_followed(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, tmp_path: Path
) -> None:
    """As that of a managed Redis does after a failover: the old master lives on, read-only, with our connections."""
    old, new = await private_redis(), await private_redis()
    name = tmp_path / "master.sock"
    name.symlink_to(old.socket)
    async with opened(new.url, crew_name) as crew, opened(f"unix://{name}", crew_name) as by_name:
        by_name.queue.uid = crew.uid
        sync = connection.connect_sync(f"unix://{name}")
        await by_name.client.execute_command("HSET", by_name.keys.meta, "uid", crew.uid)
        await by_name.take("w")
        await crew.take("w")
        await asyncio.to_thread(by_name.queue.renew, sync, "w", 1000, "{}")
        await by_name.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        name.unlink()
        name.symlink_to(new.socket)
        assert await outages.persist(lambda: by_name.submit("t1")) == ["t1"]
        assert await crew.state("t1") == "waiting"
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(by_name.queue.renew, sync, "w", 1000, "{}")
        await asyncio.to_thread(by_name.queue.renew, sync, "w", 1000, "{}")
        sync.close()


async def test_a_server_that_is_busy_with_a_script_is_a_reason_to_wait(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str
) -> None:
    server = await private_redis()
    async with opened(server.url, crew_name) as crew:
        await crew.client.config_set("busy-reply-threshold", "50")
        hog = redis.asyncio.Redis.from_url(server.url)
        looping: asyncio.Future[Any] = asyncio.ensure_future(hog.eval("while true do end", 0))
        try:
            await until(lambda: _is_busy(crew))
            with pytest.raises(StoreUnavailable):
                await crew.submit("t1")
            with pytest.raises(StoreUnavailable):  # several commands at once
                await runs.result(crew.client, crew.keys, "t1")
        finally:
            await crew.client.script_kill()
            with pytest.raises(redis.ResponseError):
                await looping
            await hog.aclose()
        assert await crew.submit("t1") == ["t1"]


async def _is_busy(crew: Crew) -> bool:
    try:
        await crew.client.ping()
    except redis.ResponseError:
        return True
    return False


async def test_a_server_that_is_not_there_is_said_to_be_so_quickly(tmp_path: Path) -> None:
    client = connection.connect(f"unix://{tmp_path}/none.sock")
    begun = time.monotonic()
    try:
        with pytest.raises(StoreUnavailable):
            await made(client, "nobody")
    finally:
        await client.aclose()
    assert time.monotonic() - begun < 30


async def test_bytes_that_are_no_text_survive_the_way_through_a_client(crew: Crew) -> None:
    key = crew.keys.prefix + "raw"
    async with redis.asyncio.Redis.from_url(crew.url) as raw:
        await raw.set(key, b"\xff\x00ok\xc3(")
        text = await crew.client.get(key)
        await crew.client.set(key, text)
        assert await raw.get(key) == b"\xff\x00ok\xc3("
