"""Waiting for results, and what else a client asks."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import redis
from client_support import tasks_named
from redis.asyncio.client import PubSub
from support import Crew, library, opened

from waiting import until
from watchbill.client import Client
from watchbill.errors import NotFound, StoreUnavailable
from watchbill.store import definitions, runs
from watchbill.store.crews import CrewRedis
from watchbill.tasks import RunState, TaskState


async def channels(crew: Crew) -> list[str]:
    return [str(name) for name in await crew.client.pubsub_channels(crew.keys.prefix + "reply:*")]


async def test_many_first_calls_at_once_share_one_connection_for_replies(crew: Crew, client: Client) -> None:
    calls = [asyncio.create_task(client.run(crew.keys.crew, "x", agent="a")) for _ in range(20)]

    async def all_are_waited_for() -> bool:
        ids = await client.unfinished(crew.keys.crew)
        return len(ids) == 20 and all([await crew.client.hexists(crew.keys.task(id_), "reply") for id_ in ids])

    await until(all_are_waited_for)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    (found,) = await channels(crew)
    assert await crew.client.pubsub_numsub(found) == [(found, 1)]


async def test_who_does_not_wait_is_not_told(crew: Crew, client: Client) -> None:
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    await client.submit_many(crew.keys.crew, "a", [tasks_named("t2")])
    await client.submit(crew.keys.crew, "x", id="r1")
    assert await channels(crew) == []
    for key in (crew.keys.task("t1"), crew.keys.task("t2"), crew.keys.run("r1")):
        assert not await crew.client.hget(key, "reply")


async def test_everyone_who_waits_is_told_at_once_whoever_submitted_it(
    crew: Crew, client: Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 3600.0)  # nobody looks
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    await client.submit(crew.keys.crew, "x", id="r1")
    async with Client(redis_url) as other:
        waiting = [asyncio.create_task(c.wait(crew.keys.crew, i)) for c in (client, other) for i in ("t1", "r1")]
        for key in (crew.keys.task("t1"), crew.keys.run("r1")):
            await until(partial(_waiters, crew, key))
        assert await client.cancel(crew.keys.crew, "r1")
        await crew.finish("w", await crew.take("w"))
        async with asyncio.timeout(180):
            assert [result.success for result in await asyncio.gather(*waiting)] == [True, False] * 2


async def _waiters(crew: Crew, key: str) -> bool:
    return len(str(await crew.client.hget(key, "reply")).split("\x1e")) == 2


async def test_what_ends_just_before_somebody_is_to_be_told_of_it_is_found(crew: Crew, client: Client) -> None:
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    await crew.finish("w", await crew.take("w"))
    await client.submit(crew.keys.crew, "x", id="r1")
    await client.cancel(crew.keys.crew, "r1")
    for id_ in ("t1", "r1", "unknown"):
        assert not await runs.subscribe(crew.client, crew.keys, id_, "channel")


async def test_running_again_what_has_ended_gives_its_result_at_once(
    crew: Crew, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 3600.0)
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    await crew.finish("w", await crew.take("w"))
    assert (await client.run(crew.keys.crew, "x", agent="a", id="t1", timeout=180)).success


async def test_waiting_outlasts_a_store_that_goes_as_it_is_to_listen(
    crew: Crew, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    really, refused = PubSub.subscribe, 0

    async def subscribe(self: PubSub, *channels: Any) -> Any:
        nonlocal refused
        refused += 1
        if refused == 1:
            raise redis.exceptions.ConnectionError("away")
        return await really(self, *channels)

    monkeypatch.setattr(PubSub, "subscribe", subscribe)
    waiting = asyncio.create_task(client.wait(crew.keys.crew, "t1", timeout=180))

    async def has_listened() -> bool:
        return refused == 2 or waiting.done()

    await until(has_listened)
    await crew.finish("w", await crew.take("w"))
    assert (await waiting).success


async def test_who_comes_after_a_time_in_which_nobody_could_listen_is_told_at_once(
    private_redis: Any, crew_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A password that is changed, say. Whoever waited then looks; nobody after that should have to."""
    monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 1.0)
    server = await private_redis()
    async with opened(server.url, crew_name) as crew, Client(server.url) as client:
        await crew.submit("t1", "t2")
        waiting = asyncio.create_task(client.wait(crew.keys.crew, "t1", timeout=180))
        await until(partial(channels, crew))
        await crew.client.config_set("requirepass", "changed")
        await crew.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

        async def gives_up() -> bool:
            return "can't hear what ends" in caplog.text

        await until(gives_up)
        await crew.client.config_set("requirepass", "")
        one, two = await crew.take("w")
        await crew.finish("w", [one])
        assert (await waiting).success
        monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 3600.0)
        waiting = asyncio.create_task(client.wait(crew.keys.crew, "t2", timeout=180))
        await until(partial(channels, crew))
        await until(lambda: crew.client.hget(crew.keys.task("t2"), "reply"))
        await crew.finish("w", [two])
        assert (await waiting).success


