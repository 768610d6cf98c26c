"""Streams and the cache on a store of each kind, with and without an event loop: the URL is all that differs."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable

import pytest
import servers

from watchbill import connection
from watchbill.errors import InvalidInput
from watchbill.messaging import RedisClient, RedisStream
from watchbill.network import RedisCache
from watchbill.network import RedisStream as Network

SOON = 0.02


async def test_messages_are_given_given_again_and_given_up(store: servers.Store) -> None:
    name = uuid.uuid4().hex
    async with connection.connected(store.url) as client, asyncio.timeout(180):
        network = Network(client=client, retry_after=SOON, max_deliveries=2)
        await network.create_consumer_group(name, "streams")  # the word before the keys in XREADGROUP
        added = [await network.publish_message(name, {"n": [n]}) for n in range(2)]
        for _ in range(2):
            async with contextlib.aclosing(network.consume_messages(name, "streams", "a")) as messages:
                assert await anext(messages) == (added[0], {"n": [0]})
        async with contextlib.aclosing(network.consume_messages(name, "streams", "a")) as messages:
            assert await anext(messages) == (added[1], {"n": [1]})
            waiting = asyncio.ensure_future(anext(messages))
            await network.publish_message(name, {"n": [2]})
            assert (await waiting)[1] == {"n": [2]}
        assert await client.xlen(f"{{{name}}}:dead") == 1
        assert await network.cleanup_stream(name, force=True) == {}
        assert await client.exists(name) == 0


async def test_messages_of_a_program_without_an_event_loop(store: servers.Store) -> None:
    def program() -> None:
        with RedisClient(store.url) as client:
            name = uuid.uuid4().hex
            stream, other = RedisStream(name, client), RedisStream(name, client, retry_after=SOON)
            added = [stream.add({"n": n}) for n in range(2)]
            stream.create_consumer_group("streams", "a")
            other.create_consumer_group("streams", "b")
            found = stream.read_group(count=1, wait=60) + stream.read_group(wait=60)
            assert [message["id"] for message in found] == added
            assert stream.acknowledge(added[0]) == 1
            [again] = other.read_group(wait=60)
            assert again["id"] == added[1]
            assert stream.read() == found
            assert stream.cleanup(force=True) == {}

    await asyncio.to_thread(program)


async def test_responses_are_kept_and_cleared(store: servers.Store) -> None:
    async with connection.connected(store.url) as client:
        cache = RedisCache(client=client, prefix=f"{{{uuid.uuid4().hex}}}:")
        for n in range(3):
            await cache.append_response("ab"[n % 2], {"n": n})
        assert await cache.get_last_responses(2) == [{"n": 2}, {"n": 1}]
        assert await cache.get_responses("a") == [{"n": 0}, {"n": 2}]
        await cache.clear("a")
        assert await cache.get_random_responses(9) == [{"n": 1}]
        await cache.clear_all()
        assert await cache.get_last_responses(9) == []


async def test_a_cache_on_a_cluster_needs_braces_in_its_prefix(store_named: Callable[[str], servers.Store]) -> None:
    async with connection.connected(store_named("valkey-cluster").url) as client:
        with pytest.raises(InvalidInput, match=r"prefix: .* Give it a hash tag, as in {cache}:"):
            await RedisCache(client=client).append_response("a", "b")
