"""Many commands at once over the servers of a cluster."""

from __future__ import annotations

from collections.abc import Callable

import servers
from redis.crc import key_slot
from redis.exceptions import ResponseError

from watchbill import connection
from watchbill.connection import batches

KEYS = [f"batch:{i}" for i in range(2 * batches.BATCH)]


async def test_each_command_goes_to_the_server_that_has_its_key_and_answers_come_in_order(
    store_named: Callable[[str], servers.Store],
) -> None:
    async with connection.connected(store_named("valkey-cluster").url) as client:
        setting = [("SET", key, number) for number, key in enumerate(KEYS)]
        assert await batches.send(client, setting) == ["OK"] * len(KEYS)
        wrong = ("HGET", KEYS[1], "field")
        found = await batches.send(client, [*(("GET", key) for key in KEYS), wrong])
        assert found[:-1] == [str(number) for number in range(len(KEYS))]
        assert isinstance(found[-1], ResponseError)


async def test_keys_that_move_are_followed(fresh_store: Callable[..., servers.Store]) -> None:
    store = fresh_store("valkey-cluster")
    async with connection.connected(store.url) as client:
        getting = [("GET", key) for key in KEYS]
        assert await batches.send(client, [("SET", key, key) for key in KEYS]) == ["OK"] * len(KEYS)
        await servers.move_slot(store, KEYS[0], next(one for one in store.servers if one is not store.home(KEYS[0])))
        assert await batches.send(client, getting) == KEYS


async def test_a_server_that_is_away_costs_only_its_own_answers(fresh_store: Callable[..., servers.Store]) -> None:
    store = fresh_store("valkey-cluster")
    async with connection.connected(store.url) as client:
        await batches.send(client, [("SET", key, key) for key in KEYS])
        dead = store.home(KEYS[0])
        slots = store.slots(dead)
        dead.kill()
        found = await batches.send(client, [("GET", key) for key in KEYS])
    for key, answer in zip(KEYS, found, strict=True):
        is_away = any(first <= key_slot(key.encode()) <= last for first, last in slots)
        assert isinstance(answer, Exception) if is_away else answer == key
