"""What the tests promise about themselves and the repository: nothing leaves this machine, no module is shadowed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import uvloop
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from watchbill import local_server, names

ELSEWHERE = "192.0.2.1"  # TEST-NET-1: belongs to nobody
LOOPS = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])


@pytest.mark.pure
def test_operator_holds_the_package_and_nothing_else() -> None:
    # A Python file beside it could be found instead of the standard library's `operator`, or be missing from the wheel.
    root = Path(__file__).parents[1] / "operator"
    found = {entry.name for entry in root.iterdir() if not entry.name.startswith(".")} - {"__pycache__"}
    assert found == {"watchbill"}


@pytest.mark.pure
def test_settings_of_the_developer_do_not_reach_the_tests() -> None:
    assert [name for name in os.environ if name.startswith("WATCHBILL_")] == []


@pytest.mark.pure
@pytest.mark.parametrize("method", ["connect", "connect_ex"])
@pytest.mark.parametrize("host", [ELSEWHERE, "0.0.0.1", "example.invalid"])
def test_a_socket_cannot_connect_to_another_machine(method: str, host: str) -> None:
    with socket.socket() as sock, pytest.raises(RuntimeError, match=host):
        getattr(sock, method)((host, 80))


@pytest.mark.pure
def test_a_socket_cannot_connect_to_another_machine_by_ipv6() -> None:
    with socket.socket(socket.AF_INET6) as sock, pytest.raises(RuntimeError, match="2001:db8::1"):
        sock.connect(("2001:db8::1", 80))


@pytest.mark.pure
@pytest.mark.parametrize("name", ["example.invalid", b"example.invalid"])
def test_a_name_cannot_be_looked_up(name: str | bytes) -> None:
    with pytest.raises(RuntimeError, match=r"example\.invalid"):
        socket.getaddrinfo(name, 80)


@pytest.mark.pure
@LOOPS
@pytest.mark.parametrize("host", [ELSEWHERE, "example.invalid"])
def test_an_event_loop_cannot_connect_to_another_machine(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], host: str
) -> None:
    async def connect() -> None:
        await asyncio.open_connection(host, 80)

    with asyncio.Runner(loop_factory=loop_factory) as runner, pytest.raises(RuntimeError, match=host):
        runner.run(connect())


@pytest.mark.pure
@LOOPS
def test_an_event_loop_cannot_connect_a_socket_to_another_machine(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def connect() -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (ELSEWHERE, 80))

    with asyncio.Runner(loop_factory=loop_factory) as runner, pytest.raises(RuntimeError, match=ELSEWHERE):
        runner.run(connect())


@pytest.mark.pure
@LOOPS
def test_an_event_loop_cannot_look_up_a_name(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def look_up() -> None:
        await asyncio.get_running_loop().getaddrinfo("example.invalid", 80)

    with asyncio.Runner(loop_factory=loop_factory) as runner, pytest.raises(RuntimeError, match="example"):
        runner.run(look_up())


@pytest.mark.pure
@LOOPS
def test_an_event_loop_cannot_send_datagrams_to_another_machine(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def connect() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(ELSEWHERE, 53))

    with asyncio.Runner(loop_factory=loop_factory) as runner, pytest.raises(RuntimeError, match=ELSEWHERE):
        runner.run(connect())


@LOOPS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_works(loop_factory: Callable[[], asyncio.AbstractEventLoop], host: str) -> None:
    async def greet() -> bytes:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(host, port, family=socket.AF_INET)
            try:
                return await reader.read()
            finally:
                writer.close()
                await writer.wait_closed()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(greet()) == b"hello"


def resending(url: str, **options: Any) -> redis.asyncio.Redis:
    """A client that sends again when a reply is lost: `from_url` alone makes one that doesn't."""
    return redis.asyncio.Redis.from_url(url, retry=Retry(ConstantBackoff(0.01), 10), **options)