async def test_connections_that_break_while_others_begin_to_listen_leave_everyone_told(
    private_redis: Any, crew_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each crew has a channel of its own, all on one connection, which is made anew by whoever finds it broken."""
    server = await private_redis()
    waiting: list[asyncio.Task[Any]] = []
    async with AsyncExitStack() as stack:
        crews = [await stack.enter_async_context(opened(server.url, f"{crew_name}-{n}")) for n in range(12)]
        client = await stack.enter_async_context(Client(server.url))

        async def break_connections() -> None:
            for n in range(300):
                await crews[0].client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(n % 11 / 1000)

        breaking = asyncio.create_task(break_connections())
        for crew in crews:
            await crew.submit("t1")
            waiting += [asyncio.create_task(client.wait(crew.keys.crew, "t1")) for _ in range(5)]
            await asyncio.sleep(0.1)
        await breaking

        async def all_listen() -> bool:
            return bool(len(await crews[0].client.pubsub_channels("*:reply:*")) == len(crews))

        await until(all_listen)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert "can't hear" not in caplog.text


async def test_running_something_is_refused_in_time_although_the_store_does_not_answer(
    private_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill.client.replies.LISTEN_SECONDS", 0.2)
    monkeypatch.setattr("watchbill.connection.client.REPLY_TIMEOUT_SECONDS", 3600)
    server = await private_redis()
    async with Client(server.url) as client:
        server.pause()
        try:
            async with asyncio.timeout(180):
                with pytest.raises(StoreUnavailable):
                    await client.run("c", "x")
        finally:
            server.resume()


async def test_waiting_gives_up_in_time_although_the_store_does_not_answer(
    private_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill.connection.client.REPLY_TIMEOUT_SECONDS", 3600)
    server = await private_redis()
    async with Client(server.url) as client:
        server.pause()
        try:
            async with asyncio.timeout(180):
                with pytest.raises(TimeoutError):
                    await client.wait("c", "t1", timeout=0.2)
        finally:
            server.resume()


async def test_who_waited_too_long_is_told_for_what(crew: Crew, client: Client) -> None:
    """Of a run that was given no id, it is the only way to it."""
    name = crew.keys.crew
    with pytest.raises(TimeoutError, match=r"no result after 0\.1 s") as caught:
        await client.run(name, "do it", agent="a", timeout=0.1)
    (task_id,) = await client.unfinished(name)
    assert str(caught.value) == f"{task_id!r} of crew {name!r}: no result after 0.1 s"
    with pytest.raises(TimeoutError, match=task_id):
        await client.wait(name, task_id, timeout=0.1)


async def test_crews_are_listed_and_looked_at(crew: Crew, client: Client) -> None:
    namespace = crew.keys.crew.replace("/", "-")
    records = CrewRedis(client=crew.client, tenant=namespace, strict=True)
    try:
        for name in ("two", "one"):
            await records.save_crew(library().model_copy(update={"name": name}))
        assert await client.crews(namespace=namespace) == [f"{namespace}/one", f"{namespace}/two"]
    finally:
        await records.clear_all_crews()
    assert [a.agent_id for a in (await client.crew(crew.keys.crew)).agents] == ["a", "b"]
    await definitions.apply(crew.client, crew.keys, library("c"))
    assert [a.agent_id for a in (await client.crew(crew.keys.crew)).agents] == ["c"]
    with pytest.raises(NotFound):
        await client.crew("nobody")


async def test_the_state_of_tasks_runs_and_steps(crew: Crew, client: Client) -> None:
    await crew.submit("t1")
    await crew.run("r1")
    assert await client.state(crew.keys.crew, "t1") is TaskState.WAITING
    assert await client.state(crew.keys.crew, "r1") is RunState.RUNNING
    assert await client.state(crew.keys.crew, "r1/a") is TaskState.WAITING
    await crew.finish("w", await crew.take("w"))
    assert await client.state(crew.keys.crew, "t1") is TaskState.COMPLETED
    assert await client.state(crew.keys.crew, "r1") is RunState.COMPLETED
    assert await runs.result(crew.client, crew.keys, "r1") is not None
    await until(lambda: _idle(crew))


async def _idle(crew: Crew) -> bool:
    return await crew.queued() == 0
