"""The store's clock goes back while work is under way, or is behind that of the server whose place it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
import workshop
from bench.clock import MISSING, Clock, library

from waiting import until
from watchbill import connection
from watchbill.controller.memory import CrewMemory
from watchbill.controller.stored import Stored
from watchbill.names import CrewKeys
from watchbill.store import control, definitions
from watchbill.store.queue import Claimed, Finished, Outcome, Queue
from watchbill.tasks import TaskResult

HOUR = 3600
LEASE = 1
SLACK = 60
"""Seconds that a busy machine may take over anything: little beside an hour."""

Fresh = Callable[..., servers.Store]
CrewIn = Callable[..., Any]


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """Of a store; an hour ahead at first."""
    if library() is None:
        pytest.skip(MISSING)
    return Clock(tmp_path, HOUR)


@pytest.mark.parametrize("before", ["the workers start", "one dies"])
async def test_a_dead_workers_task_is_taken_over_in_time_though_the_clock_goes_back(
    fresh_store: Fresh, crew_in: CrewIn, clock: Clock, before: str
) -> None:
    """Neither lasts a lease longer, nor a pause between attempts."""
    store = fresh_store("valkey-standalone", environment=clock.environment)
    crew = await crew_in(store, {"a": "Gate", "busy": "Shaky"}, lease_seconds=LEASE)
    if before == "the workers start":
        await moved(crew, clock, -2 * HOUR)
    victim = await crew.worker(concurrency=1)
    await crew.submit("t", "a")
    await crew.started("t")
    heir = await crew.worker()
    if before == "one dies":
        await crew.submit("again", "busy", "busy:1")
        await until(lambda: _is_delayed(crew, "again"))
        await moved(crew, clock, -2 * HOUR)
    killed = victim.kill()
    await until(lambda: crew.executions()["t"] >= 2, LEASE + 2 + SLACK)
    assert time.monotonic() - killed < LEASE + 2 + SLACK
    crew.open()
    assert (await crew.result("t")).success
    if before == "one dies":
        assert (await crew.result("again", SLACK)).success
    await heir.drain()


async def no_crew(_: object) -> None:
    """The API server has no crew."""


class NoHeartbeats:
    """A scheduler for crews without heartbeats."""

    async def add(self, *_: Any, **__: Any) -> None: ...
    async def follow(self, *_: Any, **__: Any) -> None: ...

    def fires(self, *_: Any) -> bool:
        return False

    async def remove(self, *_: Any) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


async def test_an_attempt_waits_no_longer_without_workers_where_the_operator_looks(
    fresh_store: Fresh, crew_in: CrewIn, clock: Clock
) -> None:
    store = fresh_store("valkey-standalone", environment=clock.environment)
    crew = await crew_in(store, {"a": "Gate"})
    stored, memory = Stored(crew.redis, NoHeartbeats(), "me", no_crew), CrewMemory()

    async def due_in() -> float:
        seen = {"metadata": {"uid": crew.uid, "generation": 1}, "status": {"waiting": 0}}
        synced = await stored.sync(_key(crew.keys), seen, crew.definition, [], memory)
        assert synced is not None
        assert synced.load.due_in is not None
        return synced.load.due_in

    await crew.submit("t", "a")
    holder = Holder(crew, "one.1")
    await holder.end(await holder.take(), "retry", ttl_ms=600_000)
    await holder.queue.leave(holder.name)
    assert 600 - SLACK < await due_in() <= 600
    await moved(crew, clock, -HOUR)
    assert 600 - SLACK < await due_in() <= 601, "it came forward by the hour"


def _key(keys: CrewKeys) -> tuple[str, str]:
    namespace, _, name = keys.crew.partition("/")
    return namespace, name


async def _is_delayed(crew: workshop.Crew, task: str) -> bool:
    return await crew.redis.hget(crew.keys.task(task), "state") == "delayed"


async def moved(crew: workshop.Crew, clock: Clock, seconds: float) -> None:
    """The store's clock, by so much."""
    clock.move(seconds)

    async def is_there() -> bool:
        return abs((await crew.redis.time())[0] - time.time() - clock.ahead) < HOUR / 2

    await until(is_there, what="the other time")


async def test_what_is_due_at_a_time_stays_due_then_and_leases_of_others_are_no_shorter(
    fresh_store: Fresh, crew_in: CrewIn, clock: Clock
) -> None:
    store = fresh_store("valkey-standalone", environment=clock.environment)
    crew = await crew_in(store, {"a": "Gate"})
    due = datetime.now(UTC) + timedelta(seconds=clock.ahead + HOUR)
    await crew.submit("later", "a", scheduled_at=due)
    queue = crew.queue
    await queue.claim("long.1", 1, 0, lease_ms=600_000, take_over=True)
    await queue.claim("short.1", 1, 0, lease_ms=5_000, take_over=True)
    with connection.connect_sync(crew.url) as client:
        queue.renew(client, "short.1", 5_000, "{}")
        await moved(crew, clock, -HOUR)
        queue.renew(client, "short.1", 5_000, "{}")
        leases = dict(await crew.redis.zrange(crew.keys.leases, 0, -1, withscores=True))
        now = (await crew.redis.time())[0] * 1000
        assert 600_000 - SLACK * 1000 < leases["long.1"] - now <= 601_000
        assert leases["short.1"] - now <= 6_000
    ((_, score),) = await crew.redis.zrange(crew.keys.delayed, 0, -1, withscores=True)
    assert abs(score / 1000 - due.timestamp()) < 1


