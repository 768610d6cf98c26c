"""A failover takes the store back in time, because replication is asynchronous: what was done since is done again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import servers
import workshop

from waiting import until

CrewIn = Callable[..., Any]


class Rewind:
    """A master, a replica that stops following when told, and a name that leads to one of them."""

    def __init__(self, store: servers.Store, folder: Path) -> None:
        self.store = store
        self.name = folder / "name.sock"
        self.old, self.new = store.servers
        self._point(self.old)

    @property
    def url(self) -> str:
        return f"unix://{self.name}"

    def _point(self, server: servers.Server) -> None:
        with suppress(FileNotFoundError):
            self.name.unlink()
        self.name.symlink_to(server.folder / "s")

    async def remember(self) -> None:
        """From now on, the replica knows of nothing more."""
        assert await asyncio.to_thread(self.old.ask, "WAIT", 1, 60_000) == 1
        await asyncio.to_thread(self.new.ask, "REPLICAOF", "NO", "ONE")

    async def fail_over(self) -> None:
        self._point(self.new)
        await asyncio.to_thread(self.old.kill)


@pytest.fixture(params=["valkey", "redis7"])
def rewind(request: pytest.FixtureRequest, fresh_store: Callable[..., servers.Store], tmp_path: Path) -> Rewind:
    store = fresh_store(f"{request.param}-standalone", options={"unixsocket": "s"}, replicas=1)
    for server in store.servers:
        assert (server.folder / "s").exists()
    return Rewind(store, tmp_path)


async def test_a_result_that_was_lost_is_made_again(rewind: Rewind, crew_in: CrewIn) -> None:
    """The store thinks that the worker, which lives, still runs the task; the worker knows of no such task."""
    crew: workshop.Crew = await crew_in(rewind.store, {"a": "Gate"}, url=rewind.url, lease_seconds=3)
    worker = await crew.worker()
    await crew.submit("t", "a")
    await crew.started("t")
    await rewind.remember()
    crew.open()
    assert (await crew.result("t")).success
    await rewind.fail_over()
    await until(lambda: crew.executions()["t"] == 2, what="its second run")
    assert (await crew.result("t")).success
    assert await crew.ends() == {("t", "completed"): 1}
    assert worker.lives
    await until(crew.is_idle)


async def test_a_claim_that_was_lost_is_made_again_and_the_first_has_no_result(rewind: Rewind, crew_in: CrewIn) -> None:
    crew: workshop.Crew = await crew_in(rewind.store, {"a": "Gate"}, url=rewind.url, lease_seconds=3)
    worker = await crew.worker(concurrency=1)
    await crew.submit("first", "a")
    await crew.started("first")
    await crew.submit("t", "a")
    await rewind.remember()
    crew.open("first")
    await crew.started("t")
    await rewind.fail_over()
    await asyncio.sleep(0.5)
    crew.open()
    first, t = await crew.results(["first", "t"], timeout=180)
    assert first.success
    assert t.success
    assert await crew.ends() == {("t", "completed"): 1, ("first", "completed"): 1}
    assert worker.lives
    await until(crew.is_idle)


async def test_a_worker_that_came_since_goes_on(rewind: Rewind, crew_in: CrewIn) -> None:
    crew: workshop.Crew = await crew_in(rewind.store, {"a": "Gate"}, url=rewind.url, lease_seconds=3)
    await crew.submit("t", "a")
    await rewind.remember()
    worker = await crew.worker()
    await crew.started("t")
    await rewind.fail_over()
    crew.open()
    assert (await crew.result("t", timeout=180)).success
    assert worker.lives
    await until(crew.is_idle)
    with pytest.raises(redis.RedisError):
        rewind.old.ask("PING")