class TestTheProxy:
    async def test_passes_everything_on(self, proxy: Any, crew_name: str) -> None:
        async with redis.asyncio.Redis.from_url((await proxy()).url, decode_responses=True) as client:
            value = "x" * 300_000
            await client.set(crew_name, value)
            assert await client.get(crew_name) == value
            pipe: Any
            async with client.pipeline(transaction=True) as pipe:
                assert await pipe.incr(crew_name + "n").incr(crew_name + "n").execute() == [1, 2]

    async def test_loses_one_reply_to_a_request_that_was_carried_out(self, proxy: Any, crew_name: str) -> None:
        between = await proxy()
        async with resending(between.url) as client:
            await client.ping()
            between.drop_next_reply()
            assert await client.incr(crew_name) == 2  # sent again by redis-py
            assert await client.incr(crew_name) == 3
            assert between.dropped == 1

    async def test_loses_the_reply_on_a_fresh_connection_too(self, proxy: Any, crew_name: str) -> None:
        between = await proxy()
        between.drop_next_reply()
        async with resending(between.url) as client:
            assert await client.incr(crew_name) == 2

    async def test_loses_every_reply_once(self, proxy: Any, crew_name: str) -> None:
        between = await proxy()
        between.drop_every_reply_once = True
        async with resending(between.url) as client:
            increase = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
            assert await increase(keys=[crew_name], args=[1]) == 2
            assert await increase(keys=[crew_name], args=[1]) == 3  # the same bytes: seen before
            assert await increase(keys=[crew_name], args=[10]) == 23

    async def test_loses_the_reply_to_a_whole_pipeline(self, proxy: Any, crew_name: str) -> None:
        between = await proxy()
        async with resending(between.url) as client:
            await client.ping()
            between.drop_next_reply()
            pipe: Any
            async with client.pipeline(transaction=False) as pipe:
                assert await pipe.incr(crew_name).incr(crew_name).incr(crew_name).execute() == [4, 5, 6]

    async def test_passes_published_messages(
        self, proxy: Any, crew_name: str, redis_client: redis.asyncio.Redis
    ) -> None:
        between = await proxy()
        between.drop_every_reply_once = True
        async with (
            resending(between.url, decode_responses=True) as client,
            client.pubsub() as pubsub,
        ):
            await pubsub.subscribe(crew_name)
            for text in ("one", "two"):
                while not await redis_client.publish(crew_name, text):
                    await asyncio.sleep(0.01)
                async with asyncio.timeout(60):
                    while not (said := await pubsub.get_message(ignore_subscribe_messages=True, timeout=1)):
                        pass
                assert said["data"] == text


class TestAPrivateRedis:
    async def test_keeps_its_data_when_it_is_killed_and_started_again(self, private_redis: Any) -> None:
        server = await private_redis()
        async with redis.asyncio.Redis.from_url(server.url, decode_responses=True) as client:
            await client.set("k", "v")
            await server.kill()
            assert await local_server.ping(server.socket) == b""
            await server.restart()
            assert await client.get("k") == "v"

    async def test_is_silent_while_it_is_paused(self, private_redis: Any) -> None:
        server = await private_redis()
        server.pause()
        assert await local_server.ping(server.socket) == b""
        server.resume()
        assert await local_server.ping(server.socket) == b"+PONG"

    async def test_is_one_of_as_many_as_a_test_needs(self, private_redis: Any) -> None:
        one, other = await private_redis(), await private_redis()
        assert one.url != other.url


async def test_every_test_has_a_client_of_a_real_redis(redis_client: redis.asyncio.Redis, crew_name: str) -> None:
    assert await redis_client.set(crew_name, "text")
    assert await redis_client.get(crew_name) == "text"


async def test_crew_names_are_labels(crew_name: str) -> None:
    assert names.DNS_LABEL.fullmatch(crew_name)
    assert len(crew_name) <= names.CREW_NAME_MAX
