"""RedisStream and AsyncRedisStream on a real server: groups, retries, dead letters, bounds."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from typing import Any

import pytest
import redis
from twins import Twin, ask

from waiting import until
from watchbill import names
from watchbill.errors import InvalidInput, NotFound, QueueFull
from watchbill.messaging import stream_core

SOON = 0.02
"""Seconds after which a message that nobody acknowledged is given again."""


@pytest.fixture
def key() -> str:
    return f"stream-{uuid.uuid4().hex}"


@pytest.fixture
def made(twin: Twin, redis_url: str, key: str) -> Any:
    """Makes consumers of one stream, each with connections of its own."""
    return lambda **options: twin("RedisStream", key, url=redis_url, **options)


async def consumer(stream: Any, name: str = "worker-1", group: str = "workers") -> Any:
    await ask(stream.create_consumer_group, group, name)
    return stream


async def given(stream: Any, count: int = 10) -> list[Any]:
    return [message["data"]["n"] for message in await ask(stream.read_group, count=count)]


async def next_given(stream: Any) -> dict[str, Any]:
    """The next message, as soon as it is given."""
    [message] = await until(lambda: ask(stream.read_group, count=1))
    return message


# ---------------------------------------------------------------- groups


async def test_a_group_made_after_the_message_gets_it_and_each_message_goes_to_one_consumer(made: Any) -> None:
    one, other, all_alone = made(), made(), made()
    ids = [await ask(one.add, {"n": n}) for n in range(5)]
    assert await ask(one.create_consumer_group, "workers", "worker-1") is True
    assert await ask(other.create_consumer_group, "workers", "worker-2") is False
    await consumer(all_alone, "watcher", "watchers")

    first = await ask(one.read_group, count=2)
    assert first == [{"id": ids[0], "data": {"n": 0}}, {"id": ids[1], "data": {"n": 1}}]
    assert await given(other, 10) == [2, 3, 4]
    assert await given(one) == await given(other) == []
    assert await given(all_alone) == [0, 1, 2, 3, 4]


async def test_what_was_acknowledged_is_not_given_again(made: Any) -> None:
    stream = await consumer(made(retry_after=SOON))
    first = await ask(stream.add, {"n": 1})
    second = await ask(stream.add, {"n": 2})
    assert len(await ask(stream.read_group)) == 2
    assert await ask(stream.acknowledge, first) == 1
    assert await ask(stream.acknowledge, first, second) == 1
    await ask(stream.add, {"n": 3})

    await asyncio.sleep(2 * SOON)
    assert (await next_given(stream))["data"] == {"n": 3}
    assert await ask(stream.acknowledge) == 0


async def test_reading_begins_with_the_first_message_and_takes_nothing(made: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(stream_core, "PAGE", 3)
    stream = await consumer(made())
    assert await ask(stream.read) == []
    ids = [await ask(stream.add, {"n": n}) for n in range(8)]

    assert [message["data"]["n"] for message in await ask(stream.read)] == list(range(8))
    assert [message["id"] for message in await ask(stream.read, ids[1], count=5)] == ids[2:7]
    assert await ask(stream.read, count=0) == []
    assert len(await ask(stream.read_group)) == 8


async def test_a_consumer_that_waits_gets_a_message_when_it_comes(made: Any) -> None:
    stream, producer = await consumer(made()), made()
    waiting = asyncio.create_task(ask(stream.read_group, wait=60))
    await until(lambda: ask(lambda: waiting.get_coro() is not None))
    added = await ask(producer.add, {"n": 1})

    assert await waiting == [{"id": added, "data": {"n": 1}}]
    assert await ask(stream.read_group, wait=0.01) == []


async def test_nested_values_are_json_on_the_server_and_come_back_as_they_were(
    made: Any, key: str, redis_client: Any
) -> None:
    stream = await consumer(made())
    nested = {"inputs": ["a.csv", {"deep": [None, True, 1.5]}], "options": {"k": "v"}, "n": 7}
    await ask(stream.add, {**nested, "text": "[1]"})

    [(_, fields)] = await redis_client.xrange(key)
    assert {name: json.loads(fields[name]) for name in nested} == nested
    assert fields["text"] == "[1]"
    [message] = await ask(stream.read_group)
    assert message["data"] == {**nested, "text": "[1]"}


# ---------------------------------------------------------------- again, and given up


async def test_what_is_pending_with_a_silent_consumer_is_given_to_another_and_counted(made: Any, caplog: Any) -> None:
    silent, other = await consumer(made(retry_after=SOON, max_deliveries=2)), made(retry_after=SOON, max_deliveries=2)
    await consumer(other, "worker-2")
    added = await ask(silent.add, {"n": [1], "text": "[1]"})
    assert len(await ask(silent.read_group)) == 1

    again = await next_given(other)
    assert again == {"id": added, "data": {"n": [1], "text": "[1]"}}
    [letter] = await until(lambda: _letters_after_reading(other))
    assert letter["data"] == again["data"]
    assert letter["message_id"] == added
    assert (letter["group"], letter["deliveries"], letter["error"]) == ("workers", 2, "nobody acknowledged it")
    assert "is a dead letter" in caplog.text
    assert await ask(other.acknowledge, added) == 0
    assert [message["id"] for message in await ask(other.read)] == [added]
    assert await ask(other.delete_dead_letters, letter["id"]) == 1
    assert await ask(other.dead_letters) == []


async def _letters_after_reading(stream: Any) -> Any:
    assert await ask(stream.read_group) == []
    return await ask(stream.dead_letters)


async def test_who_renews_a_message_has_it_longer_and_who_came_too_late_learns_it(made: Any) -> None:
    one, other = await consumer(made(retry_after=1e6)), await consumer(made(retry_after=SOON), "worker-2")
    first, second = [await ask(one.add, {"n": n}) for n in range(2)]
    assert len(await ask(one.read_group)) == 2
    await asyncio.sleep(SOON)

    assert await ask(one.renew, first, second) == [first, second]
    taken = await next_given(other)
    assert await ask(one.renew, first, second) == [second if taken["id"] == first else first]
    assert await ask(one.renew) == []


@pytest.mark.parametrize("count", [60, 200])  # fewer than a check covers, and more
async def test_a_check_of_what_is_pending_is_bounded_and_the_next_goes_on(
    made: Any, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, other = await consumer(made()), await consumer(made(retry_after=SOON), "worker-2")
    monkeypatch.setattr(other._core, "_now", lambda: 0.0)  # so that one round of checks must find all
    await asyncio.gather(*(ask(silent.add, {"n": n}) for n in range(250)))
    assert len(await ask(silent.read_group, count=250)) == 250
    await asyncio.sleep(2 * SOON)

    found: list[int] = []
    while some := await given(other, count):
        found += some
    assert sorted(found) == list(range(250))
    assert await given(other) == []


async def test_what_was_deleted_meanwhile_is_pending_no_more(made: Any, key: str, redis_client: Any) -> None:
    stream = await consumer(made(retry_after=SOON))
    added = await ask(stream.add, {"n": 1})
    await ask(stream.read_group)
    await redis_client.xdel(key, added)

    async def is_forgotten() -> bool:
        assert await ask(stream.read_group) == []
        return (await redis_client.xpending(key, "workers"))["pending"] == 0

    await until(is_forgotten)
    assert await ask(stream.dead_letters) == []


async def test_who_leaves_hands_back_what_it_names_at_once(made: Any, key: str, redis_client: Any) -> None:
    one, other = await consumer(made()), await consumer(made(), "worker-2")
    first, second = [await ask(one.add, {"n": n}) for n in range(2)]
    await ask(one.read_group)

    assert await ask(one.leave, first) is False
    assert [message["id"] for message in await ask(other.read_group)] == [first]
    [pending] = await redis_client.xpending_range(key, "workers", first, first, 1)
    assert (pending["consumer"], pending["times_delivered"]) == ("worker-2", 1)  # what was handed back doesn't count
    assert await ask(one.acknowledge, second) == 1
    assert await ask(one.leave) is True
    names_left = {one["name"] for one in await redis_client.xinfo_consumers(key, "workers")}
    assert names_left == {"worker-2", names.RETURNED}


# ---------------------------------------------------------------- bounds


async def test_a_bounded_stream_gives_up_what_all_groups_have_done_and_nothing_else(made: Any) -> None:
    stream = made(max_length=3)
    for n in range(5):
        await ask(stream.add, {"n": n})
    assert [message["data"]["n"] for message in await ask(stream.read)] == [2, 3, 4]  # no group needs anything

    await consumer(stream)
    await consumer(made(), "watcher", "watchers")
    with pytest.raises(QueueFull, match="still has to do"):
        await ask(stream.add, {"n": 5})
    watching = await consumer(made(), "watcher", "watchers")
    for one in (stream, watching):
        messages = await ask(one.read_group)
        await ask(one.acknowledge, *(message["id"] for message in messages[1:]))
        oldest = messages[0]["id"]
    with pytest.raises(QueueFull, match="still has to do"):
        await ask(stream.add, {"n": 5})
    await ask(stream.acknowledge, oldest)
    await ask(watching.acknowledge, oldest)
    await ask(stream.add, {"n": 5})
    assert [message["data"]["n"] for message in await ask(stream.read)] == [3, 4, 5]


async def test_a_stream_without_a_bound_keeps_all(made: Any, key: str, redis_client: Any) -> None:
    await asyncio.gather(*(ask(made().add, {"n": n}) for n in range(5)))
    stream = await consumer(made())
    for message in await ask(stream.read_group):
        await ask(stream.acknowledge, message["id"])

    assert await redis_client.xlen(key) == 5


# ---------------------------------------------------------------- process_messages


async def test_a_handler_that_raises_gets_the_message_again_and_then_it_is_a_dead_letter(
    made: Any, caplog: Any
) -> None:
    stream = await consumer(made(retry_after=SOON, max_deliveries=3))
    handled: list[int] = []

    def handler(message: dict[str, Any]) -> None:
        handled.append(message["data"]["n"])
        if message["data"]["n"] == 1:
            raise ValueError("this one is odd")

    for n in range(3):
        await ask(stream.add, {"n": n})
    caplog.set_level(logging.WARNING)
    processing = asyncio.create_task(ask(stream.process_messages, handler))
    [letter] = await until(lambda: ask(made().dead_letters))
    stream.stop()
    assert await processing == 2
    assert sorted(handled) == [0, 1, 1, 1, 2]
    assert (letter["data"], letter["deliveries"], letter["error"]) == ({"n": 1}, 3, "ValueError: this one is odd")
    assert caplog.text.count("this one is odd") == 4


async def test_what_was_read_and_not_begun_goes_back_when_processing_stops(made: Any) -> None:
    stream, other = await consumer(made()), await consumer(made(), "worker-2")
    for n in range(4):
        await ask(stream.add, {"n": n})
    handled: list[int] = []

    def handler(message: dict[str, Any]) -> None:
        handled.append(message["data"]["n"])
        stream.stop()

    assert await ask(stream.process_messages, handler) == 1
    assert handled == [0]
    assert await given(other) == [1, 2, 3]


async def test_processing_ends_after_so_many_messages(made: Any) -> None:
    stream = await consumer(made())
    for n in range(5):
        await ask(stream.add, {"n": n})
    handled: list[int] = []

    assert await ask(stream.process_messages, lambda m: handled.append(m["data"]["n"]), limit=3, count=2) == 3
    assert handled == [0, 1, 2]
    assert await given(stream) == [3, 4]


async def test_what_waits_behind_a_long_handling_is_renewed_and_what_was_lost_is_not_handled(
    made: Any, key: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await consumer(made(retry_after=30))
    ids = [await ask(stream.add, {"n": n}) for n in range(3)]
    handled: list[int] = []
    now = 0.0
    monkeypatch.setattr(stream._core, "_now", lambda: now)

    def handler(message: dict[str, Any]) -> None:
        nonlocal now
        handled.append(message["data"]["n"])
        now += 11  # more than a third of retry_after
        with redis.Redis.from_url(redis_url) as client:
            client.xclaim(key, "workers", "worker-2", 0, [ids[1]])

    assert await ask(stream.process_messages, handler, limit=2) == 2
    assert handled == [0, 2]


@pytest.mark.parametrize("twin", ["async"], indirect=True)
async def test_a_handler_of_the_async_kind_may_be_a_coroutine_function(made: Any) -> None:
    stream = await consumer(made())
    await stream.add({"n": 1})
    handled: list[int] = []

    async def handler(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        handled.append(message["data"]["n"])

    assert await stream.process_messages(handler, limit=1) == 1
    assert handled == [1]


# ---------------------------------------------------------------- bad input


async def test_a_wrong_argument_is_named(twin: Twin, redis_url: str, made: Any, key: str) -> None:
    for options, path in (
        ({"max_length": 0}, "max_length"),
        ({"retry_after": 0}, "retry_after"),
        ({"max_deliveries": 0}, "max_deliveries"),
    ):
        with pytest.raises(InvalidInput) as refused:
            made(**options)
        assert refused.value.problems[0].path == path
    for name in ("", "a}b", "{}", "\ud83d"):
        with pytest.raises(InvalidInput) as refused:
            twin("RedisStream", name, url=redis_url)
        assert refused.value.problems[0].path == "name"
    stream = made()
    with pytest.raises(InvalidInput, match="create_consumer_group"):
        await ask(stream.read_group)
    await consumer(stream)
    for method, argument, path in (
        (stream.read, "$", "last_id"),
        (stream.read, str(2**64), "last_id"),
        (stream.acknowledge, "first", "id"),
        (stream.renew, "first", "id"),
        (stream.leave, "first", "id"),
        (stream.delete_dead_letters, "first", "id"),
        (stream.read_group, 0, "count"),
        (stream.read_group, 1001, "count"),
        (stream.add, {"x": {1, 2}}, "data['x']"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await ask(method, argument)
        assert refused.value.problems[0].path == path
    with pytest.raises(InvalidInput, match="what was handed back"):
        await ask(stream.create_consumer_group, "workers", names.RETURNED)


async def test_a_prefix_stands_before_the_name(twin: Twin, redis_url: str, key: str, redis_client: Any) -> None:
    stream = twin("RedisStream", "news", url=redis_url, key_prefix=f"wb:{{{key}}}:")
    added = await ask(stream.add, {"n": 1})

    assert [one for one, _ in await redis_client.xrange(f"wb:{{{key}}}:stream:news")] == [added]
    assert stream._core.dead == f"wb:{{{key}}}:stream:news:dead"


async def test_a_group_that_has_gone_is_said(made: Any, key: str, redis_client: Any) -> None:
    stream = await consumer(made())
    await redis_client.delete(key)

    for method in (stream.read_group, stream.renew, stream.leave):
        with pytest.raises(NotFound, match="has no group 'workers'"):
            await ask(method, *(["1-1"] if method == stream.renew else []))
