"""What agents at work ask of a store that loses all it had, before and after it has the crew back: they go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from workshop import Crew, Make, agent

from waiting import until
from watchbill.clock import SYSTEM
from watchbill.errors import Fenced
from watchbill.plan.batches import Group
from watchbill.store import definitions, incarnations
from watchbill.store.packed import Batched
from watchbill.store.queue import Claimed
from watchbill.worker import preload
from watchbill.worker.execution.executor import Executor
from watchbill.worker.incarnation import Incarnation, Job
from watchbill.worker.lane import JobLane
from watchbill.worker.state import WorkerState

PrivateRedis = Callable[[], Awaitable[Any]]


async def _bring_back(crew: Crew) -> None:
    await definitions.apply(crew.redis, crew.keys, crew.definition, uid=crew.uid)


@pytest.mark.parametrize("kind", ["SayingGate", "ThreadGate", "RemembersGate", "StepsGate"])
async def test_an_agent_goes_on_though_what_it_tells_is_lost(
    make_crew: Make, private_redis: PrivateRedis, kind: str
) -> None:
    crew = await make_crew({"a": kind, "b": "Brief"}, url=(await private_redis()).url, lease_seconds=1)
    async with crew.in_process(concurrency=3) as worker:
        for task_id in ("early", "late"):
            await crew.submit(task_id, "a", session_id="s")
        await crew.started("early", "late")
        await crew.redis.flushall()
        crew.open("early")
        await until(lambda: {line["task"] for line in crew.notes("end")} == {"early"})
        await until(lambda: worker._state.incarnation.finished, what="a result in hand")
        await _bring_back(crew)
        await crew.submit("new", "b", "0")
        assert (await crew.result("new")).success
        crew.open("late")
        await until(lambda: not worker._state.unrecovered, what="the end of what ran before")
        for task_id in ("early", "late"):
            result = await crew.result(task_id)
            assert (result.success, result.output) == (True, "a: do it"), result.error
            assert await crew.redis.hget(crew.keys.task(task_id), "recovered") == "1"
        assert crew.executions() == Counter({"early": 1, "late": 1, "new": 1})


@pytest.mark.parametrize(
    ("kind", "why"), [("FailsGate", "attempt 1 failed: OSError: a: do it"), ("PostponesGate", "a: do it")]
)
async def test_what_was_to_go_on_ends_and_says_that_its_task_is_lost(
    make_crew: Make, private_redis: PrivateRedis, kind: str, why: str
) -> None:
    crew = await make_crew({"a": kind}, url=(await private_redis()).url, lease_seconds=1)
    async with crew.in_process(concurrency=2) as worker:
        for task_id in ("early", "late"):
            await crew.submit(task_id, "a")
        await crew.started("early", "late")
        await crew.redis.flushall()
        crew.open("early")
        await until(lambda: worker._state.incarnation.finished, what="an end in hand")
        await _bring_back(crew)
        await until(lambda: crew.redis.exists(crew.keys.task("early")), what="its end")
        crew.open("late")
        await until(lambda: not worker._state.unrecovered)
        for task_id in ("early", "late"):
            result = await crew.result(task_id)
            assert (result.success, result.attempt) == (False, 1)
            assert str(result.error).startswith(f"the store has lost this task, so that it can't go on. {why}")
            assert "the next is in" not in str(result.error)
        assert await crew.ends() == Counter({("early", "dead"): 1, ("late", "dead"): 1})


async def test_an_agent_whose_task_others_have_is_still_told_so() -> None:
    async def fenced() -> None:
        raise Fenced("others have it")

    with pytest.raises(Fenced):
        await WorkerState(0.0, SYSTEM).persist_for_agent(fenced, None)


async def test_a_task_whose_definition_was_lost_before_it_was_read_has_not_failed(
    make_crew: Make, private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = await make_crew({"a": "Brief"}, url=(await private_redis()).url, lease_seconds=1)
    really, reading, lost = Executor.read, asyncio.Event(), asyncio.Event()

    async def read(executor: Executor, task: Claimed) -> Any:
        if task.id == "t":
            reading.set()
            await lost.wait()
        return await really(executor, task)

    monkeypatch.setattr(Executor, "read", read)
    async with crew.in_process() as worker:
        await crew.submit("t", "a", "0")
        await asyncio.wait_for(reading.wait(), 180)
        before = worker._state.incarnation
        await crew.redis.flushall()
        lost.set()
        await until(lambda: not before.jobs)
        await _bring_back(crew)
        await crew.submit("new", "a", "0")
        assert (await crew.result("new")).success
        await until(lambda: not worker._state.unrecovered)
        assert await crew.ends() == Counter({("new", "completed"): 1})


async def test_a_request_that_a_lost_store_takes_for_no_batch_is_made_at_once(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    crew = await make_crew({"a": "Gate"}, url=(await private_redis()).url)
    state, task = WorkerState(0.0, SYSTEM), Claimed("t", "1", 1, "a", "1-0", 9, taken_over=False)
    lane = JobLane(state, crew.queue, Incarnation(incarnations.fresh()), Job(task))
    own = Batched("waiting", "r", "1", "m", 1)
    for back in (False, True):
        await crew.redis.flushall()
        if back:
            await _bring_back(crew)
            state.incarnation.number = 1
        assert not await lane.gather(own, "call", "{}", Group("m", None, "{}", 10), 1)
        await lane.leave(own)


async def test_a_store_that_had_lost_the_crew_hears_again_that_its_agents_can_be_loaded(
    make_crew: Make, private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preload, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(preload, "POLL_SECONDS", 0.05)
    crew = await make_crew([agent("a", "Brief")], url=(await private_redis()).url, lease_seconds=1)
    async with crew.in_process():
        await until(crew.is_checked)
        await crew.redis.flushall()
        await _bring_back(crew)
        await until(crew.is_checked)
