"""A store that loses all it had, and has the crew brought back by whoever manages it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from workshop import AGENTS, Crew, Make, shift_of

from waiting import until
from watchbill import connection
from watchbill.agents.loading import AgentLoader
from watchbill.errors import CrewGone
from watchbill.records import ExecutionMode
from watchbill.store import definitions
from watchbill.store.queue import Queue
from watchbill.worker import store_loss
from watchbill.worker.worker import Worker

PrivateRedis = Callable[[], Awaitable[Any]]


async def _bring_back(crew: Crew) -> None:
    await definitions.apply(crew.redis, crew.keys, crew.definition, uid=crew.uid)


async def test_what_ran_when_the_store_was_flushed_is_written_when_the_crew_is_back(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    crew = await make_crew({"a": "Gate", "b": "Brief"}, url=(await private_redis()).url, lease_seconds=1)
    async with crew.in_process(concurrency=2) as worker:
        for task_id in ("early", "late", "lost"):
            await crew.submit(task_id, "a")
        await crew.started("early", "late")
        await crew.redis.flushall()
        crew.open("early")
        await until(lambda: {line["task"] for line in crew.notes("end")} == {"early"})
        await until(lambda: worker._state.incarnation.finished, what="a result in hand")
        await _bring_back(crew)
        result: Any = await until(lambda: _result(crew, "early"), what="the result")
        assert (result.success, result.output) == (True, "a: do it")
        assert await crew.redis.hget(crew.keys.task("early"), "recovered") == "1"
        await crew.submit("new", "b", "0")
        assert (await crew.result("new")).success
        assert shift_of(worker)._slots.capacity == 1, "what still runs holds its slot"
        crew.open("late")
        await until(lambda: _result(crew, "late"), what="the late result")
        await until(lambda: shift_of(worker)._slots.capacity == 2)
        assert not crew.notes("cancelled")
        assert set(crew.executions()) == {"early", "late", "new"}
        assert await crew.ends() == Counter(
            {("early", "completed"): 1, ("late", "completed"): 1, ("new", "completed"): 1}
        )
    told = [e.message for e in await crew.events() if e.task_id == "early"]
    assert told == ["recovered: the store had lost it"]


async def _losses(crew: Crew) -> int:
    """How often the feed tells that the store has lost all."""
    told = [e for e in await crew.events() if e.message.startswith("the store lost all it had of this crew")]
    assert {e.event_type for e in told} <= {"mission_event"}
    return len(told)


async def test_each_loss_is_told_once_on_the_feed_by_however_many_workers(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    crew = await make_crew({"a": "Brief"}, url=(await private_redis()).url, lease_seconds=1)
    async with crew.in_process() as one, crew.in_process() as two, crew.in_process() as three:
        for number in (1, 2):
            # A busy machine may cost one of them its lease and its name at any time.
            before = await until(lambda: _known(crew, one, two, three), what="three workers")
            await crew.redis.flushall()
            assert await _losses(crew) == 0
            await _bring_back(crew)
            await until(
                lambda b=before: not b & _names(one, two, three),  # type: ignore[misc]
                what="new lives",
            )
            await crew.submit(f"t{number}", "a", "0")
            assert (await crew.result(f"t{number}")).success
            assert await _losses(crew) == 1
        await definitions.record_loss(crew.redis, crew.keys, crew.uid, "1")  # one more, late
        assert await _losses(crew) == 1


def _names(*workers: Worker) -> set[str]:
    return {worker._state.incarnation.name for worker in workers}


async def _known(crew: Crew, *workers: Worker) -> set[str]:
    """Their incarnations, where the store knows all of them."""
    names = _names(*workers)
    return names if names <= await crew.incarnations() else set()


async def test_a_worker_whom_alone_the_store_forgot_tells_of_no_loss(make_crew: Make) -> None:
    """As after a failover that lost what the worker wrote last."""
    crew = await make_crew({"a": "Brief"}, lease_seconds=1)
    async with crew.in_process() as worker:
        before = worker._state.incarnation.name
        await until(lambda: _known(crew, worker), what="its lease")
        await crew.submit("kept", "a", "0")
        assert (await crew.result("kept")).success
        await crew.redis.hdel(crew.keys.claims, before)
        await until(lambda: worker._state.incarnation.name != before, what="a new life")
        await crew.submit("new", "a", "0")
        assert (await crew.result("new")).success
    assert await _losses(crew) == 0


async def test_what_runs_outlives_a_second_loss_too(make_crew: Make, private_redis: PrivateRedis) -> None:
    crew = await make_crew({"a": "Gate"}, url=(await private_redis()).url, lease_seconds=1)
    async with crew.in_process(concurrency=3) as worker:
        for task_id in ("first", "second"):
            await crew.submit(task_id, "a")
            await crew.started(task_id)
            await crew.redis.flushall()
            await _bring_back(crew)
            await until(lambda: worker.running == 0, what="a new life")
        assert shift_of(worker)._slots.capacity == 1, "what still runs of both lives holds its slot"
        crew.open()
        for task_id in ("first", "second"):
            await until(lambda t=task_id: _result(crew, t), what=f"the result of {task_id}")  # type: ignore[misc]
        await until(lambda: shift_of(worker)._slots.capacity == 3)
    assert await crew.ends() == Counter({("first", "completed"): 1, ("second", "completed"): 1})


async def test_what_runs_outlives_a_second_loss_in_the_moment_when_the_crew_is_back(
    make_crew: Make, private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = await make_crew({"a": "Gate"}, url=(await private_redis()).url, lease_seconds=1)
    really, old, lost = Queue.enter, "", asyncio.Event()

    async def enter(queue: Queue, incarnation: str, *args: Any, **options: Any) -> Any:
        if old and incarnation != old and not lost.is_set():
            await crew.redis.flushall()
            lost.set()
        return await really(queue, incarnation, *args, **options)

    monkeypatch.setattr(Queue, "enter", enter)
    async with crew.in_process() as worker:
        await crew.submit("t1", "a")
        await crew.started("t1")
        old = worker._state.incarnation.name
        await crew.redis.flushall()
        await _bring_back(crew)
        await asyncio.wait_for(lost.wait(), 180)
        await _bring_back(crew)
        crew.open()
        result = await until(lambda: _result(crew, "t1"), what="the result")
        assert result.success
        assert await _losses(crew) == 1
    assert crew.executions() == Counter({"t1": 1})


async def _result(crew: Crew, task_id: str) -> Any:
    if await crew.redis.exists(crew.keys.task(task_id)):
        return await crew.client.result(crew.name, task_id)
    return None


async def test_a_step_whose_run_is_lost_is_on_the_results_and_whoever_submits_anew_is_served_anew(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    crew = await make_crew({"a": "Gate"}, url=(await private_redis()).url, mode=ExecutionMode.PARALLEL, lease_seconds=1)
    async with crew.in_process():
        await crew.submit("r1")
        await crew.submit("t1", "a")
        await crew.started("r1/a", "t1")
        await crew.redis.flushall()
        await _bring_back(crew)
        await crew.submit("t1", "a")
        await until(lambda: crew.executions()["t1"] == 2)
        crew.open()
        await until(lambda: _has_ended(crew, "r1/a"))
        assert (await crew.result("t1")).success
        assert await crew.redis.hget(crew.keys.task("t1"), "recovered") is None
    assert await crew.ends() == Counter({("r1/a", "completed"): 1, ("t1", "completed"): 1})


async def _has_ended(crew: Crew, task_id: str) -> bool:
    return (task_id, "completed") in await crew.ends()


async def _given_up(crew: Crew, disturb: Callable[[], Awaitable[Any]]) -> None:
    """A worker that is disturbed while it runs a task ends the agent and itself."""
    async with connection.Store(crew.url) as store:
        working = asyncio.create_task(Worker(store, crew.keys, AgentLoader([AGENTS])).run())
        await crew.submit("t1", "a")
        await crew.started("t1")
        await disturb()
        with pytest.raises(CrewGone):
            await asyncio.wait_for(working, 180)
        assert crew.notes("cancelled")


async def test_a_crew_that_was_deleted_is_not_waited_for(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)
    await _given_up(crew, lambda: definitions.delete(crew.redis, crew.keys, crew.uid))
    assert await crew.redis.keys(crew.keys.prefix + "*") == []


async def test_a_crew_that_does_not_come_back_is_given_up(
    make_crew: Make, private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_loss, "OUTLAST_SECONDS", 0.5)
    crew = await make_crew({"a": "Gate"}, url=(await private_redis()).url, lease_seconds=1)
    await _given_up(crew, crew.redis.flushall)


async def test_another_crew_of_that_name_is_not_written_to(make_crew: Make, private_redis: PrivateRedis) -> None:
    crew = await make_crew({"a": "Gate"}, url=(await private_redis()).url, lease_seconds=1)

    async def replace() -> None:
        await crew.redis.flushall()
        await definitions.apply(crew.redis, crew.keys, crew.definition)

    await _given_up(crew, replace)
    assert await crew.redis.xlen(crew.keys.results) == 0


async def test_what_ends_together_while_the_worker_is_at_work_for_the_crew_that_is_back_is_written_too(
    make_crew: Make, private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = await make_crew({"a": "Gate", "b": "Brief"}, url=(await private_redis()).url, lease_seconds=1)
    names = [f"t{i}" for i in range(10)]
    really, old = Queue.finish, ""

    async def finish(queue: Queue, incarnation: str, finished: Any, **rest: Any) -> Any:
        if old == incarnation:
            await asyncio.sleep(0.2)
        elif old and {f.task.id for f in finished} == {"new"}:
            crew.open()  # they end while the new life's call is on its way
            await until(lambda: len(crew.notes("end")) == 11)
            await asyncio.sleep(0.05)
        return await really(queue, incarnation, finished, **rest)

    monkeypatch.setattr(Queue, "finish", finish)
    async with crew.in_process(concurrency=20) as worker:
        for name in names:
            await crew.submit(name, "a")
        await crew.started(*names)
        await until(lambda: not worker._state.incarnation.unannounced)
        before = worker._state.incarnation
        await crew.redis.flushall()
        await _bring_back(crew)
        await until(lambda: worker._state.unrecovered == [before], what="the new life")
        old = before.name
        await crew.submit("new", "b", "0")
        assert (await crew.result("new")).success
        await until(lambda: not worker._state.unrecovered, what="the end of what ran before")
        assert await crew.ends() == Counter({(name, "completed"): 1 for name in [*names, "new"]})
