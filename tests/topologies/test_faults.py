"""Masters that die or give up, slots that move, nodes that restart: under load, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import servers
import workshop

from waiting import until
from watchbill.client import Client
from watchbill.errors import RetryLater
from watchbill.tasks import Durability

Fresh = Callable[..., servers.Store]
CrewIn = Callable[..., Any]


class Load:
    """Submits one task after the other, each until it is acknowledged."""

    def __init__(self, crew: workshop.Crew, durability: Durability | None = None) -> None:
        self.crew = crew
        self.durability = self._promised = durability
        self.acknowledged: list[str] = []
        self.promised: list[str] = []
        """Those that were acknowledged as safe as was asked at first: one failover more may lose the others."""
        self.refusals = 0

    async def _submit(self) -> None:
        async with Client(self.crew.url) as client:
            while True:
                task = f"t{len(self.acknowledged)}"
                asked = self.durability
                try:
                    options: dict[str, Any] = {"agent": "a", "id": task, "durability": asked}
                    await client.submit(self.crew.name, "0.01", **options)
                except RetryLater:
                    self.refusals += 1
                    await asyncio.sleep(0.05)
                    continue
                self.acknowledged.append(task)
                if asked == self._promised:
                    self.promised.append(task)

    @asynccontextmanager
    async def on(self) -> AsyncIterator[Load]:
        submitting = asyncio.create_task(self._submit())
        try:
            yield self
        finally:
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)

    async def grows(self, by: int = 30, seconds: float = 180.0) -> None:
        """Until so many more were acknowledged, and done."""
        goal = len(self.acknowledged) + by
        await until(lambda: len(self.acknowledged) >= goal, seconds, "more acknowledged tasks")

    async def check(self, *, twice: bool = False) -> None:
        """Everything acknowledged is done, and once; `twice`: what was done may have been lost, and done again."""
        # the last one may have been stored without us knowing
        tasks = [*self.acknowledged, f"t{len(self.acknowledged)}"]
        results = await self.crew.results(self.promised, timeout=180)
        assert all(result.success for result in results)
        await until(self.crew.is_idle, 180, "an idle crew")
        ends = await self.crew.ends()
        assert set(ends.values()) == {1}
        assert {task for task, _ in ends} - set(tasks) == set()
        executions = self.crew.executions()
        assert set(executions) >= set(self.promised)
        if not twice:
            assert [task for task, times in executions.items() if times > 1] == []


# ---------------------------------------------------------------- Sentinel


@pytest.mark.parametrize("binary", ["valkey", "redis7"])
async def test_a_master_that_is_killed_takes_no_acknowledged_task_with_it(
    fresh_store: Fresh, crew_in: CrewIn, binary: str
) -> None:
    store = fresh_store(f"{binary}-sentinel")
    crew = await crew_in(store, {"a": "Brief"}, lease_seconds=3)
    workers = [await crew.worker(concurrency=4) for _ in range(2)]
    async with Load(crew, Durability.REPLICA).on() as load:
        await load.grows()
        old = store.master
        old.kill()
        await until(lambda: _has_master(store), what="another master")
        load.durability = None  # there is no replica any more
        await load.grows()
        await asyncio.to_thread(old.start)  # it comes back, and is made a replica
        load.durability = Durability.REPLICA
        await load.grows()
    if store.failovers == 1:  # else a busy machine had it back for master before it was made a replica
        load.promised = load.acknowledged
    await load.check(twice=True)
    assert load.refusals > 0
    assert all(worker.lives for worker in workers)
    for worker in workers:
        await worker.drain()


@pytest.mark.parametrize("binary", ["valkey", "redis7"])
async def test_a_master_that_hands_over_is_left_for_the_new_one(
    fresh_store: Fresh, crew_in: CrewIn, binary: str
) -> None:
    """It lives on, read-only."""
    store = fresh_store(f"{binary}-sentinel")
    crew = await crew_in(store, {"a": "Brief"}, lease_seconds=3)
    workers = [await crew.worker(concurrency=4) for _ in range(2)]
    async with Load(crew, Durability.REPLICA).on() as load:
        for _ in range(2):
            await load.grows()
            old = store.master
            await until(lambda o=old: _has_handed_over(store, o), what="another master")  # type: ignore[misc]
            await load.grows()
            await until(lambda: _has_replica(store), what="a replica")
    await load.check(twice=True)
    assert all(worker.lives for worker in workers)


async def test_a_sentinel_that_is_away_is_passed_over(fresh_store: Fresh, crew_in: CrewIn) -> None:
    """Dead, or silent."""
    store = fresh_store("valkey-sentinel")
    store.sentinels[0].kill()
    store.sentinels[1].pause()
    began = time.monotonic()
    try:
        crew = await crew_in(store, {"a": "Brief"})
        await crew.worker()
        assert (await crew.client.run(crew.name, "now", agent="a", timeout=180)).success
    finally:
        store.sentinels[1].resume()
    assert time.monotonic() - began < 100


async def _has_handed_over(store: servers.Store, old: servers.Server) -> bool:
    """Whether this server is master no more. If it is, Sentinel is asked for a failover: it refuses while it hasn't
    heard of a replica that is connected, and gives up where the machine is slow."""
    sentinel = store.sentinels[0]
    if (await asyncio.to_thread(old.ask, "ROLE"))[0] != "master":
        return True
    named = await asyncio.to_thread(sentinel.ask, "SENTINEL GET-MASTER-ADDR-BY-NAME", servers.SERVICE)
    if int(named[1]) == old.port:
        try:
            await asyncio.to_thread(sentinel.ask, "SENTINEL FAILOVER", servers.SERVICE)
        except redis.exceptions.ResponseError as error:
            if not any(code in str(error) for code in ("NOGOODSLAVE", "INPROG")):
                raise
    await asyncio.sleep(0.2)
    return False


def _has_master(store: servers.Store) -> bool:
    try:
        return bool(store.master)
    except AssertionError:
        return False


def _has_replica(store: servers.Store) -> bool:
    try:
        role = store.master.ask("ROLE")
        return role[0] == "master" and len(role[2]) == 1
    except (AssertionError, redis.exceptions.RedisError):
        return False


# ---------------------------------------------------------------- Cluster


@pytest.mark.parametrize(
    ("binary", "move"),
    [("valkey", servers.migrate_slot), ("valkey", servers.move_slot), ("redis7", servers.move_slot)],
    ids=["valkey-at-once", "valkey-by-key", "redis7-by-key"],
)
async def test_a_slot_that_moves_under_load_loses_and_doubles_nothing(
    fresh_store: Fresh, crew_in: CrewIn, binary: str, move: Callable[..., Any]
) -> None:
    store = fresh_store(f"{binary}-cluster")
    crew = await crew_in(store, {"a": "Brief"}, lease_seconds=15)
    workers = [await crew.worker(concurrency=4) for _ in range(2)]
    async with Load(crew).on() as load:
        await load.grows()
        for _ in range(3):
            home = store.home(crew.keys.meta)
            to = next(server for server in store.servers if server is not home)
            await move(store, crew.keys.meta, to)
            assert store.home(crew.keys.meta) is to
            await load.grows()
    await load.check()
    assert all(worker.lives for worker in workers)
    for worker in workers:
        assert "silent for longer than its lease" not in worker.log
        await worker.drain()


@pytest.mark.parametrize("binary", ["valkey", "redis7"])
async def test_a_node_that_dies_and_comes_back_is_waited_for(fresh_store: Fresh, crew_in: CrewIn, binary: str) -> None:
    store = fresh_store(f"{binary}-cluster")
    crew = await crew_in(store, {"a": "Brief"}, lease_seconds=3)
    home = store.home(crew.keys.meta)
    if binary == "redis7":  # it can't be asked whether its disk has something: so it answers once that has
        home.ask("CONFIG", "SET", "appendfsync", "always")
    workers = [await crew.worker(concurrency=4) for _ in range(2)]
    async with Load(crew, Durability.FSYNC if binary == "valkey" else None).on() as load:
        await load.grows()
        home.kill()
        dead_until = time.monotonic() + 5  # longer than the lease, and than the cluster needs to notice
        await until(lambda: time.monotonic() > dead_until)
        await asyncio.to_thread(home.start)
        await load.grows()
    await load.check(twice=True)
    assert load.refusals > 0
    assert all(worker.lives for worker in workers)


async def test_a_client_finds_the_cluster_when_the_first_node_of_its_url_is_away(
    fresh_store: Fresh, crew_in: CrewIn
) -> None:
    store = fresh_store("valkey-cluster")
    crews = [await crew_in(store, {"a": "Brief"}) for _ in range(12)]
    named = [server for server in store.servers if server.address in store.url]
    living = next(crew for crew in crews if store.home(crew.keys.meta) is not named[0])
    named[0].kill()
    async with Client(store.url) as client:
        await until(lambda: _submits(client, living.name), what="a submission")
    await living.worker()
    assert (await living.result("t", timeout=180)).success


async def _submits(client: Client, crew: str) -> bool:
    try:
        return bool(await client.submit(crew, "now", agent="a", id="t"))
    except RetryLater:
        return False