class Holder:
    """Takes a task as an incarnation does, and ends it."""

    def __init__(self, crew: workshop.Crew, name: str) -> None:
        self.crew, self.queue, self.name, self.number = crew, Queue(crew.redis, crew.keys, crew.uid), name, 0

    async def take(self, lease_ms: int = 60_000) -> Claimed:
        self.number += 1
        (task,) = (await self.queue.claim(self.name, self.number, 1, lease_ms=lease_ms, take_over=True)).tasks
        return task

    async def end(self, task: Claimed, outcome: Outcome, **options: Any) -> None:
        result = TaskResult(task_id=task.id, agent_name=task.agent, success=False, error="x").model_dump_json()
        ended = Finished(task, outcome, result, definition=self.crew.definition.digest(), **options)
        assert (await self.queue.finish(self.name, [ended]))[0] == ["applied"]


@pytest.mark.parametrize("kind", ["task", "step"])
async def test_fences_grow_with_every_claim_of_a_task_whatever_the_clock_does(
    fresh_store: Fresh, crew_in: CrewIn, clock: Clock, kind: str
) -> None:
    """Between two claims it was tried again, interrupted, handed back, parked, taken over, or dead; each time the clock
    goes back by an hour."""
    store = fresh_store("valkey-standalone", environment=clock.environment)
    crew = await crew_in(store, {"a": "Gate"})
    await crew.client.submit(crew.name, "x", id="t", agent="a" if kind == "task" else None)
    name = "t" if kind == "task" else "t/a"
    one, other = Holder(crew, "one.1"), Holder(crew, "other.1")
    fences: list[int] = []

    async def claimed(holder: Holder, lease_ms: int = 60_000) -> Claimed:
        task = await holder.take(lease_ms)
        fences.append(int(task.fence))
        assert fences == sorted(set(fences)), "each is greater than the one before"
        await moved(crew, clock, -HOUR)
        return task

    await one.end(await claimed(one), "retry", ttl_ms=0)
    task = await claimed(one)
    await control.interrupt(crew.redis, crew.keys, crew.uid, name, "")
    await one.end(task, "interrupted")
    assert await control.resume(crew.redis, crew.keys, crew.uid, name)
    await one.queue.hand_back(one.name, [await claimed(one)])
    await one.queue.park(one.name, [await claimed(one)], "none here")
    for members in (await one.queue.parked_agents()).values():
        await one.queue.unpark(members)
    await claimed(one)
    await one.queue.declare_dead([one.name])
    await other.end(await claimed(other), "dead")
    (replayed,) = await crew.client.replay(crew.name, name)
    assert replayed.outcome == "replayed"
    await claimed(other)
    assert len(fences) == 7


async def test_fences_grow_where_another_server_missed_the_last_of_them(
    fresh_store: Fresh, crew_in: CrewIn, clock: Clock
) -> None:
    """As after a failover: it lost the claim, and its clock is behind."""
    store = fresh_store("valkey-standalone", environment=clock.environment)
    crew = await crew_in(store, {"a": "Gate"})
    await crew.submit("t", "a")
    before = {key: await crew.redis.dump(key) for key in await crew.redis.keys(crew.keys.prefix + "*")}
    holder = Holder(crew, "one.1")
    first = await holder.take()
    await crew.redis.flushall()
    for key, value in before.items():
        await crew.redis.restore(key, 0, value)
    await moved(crew, clock, -HOUR)
    holder.name, holder.number = "two.1", 0
    assert int((await holder.take()).fence) > int(first.fence)


async def test_what_a_store_lost_is_written_though_its_clock_is_behind_since(
    fresh_store: Fresh, crew_in: CrewIn, clock: Clock
) -> None:
    store = fresh_store("valkey-standalone", environment=clock.environment)
    crew = await crew_in(store, {"a": "Gate"})
    worker = await crew.worker()
    await crew.submit("t", "a")
    await crew.started("t")
    clock.move(-HOUR)
    await crew.redis.flushall()
    await definitions.apply(crew.redis, crew.keys, crew.definition, uid=crew.uid, was_there=True)
    crew.open()
    assert await until(lambda: crew.redis.hget(crew.keys.task("t"), "recovered"), what="the result") == "1"
    await worker.drain()
