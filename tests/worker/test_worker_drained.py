"""A drained worker leaves work that waits to others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from workshop import Make, shift_of

from waiting import until
from watchbill.store import control, definitions, workers
from watchbill.store.queue import Claimed, Queue


async def test_a_worker_that_drains_makes_no_claim_though_it_has_room_and_there_is_work(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)
    async with crew.in_process(concurrency=2) as worker:
        await crew.submit("t1", "a")
        await crew.started("t1")
        incarnation, bell = worker._state.incarnation, shift_of(worker)._bell
        await until(crew.is_heard, what="a worker that listens")
        await control.drain(crew.redis, crew.keys, crew.uid, incarnation.name.rpartition(".")[0], on=True)
        await until(lambda: worker._state.draining, what="the drain")
        claims = incarnation.number
        await crew.submit("t2", "a")
        await until(lambda: not bell.is_waiting or incarnation.number > claims, what="the bell that t2 rings")
        crew.open("t1")
        await crew.result("t1")  # a turn of the loop after that bell has sent it
        assert incarnation.number == claims
        assert await crew.waits(1)


async def test_a_worker_that_scaling_drains_ends_what_it_runs_and_is_then_known_to_be_empty(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)

    async def seen() -> workers.Worker:
        (found,) = (await workers.workers(crew.redis, crew.keys, crew.uid)).of_crew
        return found

    async def told() -> bool:
        return (await seen()).revision == "abcd1234"

    async with crew.in_process(concurrency=2, revision="abcd1234") as worker:
        await crew.submit("t1", "a")
        await crew.started("t1")
        await until(told, what="the revision")
        name = (await seen()).name
        assert 0 < (await seen()).since_ms <= int((await crew.redis.time())[0]) * 1000 + 1000
        assert await control.drain_for_scaling(crew.redis, crew.keys, crew.uid, [name], on=True) == 1
        await until(lambda: worker._state.draining, what="the drain")
        assert ((await seen()).holds, worker.drained) == (1, False), "ready while it is busy"
        crew.open("t1")
        await crew.result("t1")
        await until(lambda: worker.drained, what="not ready any more")
        assert (await seen()).holds == 0
        await crew.submit("t2", "a")
        assert await control.drain_for_scaling(crew.redis, crew.keys, crew.uid, [name], on=False) == 1
        await crew.started("t2")
        assert not worker.drained
        crew.open("t2")


async def test_a_worker_that_asks_for_a_large_task_is_not_drained(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its payload doesn't come with the claim."""
    crew, really, seen = await make_crew({"a": "Brief"}), Queue.start, []
    async with crew.in_process() as worker:

        async def start(queue: Queue, incarnation: str, tasks: Sequence[Claimed]) -> Any:
            worker._state.draining = True
            seen.append(worker.drained)
            worker._state.draining = False
            return await really(queue, incarnation, tasks)

        monkeypatch.setattr(Queue, "start", start)
        await crew.submit("large", "a", "0" + " " * 100_000)
        assert (await crew.result("large")).success
    assert seen == [False]


async def test_a_worker_that_ends_what_the_store_has_lost_is_not_empty_though_it_drains(
    make_crew: Make, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    crew = await make_crew({"a": "Gate"}, url=(await private_redis()).url, lease_seconds=1)

    async def holds() -> int | None:
        found = (await workers.workers(crew.redis, crew.keys, crew.uid)).of_crew
        return found[0].holds if found and found[0].revision == "abcd1234" else None

    async def holds_one() -> bool:
        return await holds() == 1

    async def is_empty() -> bool:
        return await holds() == 0

    async with crew.in_process(concurrency=2, revision="abcd1234") as worker:
        await crew.submit("t1", "a")
        await crew.started("t1")
        await crew.redis.flushall()
        await definitions.apply(crew.redis, crew.keys, crew.definition, uid=crew.uid)
        await until(lambda: worker._state.unrecovered, what="the loss is noticed")
        await until(holds_one, what="the store hears what the worker still runs")
        (name,) = [one.name for one in (await workers.workers(crew.redis, crew.keys, crew.uid)).of_crew]
        assert await control.drain_for_scaling(crew.redis, crew.keys, crew.uid, [name], on=True) == 1
        await until(lambda: worker._state.draining, what="the drain")
        assert (await holds(), worker.drained) == (1, False)
        crew.open("t1")
        await until(lambda: worker.drained, what="not ready any more")
        await until(is_empty, what="the store hears that it is empty")
