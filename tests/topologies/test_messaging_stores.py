"""What messaging does, with and without an event loop, on a store of each kind: the URL is all that differs."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import servers
from test_tls_and_acl import documented_rights
from twins import Twin, ask, entered

from waiting import until
from watchbill.errors import StoreRefuses, StoreUnavailable
from watchbill.names import CrewKeys


@pytest.fixture(params=["sync", "async"])
async def twin(request: pytest.FixtureRequest) -> AsyncIterator[Twin]:
    """Makes the classes of one kind, and closes what it has made when the test ends."""
    made = Twin(is_async=request.param == "async")
    try:
        yield made
    finally:
        await made.close()


async def test_keys_locks_limits_and_messages_work(twin: Twin, store: servers.Store) -> None:
    name = uuid.uuid4().hex
    client = twin("RedisClient", store.url)
    assert await ask(client.health_check) is True
    for number in range(8):  # on all nodes of a Cluster
        key = f"{name}-{number}"
        assert await ask(client.set_json, key, {"n": number}, expire=3600) is True
        assert await ask(client.get_json, key) == {"n": number}
        assert (await ask(client.exists, key), await ask(client.delete, key)) == (True, True)

        lock = twin("RedisLock", key, client=client)
        async with entered(lock.acquire_context(retry=0)) as acquired:
            assert acquired is True
            assert await ask(twin("RedisLock", key, client=client).acquire, retry=0) is False

        limiter = twin("RedisRateLimiter", name, rate=2, period=3600, client=client)
        assert [await ask(limiter.is_allowed, key) for _ in range(3)] == [True, True, False]

    async with entered(client.pipeline()) as pipe:
        pipe.set(f"{{{name}}}:a", 1, ex=60)
        pipe.incr(f"{{{name}}}:a")
        assert (await ask(pipe.execute))[-1] == 2

    got: list[Any] = []
    pubsub = twin("RedisPubSub", client=client)
    await ask(pubsub.subscribe, name, got.append)
    await ask(pubsub.run_in_task if twin.is_async else pubsub.run_in_thread)
    await ask(client.publish, name, {"a": 1})
    await ask(pubsub.publish, name, "text")
    await until(lambda: got == [{"a": 1}, "text"])


async def test_both_kinds_go_on_after_a_failover(fresh_store: Callable[..., servers.Store]) -> None:
    store = fresh_store("valkey-sentinel")
    got: dict[bool, list[Any]] = {False: [], True: []}
    twins = [Twin(is_async=is_async) for is_async in got]
    locks = []
    for twin in twins:
        pubsub, lock = twin("RedisPubSub", url=store.url), twin("RedisLock", f"work-{twin.is_async}", url=store.url)
        await ask(pubsub.subscribe, "news", got[twin.is_async].append)
        await ask(pubsub.run_in_task if twin.is_async else pubsub.run_in_thread)
        await ask(lock.acquire)
        locks.append((lock, lock.fence))
        await ask(lock.release)
    publisher = twins[1]("RedisClient", store.url)
    store.master.kill()

    async def heard() -> bool:
        with suppress(StoreUnavailable):  # until there is another master
            await publisher.publish("news", 1)
        return all(got.values())

    await until(heard)
    for lock, fence in locks:
        await ask(lock.acquire)
        assert lock.fence > fence
    for twin in twins:
        await twin.close()


async def test_a_crews_user_has_locks_limits_and_messages_of_its_crew_only(
    twin: Twin, fresh_store: Callable[..., servers.Store]
) -> None:
    store = fresh_store("valkey-standalone")
    rights = documented_rights()["blog-team"].split()
    store.master.ask("ACL", "SETUSER", "blog-team", "on", ">hunter2", *rights)
    client = twin("RedisClient", store.url.replace("://", "://blog-team:hunter2@", 1))
    own, other = CrewKeys("team-a", "blog-team").prefix, CrewKeys("team-b", "blog-team").prefix

    for prefix, may in ((own, True), (other, False), ("wb:", False)):
        lock = twin("RedisLock", "x", client=client, key_prefix=prefix)
        limiter = twin("RedisRateLimiter", "x", client=client, key_prefix=prefix)
        pubsub = twin("RedisPubSub", client=client, key_prefix=prefix)
        for method, *args in ((lock.acquire, 0), (limiter.is_allowed, "k"), (pubsub.publish, "news", 1)):
            if may:
                await ask(method, *args)
            else:
                with pytest.raises(StoreRefuses):
                    await ask(method, *args)
