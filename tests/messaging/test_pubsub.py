"""RedisPubSub and AsyncRedisPubSub on a real server: who hears what, and what ends it: nothing but `stop`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import redis.asyncio
from twins import Twin, ask, threads

from waiting import until
from watchbill import names
from watchbill.errors import InvalidInput, StoreRefuses, StoreUnavailable
from watchbill.messaging import RedisPubSub, subscriptions
from watchbill.messaging.subscriptions import Subscriptions

MESSAGE = {"type": "alert", "message": "System update required", "nested": [{"a": None}]}


@pytest.fixture
def channel() -> str:
    return f"channel-{uuid.uuid4().hex}"


@pytest.fixture
def pubsub(twin: Twin, redis_url: str) -> Any:
    return twin("RedisPubSub", url=redis_url)


async def begin(pubsub: Any) -> Any:
    """Listens in the background."""
    return await ask(pubsub.run_in_thread if hasattr(pubsub, "run_in_thread") else pubsub.run_in_task)


async def test_a_message_comes_as_it_was_sent(pubsub: Any, twin: Twin, redis_url: str, channel: str) -> None:
    got: list[Any] = []
    await ask(pubsub.subscribe, channel, got.append)
    await begin(pubsub)
    sent = [MESSAGE, "text", "1", 1, None, ["ü€"]]

    assert [await ask(pubsub.publish, channel, message) for message in sent] == [1] * len(sent)
    await ask(twin("RedisClient", redis_url).publish, channel, "plain text")
    await until(lambda: len(got) > len(sent))
    assert got == [*sent, "plain text"]


async def test_what_is_subscribed_while_it_listens_is_heard_at_once(pubsub: Any, channel: str) -> None:
    got: list[Any] = []
    await begin(pubsub)
    for number in range(2):
        await ask(pubsub.subscribe, f"{channel}-{number}", got.append)
        assert await ask(pubsub.publish, f"{channel}-{number}", number) == 1

    await until(lambda: got == [0, 1])


async def test_a_channel_is_heard_until_it_is_unsubscribed(pubsub: Any, channel: str) -> None:
    got: list[Any] = []
    await ask(pubsub.subscribe, channel, lambda data: got.append(("old", data)))
    await begin(pubsub)
    await ask(pubsub.subscribe, channel, lambda data: got.append(("new", data)))  # in its place
    await ask(pubsub.publish, channel, 1)
    await until(lambda: got)
    await ask(pubsub.unsubscribe, channel)
    await until(lambda: _nobody_hears(pubsub, channel))
    await ask(pubsub.subscribe, channel, lambda data: got.append(("third", data)))
    assert await ask(pubsub.publish, channel, 2) == 1
    await until(lambda: len(got) > 1)

    assert got == [("new", 1), ("third", 2)]


async def _nobody_hears(pubsub: Any, channel: str) -> bool:
    return await ask(pubsub.publish, channel, "is somebody there?") == 0


async def test_a_handler_that_raises_ends_nothing(pubsub: Any, channel: str, caplog: pytest.LogCaptureFixture) -> None:
    got: list[Any] = []

    def handle(data: Any) -> None:
        got.append(data)
        raise ConnectionError("of the handler's own")

    await ask(pubsub.subscribe, channel, handle)
    await begin(pubsub)
    for number in range(2):
        await ask(pubsub.publish, channel, number)
    await until(lambda: got == [0, 1] and len(caplog.records) == 2)

    assert f"a handler of the channel {channel!r} failed" in caplog.text
    assert "of the handler's own" in caplog.text


async def test_run_ends_with_stop_and_may_begin_again(pubsub: Any, channel: str) -> None:
    got: list[Any] = []

    def stop_at_once(data: Any) -> Any:
        got.append(data)
        return pubsub.stop()

    await ask(pubsub.subscribe, channel, stop_at_once)
    for number in range(2):
        running = asyncio.create_task(ask(pubsub.run))
        await until(partial(_sent_until, running, pubsub, channel, number))

    assert set(got) == {0, 1}


async def _sent_until(running: asyncio.Task[Any], pubsub: Any, channel: str, data: Any) -> bool:
    """Sends it again, because the server may still have counted the connection of the `run` before."""
    await ask(pubsub.publish, channel, data)
    return running.done()


async def _heard(pubsub: Any, channel: str, data: Any) -> bool:
    return await ask(pubsub.publish, channel, data) == 1


async def stopped(pubsub: Any, running: asyncio.Task[Any]) -> bool:
    """Stops it, once more if `run` had yet to begin."""
    await ask(pubsub.stop)
    return running.done()


async def test_run_beside_a_listener_waits_for_its_end(pubsub: Any, channel: str) -> None:
    await ask(pubsub.subscribe, channel, print)
    listener = await begin(pubsub)
    assert await begin(pubsub) is listener
    running = asyncio.create_task(ask(pubsub.run))
    assert await ask(pubsub.publish, channel, 1) == 1  # one connection listens

    await until(partial(stopped, pubsub, running))
    await until(lambda: "watchbill pubsub" not in threads())
    await until(partial(_nobody_hears, pubsub, channel))


async def test_it_hears_again_after_the_server_was_away(
    twin: Twin, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    server = await private_redis()
    pubsub, other = (twin("RedisPubSub", url=server.url) for _ in range(2))
    got: list[Any] = []
    for channel in ("a", "b"):
        await ask(pubsub.subscribe, channel, got.append)
    await begin(pubsub)

    for number in range(2):
        await server.kill()
        with pytest.raises(StoreUnavailable):
            await ask(other.publish, "a", "lost")
        await server.restart()
        for channel in ("a", "b"):
            await until(partial(_heard, other, channel, f"{channel}{number}"))
        await until(partial({f"a{number}", f"b{number}"}.issubset, got))
    assert "lost" not in got


async def test_it_waits_for_a_server_that_is_not_there_yet(
    twin: Twin, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    server = await private_redis()
    await server.kill()
    got: list[Any] = []
    pubsub = twin("RedisPubSub", url=server.url)
    await ask(pubsub.subscribe, "a", got.append)
    await begin(pubsub)
    await ask(pubsub.subscribe, "b", got.append)  # waits for no confirmation that can't come

    await server.restart()
    await until(lambda: _heard(pubsub, "b", 1))
    await until(lambda: 1 in got)


async def test_a_server_that_stands_still_is_left(
    twin: Twin, private_redis: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "PING_SECONDS", 0.1)
    monkeypatch.setattr(subscriptions, "SILENT_SECONDS", 0.5)
    server = await private_redis()
    got: list[Any] = []
    pubsub = twin("RedisPubSub", url=server.url)
    await ask(pubsub.subscribe, "a", got.append)
    await begin(pubsub)
    async with redis.asyncio.Redis.from_url(server.url, decode_responses=True) as client:

        async def connected() -> list[str]:
            """The only connection: on a busy machine one before it may have been left already."""
            found = [c["id"] for c in await client.client_list(_type="pubsub")]
            return found if len(found) == 1 else []

        [before] = await until(connected)
        server.pause()
        try:
            await until(lambda: pubsub._core._is_down)
        finally:
            server.resume()

        async def hears() -> bool:
            await ask(pubsub.publish, "a", 1)  # perhaps to the former connection: the server has yet to see its end
            return bool(got)

        await until(hears)
        assert before not in [c["id"] for c in await client.client_list(_type="pubsub")]


async def test_a_quiet_server_that_answers_is_not(pubsub: Any, channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "PING_SECONDS", 0.0)
    seen: list[Any] = []
    received = Subscriptions._received

    def note(core: Any, message: Any) -> Any:
        seen.append(message["type"])
        return received(core, message)

    monkeypatch.setattr(Subscriptions, "_received", note)
    await ask(pubsub.subscribe, channel, print)
    await begin(pubsub)

    await until(lambda: len(seen) > 2)
    assert seen[0] == "subscribe"
    assert seen[1:] == seen[1:2] * (len(seen) - 1), "something else than answers to pings came"


async def test_a_server_that_refuses_us_is_told_of(twin: Twin, private_redis: Callable[[], Awaitable[Any]]) -> None:
    server = await private_redis()
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.config_set("requirepass", "s3cret")
    pubsub = twin("RedisPubSub", url=server.url)
    await ask(pubsub.subscribe, "a", print)

    with pytest.raises(StoreRefuses):
        await ask(pubsub.run)
    with pytest.raises(StoreRefuses):
        await begin(pubsub)
    await until(lambda: "watchbill pubsub" not in threads())


async def test_a_refusal_that_comes_later_is_waited_out(
    twin: Twin, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    server = await private_redis()
    got: list[Any] = []
    pubsub = twin("RedisPubSub", url=server.url)
    await ask(pubsub.subscribe, "a", got.append)
    await begin(pubsub)
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.config_set("requirepass", "s3cret")
        await client.client_kill_filter(_type="pubsub")

        async def was_refused_twice() -> bool:
            errors = await client.info("errorstats")
            return int(errors.get("errorstat_NOAUTH", {"count": 0})["count"]) > 1

        await until(was_refused_twice)
        await client.config_set("requirepass", "")

        await until(lambda: _heard(pubsub, "a", 1))
        await until(lambda: got)


async def test_a_message_that_is_no_json_is_refused(pubsub: Any, channel: str) -> None:
    with pytest.raises(InvalidInput, match="message"):
        await ask(pubsub.publish, channel, {"when": object()})
    with pytest.raises(InvalidInput, match="channel"):
        await ask(pubsub.subscribe, "", print)


async def test_a_key_prefix_is_before_the_name(pubsub: Any, twin: Twin, redis_url: str, channel: str) -> None:
    got: list[Any] = []
    crew = twin("RedisPubSub", url=redis_url, key_prefix=names.CrewKeys("team", channel).prefix)
    await ask(crew.subscribe, "news", got.append)
    await begin(crew)

    assert await ask(pubsub.publish, "news", "of everybody") == 0
    assert await ask(pubsub.publish, f"wb:{{team/{channel}}}:channel:news", 1) == 1
    assert await ask(crew.publish, "news", 2) == 1
    await until(lambda: got == [1, 2])


# ---------------------------------------------------------------- one kind only


@pytest.fixture
async def listening(redis_url: str) -> AsyncIterator[Any]:
    """An AsyncRedisPubSub that is closed in the end."""
    twin = Twin(is_async=True)
    yield twin("RedisPubSub", url=redis_url)
    await twin.close()


async def test_coroutines_are_awaited(listening: Any, channel: str) -> None:
    got: list[Any] = []

    async def handle(data: Any) -> None:
        await asyncio.sleep(0)
        got.append(data)

    await listening.subscribe(channel, handle)
    await listening.run_in_task()
    await listening.publish(channel, 1)
    await until(lambda: got == [1])


async def test_a_task_that_listens_may_be_cancelled(listening: Any, channel: str) -> None:
    await listening.subscribe(channel, print)
    task = await listening.run_in_task()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

    assert task.cancelled()
    await until(partial(_nobody_hears, listening, channel))
    await listening.run_in_task()
    assert await listening.publish(channel, 1) == 1


@pytest.mark.pure
def test_a_thread_can_await_nothing() -> None:
    async def handle(data: Any) -> None: ...

    with pytest.raises(InvalidInput, match="AsyncRedisPubSub"):
        RedisPubSub().subscribe("a", handle)


async def test_handlers_are_called_in_the_thread_that_runs(redis_url: str, channel: str) -> None:
    twin = Twin(is_async=False)
    pubsub, found = twin("RedisPubSub", url=redis_url), set()

    def handle(data: Any) -> None:
        found.add(threading.current_thread())
        pubsub.stop()

    def run() -> None:
        pubsub.subscribe(channel, handle)
        pubsub.run()

    thread = threading.Thread(target=run)
    thread.start()
    await until(lambda: _heard(pubsub, channel, 1))
    await asyncio.to_thread(thread.join)
    assert found == {thread}
    await twin.close()


async def test_who_listens_before_anybody_has_subscribed_is_warned(pubsub: Any, channel: str, caplog: Any) -> None:
    got: list[Any] = []
    running = asyncio.create_task(ask(pubsub.run))
    await until(lambda: "run() hears nothing until subscribe(channel, handler) is called" in caplog.text)
    await ask(pubsub.subscribe, channel, got.append)
    await ask(pubsub.publish, channel, 1)
    await until(lambda: got == [1])
    await ask(pubsub.stop)
    await running
    again = asyncio.create_task(ask(pubsub.run))  # with a subscription
    await until(lambda: ask(pubsub.publish, channel, 2))
    await ask(pubsub.stop)
    await again
    assert caplog.text.count("run() hears nothing") == 1
