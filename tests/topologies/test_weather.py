"""What servers say while they can't: LOADING, MISCONF, NOREPLICAS, CLUSTERDOWN. Submitters try later, workers wait."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import redis
import servers
from workshop import Crew

from waiting import until
from watchbill.client import Client
from watchbill.errors import RetryLater

Fresh = Callable[..., servers.Store]
CrewIn = Callable[..., Any]


async def refused(crew: Crew, says: str) -> bool:
    """Whether the store takes nothing, and why."""
    async with Client(crew.url) as client:
        try:
            await client.submit(crew.name, "now", agent="a", id="while")
        except RetryLater as error:
            return says in f"{error} {error.__cause__!r}"
    return False


async def ends_well(crew: Crew, *ids: str) -> None:
    await until(lambda: _submits(crew, "after"), what="a submission")
    crew.open()
    results = await crew.results([*ids, "after"], timeout=180)
    assert all(result.success for result in results)
    assert set((await crew.ends()).values()) == {1}
    assert all(process.lives for process in crew.processes)


async def _submits(crew: Crew, task: str) -> bool:
    try:
        return bool(await crew.submit(task, "a"))
    except RetryLater:
        return False


@pytest.mark.parametrize("binary", ["valkey", "redis7"])
async def test_a_server_that_loads_its_data(fresh_store: Fresh, crew_in: CrewIn, binary: str) -> None:
    slow = {"key-load-delay": "20000", "loading-process-events-interval-bytes": "1024", "appendfsync": "no"}
    store = fresh_store(f"{binary}-standalone", options=slow)
    server = store.master
    crew = await crew_in(store, {"a": "Gate"}, lease_seconds=3)
    await crew.worker()
    await crew.submit("t", "a")
    await crew.started("t")
    with server.client() as client:
        for i in range(150):  # 3 s
            client.set(f"ballast:{i}", random.randbytes(1000))
        client.bgrewriteaof()
        servers.wait_for(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    await until(lambda: _is_seen_to_load(server, crew), what="a server that loads")
    await ends_well(crew, "t")


async def _is_seen_to_load(server: servers.Server, crew: Crew) -> bool:
    """Starts it anew. A busy machine may give us no time while it loads."""
    server.kill()
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    is_seen = False
    while not (is_seen or starting.done()):
        is_seen = await refused(crew, "loading")
    await starting
    return is_seen


@pytest.mark.parametrize("binary", ["valkey", "redis7"])
async def test_a_server_that_can_not_save(fresh_store: Fresh, crew_in: CrewIn, binary: str) -> None:
    store = fresh_store(
        f"{binary}-standalone", options={"appendonly": "no", "save": "3600 1", "enable-protected-configs": "yes"}
    )
    server = store.master
    crew = await crew_in(store, {"a": "Gate"}, lease_seconds=3)
    await crew.worker()
    await crew.submit("t", "a")
    await crew.started("t")
    gone = server.folder / "gone"
    gone.mkdir()
    with server.client() as client:
        client.config_set("dir", str(gone))
        shutil.rmtree(gone)
        client.bgsave()
        servers.wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        assert await refused(crew, "MISCONF")
        client.config_set("dir", str(server.folder))
        client.bgsave()
    await ends_well(crew, "t")


@pytest.mark.parametrize("binary", ["valkey", "redis7"])
async def test_a_master_that_lacks_replicas(fresh_store: Fresh, crew_in: CrewIn, binary: str) -> None:
    """As docs/redis.md has them set up. What was done meanwhile is neither thrown away nor done again."""
    store = fresh_store(f"{binary}-standalone")
    server = store.master
    crew = await crew_in(store, {"a": "Gate"}, lease_seconds=6)
    worker = await crew.worker()
    await crew.submit("t", "a")
    await crew.started("t")
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        assert await refused(crew, "NOREPLICAS")
        crew.open("t")
        await until(lambda: "can't renew" in worker.log, what="a renewal that is refused")
        client.config_set("min-replicas-to-write", 0)
    await ends_well(crew, "t")
    assert crew.executions()["t"] == 1


@pytest.mark.parametrize("binary", ["valkey", "redis7"])
async def test_a_cluster_that_lacks_a_node(fresh_store: Fresh, crew_in: CrewIn, binary: str) -> None:
    """Not the crew's; but the cluster may be told to answer nobody then, which is its default."""
    store = fresh_store(f"{binary}-cluster")
    for server in store.servers:
        server.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    crew = await crew_in(store, {"a": "Gate"}, lease_seconds=3)
    await crew.worker()
    await crew.submit("t", "a")
    await crew.started("t")
    home = store.home(crew.keys.meta)
    other = next(server for server in store.servers if server is not home)
    other.kill()
    await until(lambda: refused(crew, "ClusterDown"), what="a cluster that is down")
    with pytest.raises(redis.RedisError):
        home.ask("GET", crew.keys.meta)
    await asyncio.to_thread(other.start)
    await ends_well(crew, "t")
