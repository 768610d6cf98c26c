"""Connections in use: lost while they were idle, which uvloop tells in a way of its own; wanted by many at once."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from redis.asyncio.connection import parse_url
from support import Crew

from waiting import until
from watchbill import connection
from watchbill.client import Client
from watchbill.connection import outages
from watchbill.store import events

CALLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "a command": lambda client: client.ping(),
    "two commands": lambda client: client.execute_two(("PING",), ("PING",)),
    "a pipeline": lambda client: client.pipeline(transaction=False).ping().execute(),
}


async def _is_reset_and_asks(url: str, call: Callable[[Any], Awaitable[Any]]) -> Any:
    """What `call` answers on a connection over TCP that was reset since it was last used."""
    clients: list[asyncio.StreamWriter] = []

    async def pass_on(client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        clients.append(client_out)
        server_in, server_out = await asyncio.open_unix_connection(parse_url(url)["path"])

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(1 << 16):
                    sink.write(data)
            finally:
                sink.close()

        await asyncio.gather(pump(client_in, server_out), pump(server_in, client_out), return_exceptions=True)

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    client: Any = connection.connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    try:
        await call(client)
        used = [*client._idle, *client.connection_pool._available_connections]
        clients[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        clients[0].transport.abort()
        async with asyncio.timeout(180):
            while not used[0]._writer.transport.is_closing():
                await asyncio.sleep(0.001)
        return await outages.persist(lambda: call(client), until=lambda: False)
    finally:
        await client.aclose()
        server.close()


@pytest.mark.parametrize("kind", CALLS)
def test_a_connection_that_was_reset_while_it_was_idle_is_made_anew(redis_url: str, kind: str) -> None:
    if "path" not in parse_url(redis_url):
        pytest.skip("passes on to a Unix socket only")
    assert uvloop.run(_is_reset_and_asks(redis_url, CALLS[kind])) in (True, "PONG", ["PONG", "PONG"], [True])


async def test_any_number_of_calls_at_once_come_through_and_leave_room_for_others(redis_url: str) -> None:
    client: Any = connection.connect(redis_url)
    try:
        assert await asyncio.gather(*(client.ping() for _ in range(500))) == [True] * 500
        pipelines = (client.pipeline(transaction=False).ping().execute() for _ in range(500))
        assert await asyncio.gather(*pipelines) == [[True]] * 500
        async with asyncio.timeout(180), client.pubsub() as pubsub:
            await pubsub.subscribe("a-channel")
    finally:
        await client.aclose()


async def test_any_number_of_first_submissions_at_once_on_one_client_are_stored_and_told(crew: Crew) -> None:
    async with Client(crew.url, namespace=crew.keys.crew.partition("/")[0]) as client:
        name = crew.keys.crew
        ids = [f"t{n}" for n in range(300)]
        submitted = await asyncio.gather(*(client.submit(name, "do it", agent="a", id=id_) for id_ in ids))
        assert submitted == ids

        async def all_are_waited_for() -> bool:
            return all([await crew.client.hexists(crew.keys.task(id_), "reply") for id_ in ids])

        waiting = asyncio.gather(*(client.wait(name, id_, timeout=180) for id_ in ids))
        await until(all_are_waited_for)
        for number in range(1, 4):
            taken = await crew.take("w.1", number, 100)
            assert set(await crew.finish("w.1", taken)) == {"applied"}
        assert [result.success for result in await waiting] == [True] * 300
        assert len(await crew.client.execute_command("PUBSUB", "CHANNELS", crew.keys.prefix + "reply:*")) == 1


async def test_any_number_of_followers_on_one_client_hold_up_nobody_and_hear_all(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BLOCK_MS", 3_600_000)
    monkeypatch.setattr("watchbill.connection.client.REPLY_TIMEOUT_SECONDS", 3600)
    async with Client(crew.url, namespace=crew.keys.crew.partition("/")[0]) as client:
        name = crew.keys.crew
        heard: list[int] = []

        async def follow(number: int) -> None:
            async for _, event in client.follow(name, agent="a"):
                if getattr(event, "task_id", None) == "t1":
                    heard.append(number)
                    return

        following = [asyncio.create_task(follow(number)) for number in range(100)]
        await asyncio.sleep(0.5)  # all of them wait
        for number in range(1, 6):
            async with asyncio.timeout(120):  # less than a follower waits at the server
                await client.submit(name, "do it", agent="a", id=f"t{number}")
        await crew.finish("w", await crew.take("w"))
        async with asyncio.timeout(180):
            await asyncio.gather(*following)
        assert sorted(heard) == list(range(100))
