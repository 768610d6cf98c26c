"""A worker keeps what its crew's work has left behind within bounds, whatever else it does."""

from __future__ import annotations

import asyncio
import logging

import pytest
import redis
from workshop import Crew, Make

from waiting import until
from watchbill.records import TaskPolicy
from watchbill.store import definitions
from watchbill.store import retention as stored
from watchbill.testing import FakeClock
from watchbill.worker import retention


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "TRIM_SECONDS", 0.05)
    monkeypatch.setattr(retention, "TRIM_AGAIN_SECONDS", 0.05)


async def test_a_worker_that_ends_nothing_trims_seldom(make_crew: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[float] = []
    trim = stored.trim

    async def counted(*given: object) -> int:
        trims.append(clock.monotonic())
        return await trim(*given)  # type: ignore[arg-type]

    async def passes(seconds: float) -> None:
        clock.advance(seconds)
        for _ in range(20):
            await asyncio.sleep(0)

    monkeypatch.setattr(stored, "trim", counted)
    crew = await make_crew({"a": "Brief"}, lease_seconds=3600)
    clock = FakeClock()
    async with crew.in_process(clock=clock):
        await until(lambda: trims, what="the first trim")
        await _done(crew, "t1")
        await until(lambda: clock.advance(1) and len(trims) == 2, what="a trim after an end")
        last = trims[-1]
        while clock.monotonic() < last + retention.TRIM_IDLE_SECONDS - 3:
            await passes(2)
        assert len(trims) == 2
        await until(lambda: clock.advance(1) and len(trims) > 2, what="a trim all the same")
        assert trims[2] >= last + retention.TRIM_IDLE_SECONDS


async def _done(crew: Crew, *task_ids: str) -> None:
    for task_id in task_ids:
        await crew.submit(task_id, "a")
    for task_id in task_ids:
        await crew.started(task_id)
    await until(crew.is_idle, what="the end of all")


async def _keeps(crew: Crew, number: int) -> None:
    """So many records, ids and results are left; no fewer, either."""

    async def left() -> set[int]:
        records = len(await crew.redis.keys(crew.keys.task("*")))
        return {records, await crew.redis.zcard(crew.keys.ids), await crew.redis.xlen(crew.keys.results)}

    async def kept() -> bool:
        return await left() == {number}

    await until(kept, what=f"a store with {number} records")
    current = await definitions.current(crew.redis, crew.keys)
    assert await stored.trim(crew.redis, crew.keys, crew.uid, current) == 0, "another look would take more"
    assert await left() == {number}


async def test_finished_tasks_are_kept_up_to_the_crews_bound_as_it_is_by_now(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"}, tasks={"max_results": 7})
    async with crew.in_process():
        await _done(crew, *(f"t{i}" for i in range(20)))
        await _keeps(crew, 7)
        policy = crew.definition.tasks
        for number in (3, 12):
            tasks = TaskPolicy(**{**policy.model_dump(), "max_results": number})
            await definitions.apply(crew.redis, crew.keys, crew.definition.model_copy(update={"tasks": tasks}))
            await _done(crew, *(f"{number}-{i}" for i in range(15)))
            await _keeps(crew, number)


async def test_a_worker_that_can_not_do_it_says_so_works_on_and_does_it_once_it_can(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    crew = await make_crew({"a": "Brief"}, tasks={"max_results": 2})
    keep = stored.trim

    async def fails(*_: object) -> int:
        raise redis.exceptions.ResponseError("no")

    monkeypatch.setattr(stored, "trim", fails)
    with caplog.at_level(logging.WARNING, "watchbill.worker"):
        async with crew.in_process():
            await _done(crew, "t1", "t2", "t3", "t4")
            await until(lambda: "can't trim finished tasks to their bounds: no" in caplog.text)
            assert await crew.redis.zcard(crew.keys.ids) == 4
            monkeypatch.setattr(stored, "trim", keep)
            await _keeps(crew, 2)


async def test_after_a_loss_of_the_store_it_goes_on(make_crew: Make, caplog: pytest.LogCaptureFixture) -> None:
    crew = await make_crew({"a": "Brief"}, tasks={"max_results": 3}, lease_seconds=1)
    async with crew.in_process():
        await _done(crew, *(f"t{i}" for i in range(5)))
        await _keeps(crew, 3)
        await crew.redis.delete(*await crew.redis.keys(crew.keys.prefix + "*"))
        await until(lambda: "the store has lost it" in caplog.text, what="that it notices")
        await definitions.apply(crew.redis, crew.keys, crew.definition, uid=crew.uid)
        await _done(crew, *(f"u{i}" for i in range(6)))
        await _keeps(crew, 3)
