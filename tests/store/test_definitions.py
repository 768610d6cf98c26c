"""A crew's place in the queue: whose it is, and how it ends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from support import run_submission

from waiting import until
from watchbill import connection
from watchbill.errors import Conflict, NameTaken, StoreUnavailable
from watchbill.messaging import AsyncRedisStream, RedisClient, RedisStream
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import definitions, events, runs, submissions
from watchbill.store.definitions import Identity
from watchbill.store.submissions import Submission


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with connection.connected(redis_url) as client:
        yield client


@pytest.fixture
def keys(crew_name: str) -> CrewKeys:
    return CrewKeys("tests", crew_name)


def definition(agent: str = "a") -> CrewDefinition:
    return CrewDefinition(name="some", agents=[AgentDefinition(agent_id=agent, agent_class="EchoAgent")])


async def submit(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, count: int) -> None:
    tasks = [Submission(f"t{i}", "a", "{}") for i in range(count)]
    await submissions.submit(client, keys, uid, tasks, max_queued=1000)


async def left(client: redis.asyncio.Redis, keys: CrewKeys) -> list[str]:
    return sorted([str(key) async for key in client.scan_iter(match=f"{keys.prefix}*", count=1000)])


async def test_a_crew_is_its_owners_and_nobody_elses(client: redis.asyncio.Redis, keys: CrewKeys) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    assert await definitions.identity(client, keys) == Identity("u1", "one", "")
    before = await client.hgetall(keys.meta)
    for uid in ("u1", "u2"):
        with pytest.raises(NameTaken, match="'one'"):
            await definitions.apply(client, keys, definition("b"), uid=uid, owner="two")
    assert await client.hgetall(keys.meta) == before
    assert await definitions.apply(client, keys, definition("b"), uid="u1", owner="one") == "u1"


async def test_a_crew_without_an_owner_is_given_one_only_under_its_uid(
    client: redis.asyncio.Redis, keys: CrewKeys
) -> None:
    await definitions.apply(client, keys, definition(), uid="u1")
    with pytest.raises(Conflict):
        await definitions.apply(client, keys, definition(), uid="u2", owner="one")
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    assert (await definitions.identity(client, keys)).owner == "one"


async def test_identities_of_many_are_in_order(client: redis.asyncio.Redis, keys: CrewKeys) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    none = CrewKeys("tests", "there-is-none")
    assert await definitions.identities(client, [none, keys, none]) == [
        Identity(),
        Identity("u1", "one", ""),
        Identity(),
    ]


@pytest.mark.parametrize("batches", [0, 1, 2])
async def test_a_removal_goes_on_where_it_was_interrupted(
    client: redis.asyncio.Redis, keys: CrewKeys, batches: int
) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    await submit(client, keys, "u1", 250)
    assert await definitions._step(client, keys, "u1", "begin")
    for _ in range(batches):
        assert await definitions.delete_records(client, keys, "u1")
    assert await definitions.identity(client, keys) == Identity("", "one", "u1")
    assert await definitions.delete(client, keys, "u1")
    assert await left(client, keys) == []


async def test_a_new_crew_of_that_name_begins_only_once_nothing_of_the_former_is_left(
    client: redis.asyncio.Redis, keys: CrewKeys
) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    await submit(client, keys, "u1", 150)
    assert await definitions._step(client, keys, "u1", "begin")
    assert await definitions.delete_records(client, keys, "u1")

    await definitions.apply(client, keys, definition(), uid="u2", owner="one")

    assert await definitions.identity(client, keys) == Identity("u2", "one", "")
    assert not [key for key in await left(client, keys) if ":task:" in key]
    assert await client.zcard(keys.ids) == 0


async def test_a_late_step_of_a_removal_touches_nothing_of_the_new_crew(
    client: redis.asyncio.Redis, keys: CrewKeys
) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    assert await definitions.delete(client, keys, "u1")
    await definitions.apply(client, keys, definition(), uid="u2", owner="one")
    await submit(client, keys, "u2", 3)
    before = await left(client, keys)
    for step in ("begin", "records", "end"):
        assert not await definitions._step(client, keys, "u1", step, before, ["t0", "t1", "t2"])
    assert await left(client, keys) == before
    assert await client.zcard(keys.ids) == 3


# Else what is asked of the new crew is answered with the id of work that went with the former one, and never done.
@pytest.mark.parametrize("what", ["task", "run"])
async def test_a_dedupe_key_of_a_former_crew_keeps_nothing_from_a_new_one(
    client: redis.asyncio.Redis, keys: CrewKeys, what: str
) -> None:
    async def submit(uid: str, task_id: str) -> str:
        if what == "task":
            task = Submission(task_id, "a", "{}", dedupe_key="daily", dedupe_ms=60_000)
            return (await submissions.submit(client, keys, uid, [task], max_queued=9))[0]
        run = run_submission(task_id, definition(), dedupe_key="daily", dedupe_ms=60_000)
        return await runs.submit(client, keys, uid, run, max_queued=9)

    await definitions.apply(client, keys, definition(), uid="u1")
    assert await submit("u1", "x1") == "x1"
    assert await definitions.delete(client, keys, "u1")
    await definitions.apply(client, keys, definition(), uid="u2")

    assert await submit("u2", "x2") == "x2"
    assert await submit("u2", "x3") == "x2"
    assert await client.xlen(keys.streams[2]) == 1


async def test_two_may_remove_at_once(client: redis.asyncio.Redis, keys: CrewKeys) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    await submit(client, keys, "u1", 500)
    await asyncio.gather(*(definitions.delete(client, keys, "u1") for _ in range(4)))
    assert await left(client, keys) == []


async def test_a_crew_that_leaves_takes_no_work(client: redis.asyncio.Redis, keys: CrewKeys) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    assert await definitions._step(client, keys, "u1", "begin")
    with pytest.raises(Exception, match="deleted"):
        await submit(client, keys, "u1", 1)
    assert not [key for key in await left(client, keys) if ":task:" in key]


async def test_a_definition_that_can_not_be_read_does_not_keep_a_crew_alive(
    client: redis.asyncio.Redis, keys: CrewKeys
) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    digest = str(await client.hget(keys.meta, "def"))
    await client.set(keys.definition(digest), '{"of": "a later version"}')
    assert await definitions.delete(client, keys, "u1")
    assert await left(client, keys) == []


async def _messages(client: redis.asyncio.Redis, keys: CrewKeys) -> list[str]:
    return [event.message for _, event in await events.recent(client, keys.events, 100)]


async def test_who_brings_a_crew_back_that_the_store_has_lost_says_so_once(
    client: redis.asyncio.Redis, keys: CrewKeys
) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    born = (await definitions.current(client, keys)).born
    await definitions.apply(client, keys, definition("b"), uid="u1", owner="one", was_there=True)
    assert await definitions.record_loss(client, keys, "u1", born)
    assert await _messages(client, keys) == [], "nothing was lost"

    await client.delete(*await left(client, keys))
    assert not await definitions.record_loss(client, keys, "u1", born)
    assert await left(client, keys) == []
    for _ in range(2):  # as when the answer is lost
        await definitions.apply(client, keys, definition("b"), uid="u1", owner="one", was_there=True)
    (message,) = await _messages(client, keys)
    assert "what waited is gone" in message
    assert await definitions.record_loss(client, keys, "u1", born)
    assert not await definitions.record_loss(client, keys, "u2", born)
    assert await _messages(client, keys) == [message], "it was told already"


async def test_a_crew_that_is_new_in_the_store_has_lost_nothing(client: redis.asyncio.Redis, keys: CrewKeys) -> None:
    await definitions.apply(client, keys, definition(), uid="u1", owner="one")
    assert await _messages(client, keys) == []
    assert await definitions.record_loss(client, keys, "u1", ""), "who doesn't know since when has no say"
    assert await _messages(client, keys) == []


@pytest.mark.parametrize("kind", [AsyncRedisStream, RedisStream])
async def test_the_streams_that_agents_made_go_with_their_crew_and_none_is_made_without_one(
    client: redis.asyncio.Redis, keys: CrewKeys, redis_url: str, kind: type, monkeypatch: Any
) -> None:
    monkeypatch.setattr(definitions, "_BATCH", 2)
    await definitions.apply(client, keys, definition(), uid="u1")
    with RedisClient(redis_url) as threaded:
        store = client if kind is AsyncRedisStream else threaded
        made = [kind(f"s{n}", store, key_prefix=keys.prefix, retry_after=0.001, max_deliveries=1) for n in range(4)]
        for n, stream in enumerate(made):
            for _ in range(2 if n else 1):  # the last ones begin with a group, the first with a message
                await ask(stream.create_consumer_group, "g", "c") if n else await ask(stream.add, {"n": 1})
        await ask(made[3].add, {"n": 1})
        assert await ask(made[3].read_group)
        assert await until(lambda: _letters(made[3])), "a dead letter, which is to go, too"
        assert await ask(made[1].cleanup, force=True) == {}
        assert await client.smembers(keys.shared_streams) == {stream._core.key for stream in (made[0], *made[2:])}

        assert await definitions.delete(client, keys, "u1")
        assert await left(client, keys) == sorted(await client.keys(f"{keys.prefix}*:answer:*"))
        for method, *args in (("add", {}), ("create_consumer_group", "g", "c")):
            with pytest.raises(StoreUnavailable, match=f"the store has no crew '{keys.crew}'"):
                await ask(getattr(made[0], method), *args)
        assert [key for key in await left(client, keys) if ":answer:" not in key] == []


async def _letters(stream: Any) -> Any:
    await ask(stream.read_group)
    return await ask(stream.dead_letters)


async def ask(method: Any, *args: Any, **options: Any) -> Any:
    """The answer of a method of either kind."""
    answer = method(*args, **options)
    return await answer if inspect.isawaitable(answer) else answer
