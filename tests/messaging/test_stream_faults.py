"""Streams when answers are lost, the server is away, and consumers die: nothing is lost, and nothing that was sent
twice is doubled."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from functools import partial
from typing import Any

import pytest
from twins import Twin, ask

from waiting import until
from watchbill import connection
from watchbill.connection import client
from watchbill.errors import StoreUnavailable
from watchbill.messaging import AsyncRedisStream

SOON = 0.05

READS_AND_WAITS = """
import sys, time
from watchbill.messaging import RedisClient, RedisStream

stream = RedisStream(sys.argv[2], RedisClient(sys.argv[1]))
stream.create_consumer_group("workers", "doomed")
[message] = stream.read_group(count=1)
print(message["id"], flush=True)
time.sleep(600)
"""
HANDLES_AND_WAITS = """
import asyncio, sys
from watchbill.messaging import AsyncRedisClient, AsyncRedisStream


async def handler(message):
    print(message["id"], flush=True)
    await asyncio.sleep(600)


async def main():
    stream = AsyncRedisStream(sys.argv[2], AsyncRedisClient(sys.argv[1]))
    await stream.create_consumer_group("workers", "doomed")
    await stream.process_messages(handler)


asyncio.run(main())
"""


@pytest.fixture
def key() -> str:
    return f"stream-{uuid.uuid4().hex}"


async def test_what_is_sent_again_because_its_answer_was_lost_is_done_once(
    twin: Twin, proxy: Any, key: str, redis_client: Any
) -> None:
    way = await proxy()
    way.drop_every_reply_once = True
    stream = twin("RedisStream", key, url=way.url)

    assert await ask(stream.create_consumer_group, "workers", "worker-1") in (True, False)
    ids = [await ask(stream.add, {"n": n}) for n in range(3)]
    assert [entry for entry, _ in await redis_client.xrange(key)] == ids
    found = await ask(stream.read_group)
    assert [message["id"] for message in found] == ids
    pending = await redis_client.xpending_range(key, "workers", "-", "+", 10)
    assert [one["times_delivered"] for one in pending] == [1, 1, 1]
    await ask(stream.acknowledge, *ids)
    assert (await redis_client.xpending(key, "workers"))["pending"] == 0
    assert way.dropped >= 6


async def test_a_dead_letter_is_written_once(twin: Twin, proxy: Any, key: str) -> None:
    way = await proxy()
    stream = twin("RedisStream", key, url=way.url, retry_after=SOON, max_deliveries=1)
    await ask(stream.create_consumer_group, "workers", "worker-1")
    await ask(stream.add, {"n": 1})
    await ask(stream.read_group)
    way.drop_every_reply_once = True

    async def letters() -> Any:
        assert await ask(stream.read_group) == []
        return await ask(stream.dead_letters)

    assert len(await until(letters)) == 1
    assert len(await letters()) == 1


async def test_a_dead_letter_is_replayed_once(twin: Twin, proxy: Any, key: str) -> None:
    way = await proxy()
    stream = twin("RedisStream", key, url=way.url, retry_after=SOON, max_deliveries=1)
    await ask(stream.create_consumer_group, "workers", "worker-1")
    await ask(stream.add, {"n": 1})
    await ask(stream.read_group)

    async def letters() -> Any:
        return await ask(stream.read_group) or await ask(stream.dead_letters)

    [letter] = await until(letters)
    way.drop_every_reply_once = True
    assert await ask(stream.replay_dead_letters, letter["id"]) == [letter["id"]]
    again = await until(lambda: ask(stream.read_group))
    assert [message["id"] for message in again] == [letter["message_id"]]
    assert await ask(stream.read_group) == []


async def test_an_outage_is_an_error_and_never_an_empty_answer(twin: Twin, private_redis: Any, key: str) -> None:
    server = await private_redis()
    stream = twin("RedisStream", key, url=server.url)
    await ask(stream.create_consumer_group, "workers", "worker-1")
    added = await ask(stream.add, {"n": 1})
    await ask(stream.read_group)
    await server.kill()

    calls = [
        ask(stream.add, {"n": 2}),
        ask(stream.read),
        ask(stream.read_group),
        ask(stream.read_group, wait=60),
        ask(stream.acknowledge, added),
        ask(stream.renew, added),
        ask(stream.dead_letters),
        ask(stream.create_consumer_group, "workers", "worker-1"),
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * len(calls)


async def test_processing_goes_on_after_an_outage_and_loses_nothing(twin: Twin, private_redis: Any, key: str) -> None:
    server = await private_redis()
    stream = twin("RedisStream", key, url=server.url)
    producer = twin("RedisStream", key, url=server.url)
    await ask(stream.create_consumer_group, "workers", "worker-1")
    handled: list[int] = []
    processing = asyncio.create_task(
        ask(stream.process_messages, lambda message: handled.append(message["data"]["n"]), limit=2)
    )
    await ask(producer.add, {"n": 1})
    await until(lambda: handled == [1])
    await server.kill()
    await server.restart()
    await ask(producer.add, {"n": 2})

    assert await processing == 2
    assert handled == [1, 2]


@pytest.mark.parametrize("patience", [None, SOON], ids=["stop", "wait"])
async def test_processing_ends_during_an_outage(
    twin: Twin, private_redis: Any, key: str, patience: float | None
) -> None:
    server = await private_redis()
    stream = twin("RedisStream", key, url=server.url)
    await ask(stream.create_consumer_group, "workers", "worker-1")
    await ask(stream.add, {"n": 1})
    await server.kill()
    processing = asyncio.create_task(ask(stream.process_messages, lambda message: None, wait=patience))
    if patience is None:
        await until(lambda: processing.done() or stream.stop())  # again, for it may not have begun

    assert await processing == 0


async def test_a_handler_that_stops_during_an_outage_ends_processing(twin: Twin, private_redis: Any, key: str) -> None:
    server = await private_redis()
    stream = twin("RedisStream", key, url=server.url)
    await ask(stream.create_consumer_group, "workers", "worker-1")
    await ask(stream.add, {"n": 1})

    def handler(message: Any) -> None:
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        stream.stop()

    assert await ask(stream.process_messages, handler) == 1  # and it can't be acknowledged


@pytest.mark.parametrize("program", [READS_AND_WAITS, HANDLES_AND_WAITS], ids=["read_group", "process_messages"])
async def test_a_consumer_that_is_killed_between_reading_and_acknowledging_loses_nothing(
    program: str, redis_url: str, redis_client: Any, key: str
) -> None:
    stream = AsyncRedisStream(key, redis_client, retry_after=SOON)
    added = await stream.add({"n": 1})
    command = (sys.executable, "-c", program, redis_url, key)
    doomed = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert doomed.stdout is not None
    assert (await doomed.stdout.readline()).decode().strip() == added
    os.kill(doomed.pid, signal.SIGKILL)
    await doomed.wait()
    await stream.create_consumer_group("workers", "heir")

    [message] = await until(stream.read_group)
    assert message == {"id": added, "data": {"n": 1}}
    assert await stream.acknowledge(added) == 1


@pytest.mark.parametrize("at", ["reading", "acknowledging"])
async def test_stop_ends_processing_while_the_server_stands_still(
    twin: Twin, private_redis: Any, key: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await private_redis()
    monkeypatch.setattr(client, "REPLY_TIMEOUT_SECONDS", 3600)  # until the client itself gives up
    monkeypatch.setattr(connection, "connect_sync", partial(connection.connect_sync, reply_timeout=3600))
    stream, producer = twin("RedisStream", key, url=server.url), twin("RedisStream", key, url=server.url)
    await ask(stream.create_consumer_group, "workers", "worker-1")
    handled: list[Any] = []

    def handler(message: Any) -> None:
        if at == "acknowledging":
            os.kill(server.pid, signal.SIGSTOP)
        handled.append(message["id"])

    added = await ask(producer.add, {"n": 1})  # before somebody stops the server
    processing = asyncio.create_task(ask(stream.process_messages, handler))
    try:
        await until(lambda: handled == [added])
        os.kill(server.pid, signal.SIGSTOP)
        stream.stop()
        async with asyncio.timeout(180):
            assert await processing == 1
    finally:
        os.kill(server.pid, signal.SIGCONT)
