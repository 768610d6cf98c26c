"""What is said of a store that may delete work by itself, whatever the store is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import servers

from waiting import until
from watchbill import connection
from watchbill.errors import StoreUnavailable
from watchbill.store import eviction

CrewIn = Callable[..., Any]
Fresh = Callable[..., servers.Store]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_policy_that_deletes_is_found_on_whichever_master_it_is(store: servers.Store, policy: str) -> None:
    async with connection.connected(store.url) as client:
        assert await eviction.fault(client) is None
        masters = store.servers if store.kind == "cluster" else [store.master]
        for server in masters:
            server.ask("CONFIG", "SET", "maxmemory-policy", policy)
            try:
                found = await eviction.fault(client)
            finally:
                server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
            assert found is not None
            assert repr(policy) in found.reason
            assert ("work that waits" in found.reason) is policy.startswith("allkeys")
            assert "noeviction" in found.fix
            assert found.source == (server.address if store.kind == "cluster" else "")
        assert await eviction.fault(client) is None


@pytest.mark.parametrize("name", ["valkey-sentinel", "redis7-sentinel"])
async def test_of_servers_with_sentinels_the_master_counts(store_named: Fresh, name: str) -> None:
    store = store_named(name)
    (replica,) = [server for server in store.servers if server is not store.master]
    async with connection.connected(store.url) as client:
        replica.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        try:
            assert await eviction.fault(client) is None
        finally:
            replica.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_masters_that_are_away_are_left_out(fresh_store: Fresh) -> None:
    store = fresh_store("valkey-cluster")
    async with connection.connected(store.url) as client:
        store.servers[1].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
        store.servers[2].kill()
        found = await eviction.fault(client)
        assert found is not None
        assert found.source == store.servers[1].address
        for server in store.servers:
            server.kill()
        with pytest.raises(StoreUnavailable):
            await eviction.fault(client)


@pytest.mark.parametrize("name", ["valkey-standalone", "redis7-cluster"])
async def test_a_worker_says_once_at_its_start_what_a_policy_deletes_and_what_to_do(
    fresh_store: Fresh, crew_in: CrewIn, name: str
) -> None:
    store = fresh_store(name)
    store.servers[-1].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    crew = await crew_in(store, {"a": "Brief"})
    worker = await crew.worker()
    await until(lambda: "allkeys-random" in worker.log, what="the warning")
    assert (await crew.client.run(crew.name, "0", agent="a", timeout=180)).success
    await worker.drain()
    (line,) = [line for line in worker.log.splitlines() if "maxmemory-policy" in line]
    assert line.startswith("WARNING watchbill.store: ")
    assert "CONFIG SET maxmemory-policy noeviction" in line

    environment = {"WATCHBILL_REDIS_URL": store.url, "WATCHBILL_CREW": crew.name}
    log = crew.folder / "pod.log"
    with log.open("wb") as file:
        pod = subprocess.Popen(
            [sys.executable, "-P", "-m", "watchbill.worker"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | environment,
        )
    try:
        await until(lambda: "allkeys-random" in log.read_text(), what="the warning")
        assert pod.poll() is None
    finally:
        pod.kill()
        pod.wait()


async def test_nothing_is_said_of_a_store_that_keeps_what_it_has(store_named: Fresh, crew_in: CrewIn) -> None:
    crew = await crew_in(store_named("valkey-standalone"), {"a": "Brief"})
    worker = await crew.worker()
    assert (await crew.client.run(crew.name, "0", agent="a", timeout=180)).success
    await worker.drain()
    assert "maxmemory" not in worker.log
