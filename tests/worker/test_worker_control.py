"""A worker whose tasks are cancelled, interrupted and resumed, and that is drained and replaced under load."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from typing import Any

import pytest
from workshop import Crew, Make, agent, shift_of

from waiting import until
from watchbill.records import ExecutionMode
from watchbill.store import control
from watchbill.tasks import AgentTask
from watchbill.worker import jobs as module
from watchbill.worker import shift as turns

TTL = 60_000


async def _cancel(crew: Crew, task_id: str, why: str = "enough", *, is_heard: bool = True) -> bool:
    await until(lambda: not is_heard or crew.is_heard(), what="a worker that listens")
    return await control.cancel(crew.redis, crew.keys, crew.uid, task_id, why, TTL)


async def _interrupt(crew: Crew, task_id: str) -> bool:
    await until(crew.is_heard, what="a worker that listens")
    return await control.interrupt(crew.redis, crew.keys, crew.uid, task_id, "later")


async def _resume(crew: Crew, task_id: str) -> bool:
    return await control.resume(crew.redis, crew.keys, crew.uid, task_id)


async def _state(crew: Crew, task_id: str) -> str | None:
    return await crew.redis.hget(crew.keys.task(task_id), "state")


async def _drain(crew: Crew, process: Any, *, on: bool = True) -> None:
    (name,) = await crew.incarnations(process)
    await control.drain(crew.redis, crew.keys, crew.uid, name.rpartition(".")[0], on=on)


async def test_a_running_task_is_cancelled_at_once_and_its_slot_is_free(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate", "b": "Brief"}, lease_seconds=3600)  # no renewal tells it in time
    async with crew.in_process(concurrency=1):
        await until(crew.is_heard, what="a worker that listens")
        await crew.submit("t1", "a")
        await crew.started("t1")
        await crew.redis.publish(crew.keys.control, "nonsense\x1ft1")  # nobody stops listening for that
        assert not await _cancel(crew, "t1")
        result: Any = await crew.result("t1")
        assert (result.success, result.error, result.attempt) == (False, "cancelled: enough", 1)
        assert [line["task"] for line in crew.notes("cancelled")] == ["t1"]
        await crew.submit("t2", "b", "0")
        assert (await crew.result("t2")).success
        assert await _cancel(crew, "t1")
    assert await crew.is_idle()
    assert Counter((await crew.ends()).values()) == {1: 2}


async def test_what_a_stranger_says_on_the_control_channel_stops_nothing(make_crew: Make) -> None:
    """Whoever may publish may say anything; only the store says what is wanted."""
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)
    async with crew.in_process(concurrency=1) as worker:
        name = worker._state.incarnation.name
        await until(crew.is_heard, what="a worker that listens")
        await crew.submit("t1", "a")
        await crew.started("t1")
        for forged in (
            "cancel\x1ft1",
            "interrupt\x1ft1\x1ft2",
            f"gone\x1f{crew.uid}",
            "gone",
            "drain",
            "",
            b"\xff\x1f\xfe",
        ):
            await crew.redis.publish(crew.keys.control, forged)
        await control.drain(crew.redis, crew.keys, crew.uid, name.rpartition(".")[0], on=True)
        await until(lambda: worker._state.draining, what="the last of them was heard")
        crew.open("t1")
        assert (await crew.result("t1")).success
        assert worker._state.incarnation.name == name
    assert crew.notes("cancelled") == []


async def test_a_task_in_a_workers_hands_that_has_not_begun_is_cancelled_without_a_run(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (module, turns):  # so that it holds a batch beside what runs, however long that is
        monkeypatch.setattr(place, "BRIEF_SECONDS", 1e9)
    crew = await make_crew({"a": "Gate"})
    async with crew.in_process(concurrency=1) as worker:
        await crew.submit("t1", "a")
        await crew.started("t1")
        shift_of(worker)._jobs._mean = 0.0
        await crew.submit("t2", "a")
        await crew.submit("t3", "a")
        crew.open("t1")
        await crew.started("t2")
        await until(lambda: [task.id for task in worker._state.incarnation.held] == ["t3"], what="t3 in hand")
        assert not await _cancel(crew, "t3")
        result: Any = await crew.result("t3")
        assert result.error == "cancelled: enough"
        crew.open()
        assert (await crew.result("t2")).success
    assert set(crew.executions()) == {"t1", "t2"}
    assert await crew.is_idle()


@pytest.mark.parametrize("size", [10, 10_000])
async def test_a_worker_that_takes_over_what_was_to_be_cancelled_does_not_run_it(make_crew: Make, size: int) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=1)
    first = await crew.worker()
    await crew.submit("t1", "a", "x" * size)
    await crew.started("t1")
    first.signal(signal.SIGSTOP)
    assert not await _cancel(crew, "t1")
    await crew.worker()
    result: Any = await crew.result("t1")
    assert result.error == "cancelled: enough"
    first.signal(signal.SIGCONT)
    first.kill()
    assert crew.executions() == {"t1": 1}
    assert await until(crew.is_idle)


async def test_what_was_to_be_cancelled_and_has_lost_its_record_is_held_by_nobody(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=1)
    first = await crew.worker()
    await crew.submit("t1", "a", "x" * 10_000)  # too large to travel with its entry: the record alone says what to do
    await crew.started("t1")
    first.signal(signal.SIGSTOP)
    await _cancel(crew, "t1")
    await crew.redis.delete(crew.keys.task("t1"))
    await crew.worker()
    letters = await until(crew.dead, what="a dead letter")
    assert [letter["id"] for letter in letters] == ["t1"]
    assert await until(crew.is_idle)
    assert await crew.redis.exists(crew.keys.wishes) == 0
    first.signal(signal.SIGCONT)
    first.kill()
    assert crew.executions() == {"t1": 1}


async def test_an_agent_that_swallows_its_cancellation_is_given_up(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.3)
    crew = await make_crew({"a": "Stubborn"}, lease_seconds=3600)
    async with crew.in_process():
        await crew.submit("t1", "a")
        await crew.started("t1")
        await _cancel(crew, "t1")
        result: Any = await crew.result("t1")
        assert result.error == "cancelled: enough"
        assert crew.notes("swallowed")
        crew.open()


async def test_what_an_agent_returns_when_it_is_cancelled_counts(make_crew: Make) -> None:
    crew = await make_crew({"a": "Stubborn"}, lease_seconds=3600)
    async with crew.in_process():
        await crew.submit("t1", "a")
        await crew.started("t1")
        crew.open()
        await _cancel(crew, "t1")
        result: Any = await crew.result("t1")
        assert (result.success, result.output) == (True, "at last")


async def test_a_running_task_is_interrupted_and_resumed_with_its_inputs(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "Gate", prompt="read {inputs.log}")], lease_seconds=3600)
    async with crew.in_process(concurrency=1):
        await crew.submit("t1", "a", "it", inputs={"log": "the log"})
        await crew.started("t1")
        assert not await _interrupt(crew, "t1")
        await until(lambda: _is(crew, "t1", "interrupted"), what="the interruption")
        assert crew.notes("cancelled")
        assert await crew.is_idle()
        crew.open()
        assert await _resume(crew, "t1")
        result: Any = await crew.result("t1")
        assert (result.output, result.attempt) == ("a: read the log", 1)
    assert [line["attempt"] for line in crew.notes()] == [1, 1]


async def _is(crew: Crew, task_id: str, state: str) -> bool:
    return await _state(crew, task_id) == state


async def test_a_run_is_cancelled_while_its_steps_run(make_crew: Make) -> None:
    crew = await make_crew(
        {"a": "Gate", "b": "Gate", "c": "Gate"}, mode=ExecutionMode.PARALLEL, max_parallel_tasks=2, lease_seconds=3600
    )
    async with crew.in_process():
        await crew.submit("r1")
        await crew.started("r1/a", "r1/b")
        await _cancel(crew, "r1")
        result: Any = await crew.result("r1")
        assert result.status == "cancelled"
        assert {name: step.error for name, step in result.steps.items()} == dict.fromkeys("ab", "cancelled: enough")
        assert result.skipped == ("c",)
    assert await crew.is_idle()


async def test_a_message_that_is_lost_delays_a_cancellation_by_a_third_of_the_lease_at_most(make_crew: Make) -> None:
    lease = 45  # less than the minute after which a worker listens anew
    crew = await make_crew({"a": "Gate"}, lease_seconds=lease)
    process = await crew.worker()
    await crew.submit("t1", "a")
    await crew.started("t1")
    process.signal(signal.SIGSTOP)  # so that its ear comes back too late
    muted = 0
    for client in await crew.redis.client_list(_type="pubsub"):
        muted += await crew.redis.client_kill_filter(_id=client["id"])
    assert muted
    await _cancel(crew, "t1", is_heard=False)
    process.signal(signal.SIGCONT)
    asked = time.monotonic()
    result: Any = await crew.result("t1")
    assert result.error == "cancelled: enough"
    assert time.monotonic() - asked < lease
    assert process.lives


async def test_a_drained_worker_finishes_claims_nothing_and_says_so_until_it_may_go_on(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)
    async with crew.in_process(concurrency=2) as worker:
        await crew.submit("t1", "a")
        await crew.started("t1")
        name = worker._state.incarnation.name.rpartition(".")[0]
        await until(crew.is_heard, what="a worker that listens")
        await control.drain(crew.redis, crew.keys, crew.uid, name, on=True)
        await until(lambda: worker._state.draining, what="the drain")
        await crew.submit("t2", "a")
        crew.open()
        await crew.result("t1")
        await until(lambda: worker.drained, what="drained")
        assert await crew.waits(1)
        assert set(crew.executions()) == {"t1"}
        assert json.loads(shift_of(worker)._slots.describe())["draining"]
        await control.drain(crew.redis, crew.keys, crew.uid, name, on=False)
        await crew.result("t2")
        assert not worker.drained


async def test_a_worker_with_nothing_to_do_hears_of_a_drain_before_it_claims(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"}, lease_seconds=3600)
    process = await crew.worker()
    await _drain(crew, process)
    await crew.submit("t1", "a", "0")
    with pytest.raises(TimeoutError):
        await crew.result("t1", timeout=0.5)
    assert await crew.waits(1)
    await _drain(crew, process, on=False)
    assert (await crew.result("t1")).success


async def test_a_rolling_restart_under_load_loses_nothing_repeats_nothing_and_waits_for_no_lease(
    make_crew: Make,
) -> None:
    crew = await make_crew({"a": "Brief"}, lease_seconds=3600)
    workers = [await crew.worker(concurrency=5) for _ in range(3)]
    ids = [f"t{i}" for i in range(600)]
    tasks = [AgentTask(task_id=i, agent_name="a", prompt="0.02") for i in ids]
    await crew.client.submit_many(crew.name, "a", tasks)
    await crew.started(*ids[:20])
    for old in workers:
        await crew.worker(concurrency=5)
        old.signal(signal.SIGTERM)
        assert await old.ended() == 0, old.log
    results = await crew.results(ids, timeout=180)
    assert all(result.success for result in results)
    assert set(crew.executions().values()) == {1}, "nothing that had begun was begun again"
    assert await crew.ends() == Counter({(i, "completed"): 1 for i in ids})
    assert await until(crew.is_idle)


async def test_a_store_that_comes_back_is_listened_to_again(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)  # no renewal tells it in time
    async with crew.in_process():
        await crew.submit("t1", "a")
        await crew.started("t1")
        await until(crew.is_heard, what="a worker that listens")
        for client in await crew.redis.client_list(_type="pubsub"):
            await crew.redis.client_kill_filter(_id=client["id"])
        await until(crew.is_heard, what="the subscription")
        await _cancel(crew, "t1")
        await crew.result("t1")
