"""Crew records without a store, and on a Redis Cluster."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions
from crew_records import crew_of

from ports import free_ports
from watchbill import errors, local_server
from watchbill.store.crews import CrewRedis


async def test_without_a_store_every_answer_is_the_seeds_and_strict_raises(
    private_redis: Callable[[], Awaitable[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    server = await private_redis()
    async with CrewRedis(server.url) as store, CrewRedis(server.url, strict=True) as strict:
        await strict.save_crew(crew_of())
        await server.kill()

        def calls(on: CrewRedis) -> list[tuple[Awaitable[Any], Any]]:
            return [
                (on.save_crew(crew_of()), False),
                (on.load_crew("blog"), None),
                (on.load_crew_by_id("x"), None),
                (on.delete_crew("blog"), False),
                (on.list_crews(), []),
                (on.crew_exists("blog"), False),
                (on.get_all_crews(), []),
                (on.get_crew_metadata("blog"), None),
                (on.update_crew_metadata("blog", {}), False),
                (on.clear_all_crews(), 0),
            ]

        for call, expected in calls(store):
            caplog.clear()
            assert await call == expected
            assert [record.levelno for record in caplog.records] == [logging.WARNING]
        for call, _ in calls(strict):
            with pytest.raises(errors.StoreUnavailable) as caught:
                await call
            assert isinstance(caught.value.__cause__, redis.exceptions.RedisError | OSError)
        assert await store.ping() is False
        assert await strict.ping() is False


async def test_a_refusal_that_waiting_cannot_cure_is_not_called_unavailable(
    private_redis: Callable[[], Awaitable[Any]],
) -> None:
    server = await private_redis()
    async with redis.asyncio.Redis.from_url(server.url) as admin:
        await admin.acl_setuser("default", commands=["-set", "-get"], enabled=True)
    async with CrewRedis(server.url, strict=True) as strict:
        with pytest.raises(errors.UserActionRequired) as caught:
            await strict.load_crew("blog")
    assert isinstance(caught.value.__cause__, redis.exceptions.NoPermissionError)


async def test_on_a_cluster_the_keys_of_a_tenant_share_a_slot(tmp_path: Path) -> None:
    port, bus_port = free_ports(2)
    command = local_server.server_command(local_server.find_server(), tmp_path, Path("cluster.sock"), fsync=None)
    cluster = ["--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", str(bus_port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*command, *cluster], cwd=tmp_path, stdout=log, stderr=log)
    try:
        async with redis.asyncio.Redis(port=port, decode_responses=True) as client:
            while not await CrewRedis(client=client).ping():
                assert server.poll() is None, (tmp_path / "log").read_text()
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while "cluster_state:ok" not in str(await client.execute_command("CLUSTER", "INFO")):
                await asyncio.sleep(0.01)
            for strict in (
                CrewRedis(client=client, tenant="team", strict=True),
                CrewRedis(client=client, key_prefix="{crew}", strict=True),
            ):
                await strict.save_crew(crew_of(crew_id="one"))
                await strict.save_crew(crew_of(crew_id="two"))
                await strict.update_crew_metadata("blog", {"a": 1})
                await strict.save_crew(crew_of("gone"))
                await client.delete(strict._record("gone"))
                assert [c.crew_id for c in await strict.get_all_crews()] == ["two"]
                assert await strict.list_crews() == ["blog"]
                assert await strict.load_crew_by_id("two")
                assert await strict.clear_all_crews() == 1
            with pytest.raises(errors.InvalidInput, match=r"key_prefix='\{crew\}'"):
                await CrewRedis(client=client, strict=True).save_crew(crew_of())
    finally:
        server.kill()
        server.wait()
