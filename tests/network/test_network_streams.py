"""RedisStream of watchbill.network on a real server: fan-out, work queue, what a body that fails leaves, cleanup."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from watchbill import connection
from watchbill.errors import InvalidInput, NotFound, StoreUnavailable
from watchbill.messaging import stream_core
from watchbill.network import RedisStream

SOON = 0.05
GETS_AND_WAITS = """
import asyncio, sys
from watchbill import connection
from watchbill.network import RedisStream


async def main():
    network = RedisStream(client=connection.connect(sys.argv[1]))
    async for id, data in network.consume_messages(sys.argv[2], "agents", "doomed"):
        print(id, flush=True)
        await asyncio.sleep(600)


asyncio.run(main())
"""


@pytest.fixture
def name() -> str:
    return f"network-{uuid.uuid4().hex}"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    async with connection.connected(redis_url) as made:
        yield made


@pytest.fixture
def network(client: Any) -> RedisStream:
    return RedisStream(client=client)


async def take(network: RedisStream, name: str, count: int, group: str = "agents", consumer: str = "a") -> list[Any]:
    """The data of the next messages, which are all acknowledged."""
    found: list[Any] = []
    async with asyncio.timeout(180), contextlib.aclosing(network.consume_messages(name, group, consumer)) as messages:
        async for _, data in messages:
            if len(found) == count:  # the last one of them is acknowledged by now
                break
            found.append(data["n"])
            if len(found) == count:
                await network.publish_message(name, {"n": "one more"})
    return found


async def pending(client: Any, name: str, group: str = "agents") -> int:
    return int((await client.xpending(name, group))["pending"])


# ---------------------------------------------------------------- publishing and consuming


async def test_a_group_gets_all_from_the_beginning_with_ids_and_what_was_published(
    network: RedisStream, name: str
) -> None:
    message = {"text": "[1]", "nested": {"list": [1, None, True]}, "n": 1}
    first = await network.publish_message(name, message)
    assert await network.create_consumer_group(name, "agents") is True
    assert await network.create_consumer_group(name, "agents") is False
    second = await network.publish_message(name, {"n": 2})

    found = []
    async with asyncio.timeout(180), contextlib.aclosing(network.consume_messages(name, "agents", "a")) as messages:
        async for told in messages:
            found.append(told)
            if len(found) == 2:
                break
    assert found == [(first, message), (second, {"n": 2})]


async def test_one_group_for_each_agent_is_fan_out(network: RedisStream, name: str) -> None:
    for agent in ("alice", "bob"):
        await network.create_consumer_group(name, f"group_{agent}")
    for n in range(5):
        await network.publish_message(name, {"n": n})

    for agent in ("alice", "bob"):
        assert await take(network, name, 5, f"group_{agent}", agent) == [0, 1, 2, 3, 4]


async def test_one_group_for_all_is_a_work_queue(network: RedisStream, client: Any, name: str) -> None:
    await network.create_consumer_group(name, "agents")
    found: dict[str, list[int]] = {"alice": [], "bob": []}

    async def work(agent: str) -> None:
        async for _, data in network.consume_messages(name, "agents", agent):
            found[agent].append(data["n"])
            await asyncio.sleep(0)

    working = [asyncio.create_task(work(agent)) for agent in found]
    for n in range(40):
        await network.publish_message(name, {"n": n})
    async with asyncio.timeout(180):
        while sum(map(len, found.values())) < 40 or await pending(client, name):
            await asyncio.sleep(0.01)
    for task in working:
        task.cancel()
    await asyncio.wait(working)

    assert sorted(found["alice"] + found["bob"]) == list(range(40))
    assert found["alice"]
    assert found["bob"]


async def test_a_message_is_acknowledged_when_the_next_one_is_asked_for(
    network: RedisStream, client: Any, name: str
) -> None:
    await network.create_consumer_group(name, "agents")
    for n in range(2):
        await network.publish_message(name, {"n": n})

    async with contextlib.aclosing(network.consume_messages(name, "agents", "a")) as messages:
        await anext(messages)
        assert await pending(client, name) == 1
        await anext(messages)
        assert [one["message_id"] for one in await client.xpending_range(name, "agents", "-", "+", 9)] == [
            (await client.xrange(name))[1][0]
        ]


# ---------------------------------------------------------------- what a body leaves


async def raises(messages: Any) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with contextlib.aclosing(messages):
            async for _ in messages:
                _ = 1 / 0


async def breaks(messages: Any) -> None:
    async with contextlib.aclosing(messages):
        async for _ in messages:
            break


async def is_dropped(messages: Any) -> None:
    async for _ in messages:
        break


async def is_cancelled(messages: Any) -> None:
    begun = asyncio.Event()

    async def body() -> None:
        async with contextlib.aclosing(messages):
            async for _ in messages:
                begun.set()
                await asyncio.sleep(600)

    task = asyncio.create_task(body())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("body", [raises, breaks, is_dropped, is_cancelled])
async def test_a_message_whose_body_did_not_end_is_given_to_the_next_consumer_at_once(
    network: RedisStream, client: Any, name: str, body: Any
) -> None:
    await network.create_consumer_group(name, "agents")
    added = await network.publish_message(name, {"n": 1})
    async with asyncio.timeout(180):
        await body(network.consume_messages(name, "agents", "a"))

        async with contextlib.aclosing(network.consume_messages(name, "agents", "b")) as messages:
            assert await anext(messages) == (added, {"n": 1})
    consumers = {one["name"] for one in await client.xinfo_consumers(name, "agents")}
    assert consumers & {"a", "b"} == set()


async def test_a_message_on_which_every_body_fails_becomes_a_dead_letter(client: Any, name: str) -> None:
    network = RedisStream(client=client, max_deliveries=2)
    await network.create_consumer_group(name, "agents")
    for n in range(2):
        await network.publish_message(name, {"n": n})
    for _ in range(2):
        await raises(network.consume_messages(name, "agents", "a"))

    assert await take(network, name, 1) == [1]
    [(_, letter)] = await client.xrange(f"{{{name}}}:dead")
    assert (letter["n"], letter["wb:deliveries"], letter["wb:group"]) == ("0", "2", "agents")


async def test_a_consumer_that_is_killed_loses_nothing(redis_url: str, client: Any, name: str) -> None:
    network = RedisStream(client=client, retry_after=SOON)
    await network.create_consumer_group(name, "agents")
    added = await network.publish_message(name, {"n": 1})
    command = (sys.executable, "-c", GETS_AND_WAITS, redis_url, name)
    doomed = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert doomed.stdout is not None
    assert (await doomed.stdout.readline()).decode().strip() == added
    os.kill(doomed.pid, signal.SIGKILL)
    await doomed.wait()

    assert await take(network, name, 1) == [1]


# ---------------------------------------------------------------- cleanup


async def test_cleanup_destroys_the_groups_and_the_stream(network: RedisStream, client: Any, name: str) -> None:
    for group in ("group_1", "group_2", "other"):
        await network.create_consumer_group(name, group)
    await network.publish_message(name, {"n": 1})
    assert await take(network, name, 1, "group_1") == [1]

    assert await network.cleanup_stream(name) == {}
    assert await client.exists(name, f"{{{name}}}:dead") == 0
    assert await network.cleanup_stream(name) == {}  # as before the first run


async def test_cleanup_leaves_what_a_living_consumer_uses_unless_it_is_forced(
    network: RedisStream, client: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for group in ("group_1", "group_2", "group_3", "other"):
        await network.create_consumer_group(name, group)
    await network.publish_message(name, {"n": 1})
    messages = network.consume_messages(name, "group_2", "alice")
    await anext(messages)

    assert await network.cleanup_stream(name, num_groups=2) == {"group_2": "alice"}
    assert {group["name"] for group in await client.xinfo_groups(name)} == {"group_2", "group_3", "other"}
    assert "group_2" in caplog.text
    assert await client.xlen(name) == 1
    assert await network.cleanup_stream(name, force=True) == {}
    assert await client.exists(name) == 0
    with pytest.raises(NotFound, match="has no group 'group_2'"):
        await anext(messages)


async def test_a_consumer_that_was_silent_for_long_does_not_live(
    client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = RedisStream(client=client, retry_after=SOON)
    await network.create_consumer_group(name, "group_1")
    await network.publish_message(name, {"n": 1})
    await client.xreadgroup("group_1", "killed", {name: ">"})
    monkeypatch.setattr(stream_core, "HEARD_SECONDS", 0.001)
    await asyncio.sleep(SOON)

    assert await network.cleanup_stream(name, 1) == {}
    assert await client.exists(name) == 0


async def test_cleanup_with_numbers_leaves_the_stream_to_a_living_consumer_of_another_group(
    network: RedisStream, client: Any, name: str
) -> None:
    await network.create_consumer_group(name, "run_1")
    await network.create_consumer_group(name, "group_1")
    async with contextlib.aclosing(network.consume_messages(name, "run_1", "alice")) as messages:
        await network.publish_message(name, {"n": 1})
        await anext(messages)
        assert await network.cleanup_stream(name, 1, group_prefix="group_") == {"run_1": "alice"}
    assert [group["name"] for group in await client.xinfo_groups(name)] == ["run_1"]


# ---------------------------------------------------------------- errors


async def test_an_outage_raises_and_a_missing_group_is_said(
    private_redis: Any, network: RedisStream, name: str
) -> None:
    with pytest.raises(NotFound, match="has no group 'agents'"):
        await anext(network.consume_messages(name, "agents", "a"))
    server = await private_redis()
    async with connection.connected(server.url) as client:
        away = RedisStream(client=client)
        await away.create_consumer_group(name, "agents")
        await server.kill()
        for call in (
            away.publish_message(name, {"n": 1}),
            away.create_consumer_group(name, "agents"),
            anext(away.consume_messages(name, "agents", "a")),
            away.cleanup_stream(name),
        ):
            with pytest.raises(StoreUnavailable):
                await call


async def test_a_server_that_stands_still_does_not_hold_up_the_loop(private_redis: Any, name: str) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        network = RedisStream(client=client)
        await network.create_consumer_group(name, "agents")
        server.pause()
        publishing = asyncio.create_task(network.publish_message(name, {"n": 1}))
        for _ in range(20):
            await asyncio.sleep(0.001)  # others go on
        assert not publishing.done()
        server.resume()
        assert await publishing


async def test_a_consumer_that_is_cancelled_while_the_server_stands_still_ends_and_loses_nothing(
    private_redis: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from watchbill.connection import client as client_module
    from watchbill.network import stream as module

    monkeypatch.setattr(module, "LEAVE_SECONDS", 0.05)
    monkeypatch.setattr(client_module, "REPLY_TIMEOUT_SECONDS", 3600)  # for which the client alone would wait
    server = await private_redis()
    async with connection.connected(server.url) as client:
        network = RedisStream(client=client, retry_after=SOON)
        await network.create_consumer_group(name, "agents")
        await network.publish_message(name, {"n": 1})
        begun = asyncio.Event()

        async def body() -> None:
            async with contextlib.aclosing(network.consume_messages(name, "agents", "a")) as messages:
                async for _ in messages:
                    begun.set()
                    await asyncio.sleep(600)

        task = asyncio.create_task(body())
        await begun.wait()
        server.pause()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=180)
        server.resume()
        assert done == {task}
        assert task.cancelled()
        assert await take(network, name, 1) == [1]


def test_the_server_is_named_by_arguments_else_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from watchbill.messaging import config

    monkeypatch.delenv("REDIS_HOST", raising=False)
    monkeypatch.delenv("REDIS_PORT", raising=False)
    assert (config.from_parts().host, config.from_parts(usual_db=3).port) == ("localhost", 6379)
    monkeypatch.setenv("REDIS_HOST", "redis.example")
    monkeypatch.setenv("REDIS_PORT", "7000")
    found = config.from_parts(db=1)
    assert (found.host, found.port, found.db) == ("redis.example", 7000, 1)
    here = config.from_parts("here", 1, 0)
    assert (here.host, here.port) == ("here", 1)
    monkeypatch.setenv("REDIS_PORT", "many")
    with pytest.raises(InvalidInput, match="REDIS_PORT: 'many' is no number"):
        config.from_parts()


async def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(InvalidInput, match="retry_after"):
        RedisStream(retry_after=0)
    with pytest.raises(InvalidInput, match="max_length"):
        RedisStream(max_length=-1)
