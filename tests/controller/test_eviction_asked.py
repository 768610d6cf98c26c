"""What the operator knows of the store's maxmemory-policy, and when it asks again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from prometheus_client import REGISTRY

from watchbill import connection
from watchbill.controller.eviction import Eviction
from watchbill.testing import FakeClock


@pytest.fixture
async def server(private_redis: Callable[[], Awaitable[Any]]) -> Any:
    return await private_redis()


@pytest.fixture
async def client(server: Any) -> AsyncIterator[redis.asyncio.Redis]:
    async with connection.connected(server.url) as made:
        yield made


async def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_change_is_found_by_itself_and_told_once(
    client: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    changes: list[str] = []
    clock = FakeClock()
    seen = Eviction(client, lambda: changes.append(seen.message), clock)
    asking = asyncio.create_task(seen.run())

    async def ask_again() -> None:
        """Returns when the store has been asked once more, and the answer is known."""
        await _until(lambda: clock.sleepers == [300])
        clock.advance(300)
        await _until(lambda: clock.sleepers == [300])

    try:
        await seen.asked(60)
        assert (seen.message, changes) == ("", [])
        assert REGISTRY.get_sample_value("watchbill_operator_store_evicts") == 0
        for policy in ("allkeys-lru", "volatile-lru"):
            await client.config_set("maxmemory-policy", policy)
            await ask_again()
            assert policy in seen.message
            assert "CONFIG SET maxmemory-policy noeviction" in seen.message
            assert REGISTRY.get_sample_value("watchbill_operator_store_evicts") == 1
        await ask_again()
        assert len(changes) == 2, "nothing has changed"
        await client.config_set("maxmemory-policy", "noeviction")
        clock.advance(299)
        seen.ask_now()
        await _until(lambda: len(changes) == 3)
        assert changes[2] == ""
        assert REGISTRY.get_sample_value("watchbill_operator_store_evicts") == 0
    finally:
        asking.cancel()
    said = [r.levelname for r in caplog.records if "maxmemory-policy" in r.message]
    assert said == ["WARNING", "WARNING", "INFO"]


async def test_a_store_that_is_away_at_the_start_is_asked_when_it_is_back_and_holds_nobody_up(
    server: Any, client: redis.asyncio.Redis
) -> None:
    await server.kill()
    changed = asyncio.Event()
    seen = Eviction(client, changed.set)
    asking = asyncio.create_task(seen.run())
    try:
        async with asyncio.timeout(180):
            await seen.asked(0.1)
        await server.restart()
        await seen.asked(60)
        assert seen.message == ""
        await client.config_set("maxmemory-policy", "allkeys-lru")
        seen.ask_now()  # and not in five minutes
        async with asyncio.timeout(180):
            await changed.wait()
        assert "allkeys-lru" in seen.message
    finally:
        asking.cancel()


async def test_who_may_not_ask_says_so_and_goes_on(
    server: Any, client: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await client.execute_command("ACL", "SETUSER", "poor", "on", ">x", "+@all", "-info")
    async with connection.connected(server.url.replace("unix://", "unix://poor:x@")) as poor:
        seen = Eviction(poor, lambda: None)
        asking = asyncio.create_task(seen.run())
        try:
            await seen.asked(60)
            assert not asking.done()
            assert seen.message == ""
        finally:
            asking.cancel()
    assert "docs/redis.md" in caplog.text
