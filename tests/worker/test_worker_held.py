"""Workers hold a batch beside what they run, while tasks are brief: nobody waits for it, and nothing is lost of it."""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import suppress
from typing import Any

import pytest
import redis
from driver import only_rung
from prometheus_client import REGISTRY
from workshop import Crew, Make

from waiting import until
from watchbill import metrics
from watchbill.agents.context import Context
from watchbill.errors import Fenced
from watchbill.store.queue import Queue
from watchbill.tasks import AgentTask
from watchbill.worker import jobs
from watchbill.worker.execution.attempt import Attempt


def tasks_of(agent: str, *names: str) -> list[AgentTask]:
    return [AgentTask(task_id=name, agent_name=agent, prompt="do it") for name in names]


async def under_load(crew: Crew, number: signal.Signals) -> list[str]:
    """Submits thousands of brief tasks, and one among them that sends its worker a signal. Returns their names."""
    names = [f"t{i}" for i in range(3000)]
    signals = [AgentTask(task_id="signals", agent_name="signals", prompt=number.name)]
    tasks = tasks_of("brief", *names)
    await crew.client.submit_many(crew.name, None, [*tasks[:310], *signals, *tasks[310:]])
    return [*names, "signals"]


async def test_what_is_held_behind_a_task_that_takes_long_is_another_workers_within_milliseconds(
    make_crew: Make,
) -> None:
    crew = await make_crew({"brief": "Brief", "gate": "Gate"}, lease_seconds=3600, concurrency=2)
    await crew.client.submit_many(crew.name, "brief", tasks_of("brief", *(f"b{i}" for i in range(60))))
    gates = [f"g{i}" for i in range(4)]
    await crew.client.submit_many(crew.name, "gate", tasks_of("gate", *gates))
    one = await crew.worker()
    two = await crew.worker()
    await crew.started(*gates)
    assert [len(crew.started_by(worker) & set(gates)) for worker in (one, two)] == [2, 2]
    crew.open()
    assert {result.attempt for result in await crew.results(gates)} == {1}
    assert set(crew.executions().values()) == {1}


async def test_a_worker_that_held_a_batch_runs_it_itself_when_nobody_else_does(make_crew: Make) -> None:
    crew = await make_crew({"brief": "Brief", "gate": "Gate"}, lease_seconds=3600, concurrency=2)
    await crew.client.submit_many(crew.name, "brief", tasks_of("brief", *(f"b{i}" for i in range(60))))
    gates = [f"g{i}" for i in range(6)]
    await crew.client.submit_many(crew.name, "gate", tasks_of("gate", *gates))
    await crew.worker()
    await crew.started(*gates[:2])

    async def all_else_waits() -> bool:
        figures = await crew.client.figures(crew.name)
        return (figures.waiting, figures.running) == (4, 2)

    await until(all_else_waits, what="the return of what was held")
    crew.open()
    assert {result.attempt for result in await crew.results(gates)} == {1}
    assert set(crew.executions().values()) == {1}


async def test_sigterm_under_load_returns_what_is_held_and_everything_is_done_once(make_crew: Make) -> None:
    crew = await make_crew({"brief": "Brief", "signals": "SignalsOnce"}, lease_seconds=3600, concurrency=5)
    names = await under_load(crew, signal.SIGTERM)
    leaving = await crew.worker(doomed=True)
    assert await leaving.ended() == 0, leaving.log
    assert 300 < len(crew.notes("end")) < 3000
    await crew.worker()
    await until(crew.is_idle)  # the lease has an hour: nothing waited for it
    assert crew.executions() == dict.fromkeys(names, 1)
    assert await crew.ends() == dict.fromkeys(((name, "completed") for name in names), 1)


async def test_a_kill_counts_against_no_task_that_was_only_held(make_crew: Make) -> None:
    crew = await make_crew({"brief": "Brief", "signals": "SignalsOnce"}, lease_seconds=1, concurrency=5)
    names = await under_load(crew, signal.SIGKILL)
    killed = await crew.worker(doomed=True)
    assert await killed.ended() == -signal.SIGKILL, killed.log
    assert 300 <= len(crew.notes("end")) < 3000
    await crew.worker()
    await until(crew.is_idle)
    again = {name for name, times in crew.executions().items() if times > 1}
    counted = {name for name in names if await crew.redis.hget(crew.keys.task(name), "attempt") != "1"}
    assert again <= counted, "what ran twice was begun twice"
    assert len(counted) <= 5, "no more than it had slots for"
    assert await crew.ends() == dict.fromkeys(((name, "completed") for name in names), 1)


async def test_a_lone_task_waits_for_no_batch_to_fill(make_crew: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its worker nor who waits for it looks by himself: both are told."""
    monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 3600.0)
    crew = await make_crew({"brief": "Brief"}, concurrency=10)
    await crew.worker(only_rung=True)
    await crew.client.submit_many(crew.name, "brief", tasks_of("brief", *(f"b{i}" for i in range(100))))
    await until(crew.is_idle)
    for i in range(20):
        assert (await crew.client.run(crew.name, "do it", agent="brief", timeout=180)).success
        await asyncio.sleep(i % 2 / 100)


async def test_results_do_not_wait_for_a_call_that_is_on_its_way(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = await make_crew({"brief": "Brief"}, concurrency=10)
    names = list[str]()
    another, in_time = asyncio.Event(), list[bool]()
    really = Queue.finish

    async def finish(queue: Queue, incarnation: str, finished: Any, **rest: Any) -> Any:
        holds = not in_time and len(rest.get("begun", ())) > 0
        if holds:
            another.clear()
        answer = await really(queue, incarnation, finished, **rest)
        if holds:
            with suppress(TimeoutError):  # its answer comes only after a later call's
                await asyncio.wait_for(another.wait(), 180)
            in_time.append(another.is_set())
        another.set()
        return answer

    monkeypatch.setattr(Queue, "finish", finish)
    async with crew.in_process(concurrency=10):
        while not in_time and len(names) < 10_000:  # a slow machine may make no such call for a while
            some = [f"b{len(names) + i}" for i in range(500)]
            await crew.client.submit_many(crew.name, "brief", tasks_of("brief", *some))
            names += some
            await until(crew.is_idle)
    assert in_time == [True]
    assert crew.executions() == dict.fromkeys(names, 1)
    assert await crew.ends() == dict.fromkeys(((name, "completed") for name in names), 1)


async def test_results_that_could_not_be_sent_beside_a_call_are_sent_with_the_next(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = await make_crew({"brief": "Brief"}, concurrency=10)
    names = [f"b{i}" for i in range(500)]
    await crew.client.submit_many(crew.name, "brief", tasks_of("brief", *names))
    really, refused = Queue.finish, 0

    async def finish(queue: Queue, incarnation: str, finished: Any, **rest: Any) -> Any:
        nonlocal refused
        if not rest:
            refused += 1
            raise redis.exceptions.ResponseError("not this way")
        return await really(queue, incarnation, finished, **rest)

    monkeypatch.setattr(Queue, "finish", finish)
    async with crew.in_process(concurrency=10):
        await until(crew.is_idle)
    assert refused
    assert await crew.ends() == dict.fromkeys(((name, "completed") for name in names), 1)


async def test_what_a_task_needed_is_freed_as_it_ends_and_not_when_python_looks_for_garbage(make_crew: Make) -> None:
    crew = await make_crew({"brief": "Brief"}, concurrency=10)
    await crew.client.submit_many(crew.name, "brief", tasks_of("brief", *(f"b{i}" for i in range(200))))
    gc.collect()
    gc.disable()
    try:
        async with crew.in_process(concurrency=10):
            await until(crew.is_idle)
            found = [thing for thing in gc.get_objects() if isinstance(thing, Attempt | Context)]
    finally:
        gc.enable()
    contexts = [thing.context if isinstance(thing, Attempt) else thing for thing in found]
    assert sum(context.crew == crew.name for context in contexts) < 5  # threads of other tests may hold theirs


async def test_results_sent_one_by_one_are_not_also_sent_beside(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BRIEF_SECONDS", 60.0)  # so that batches are held, however slow the machine is
    crew = await make_crew({"brief": "Brief"}, concurrency=10)
    names = [f"b{i}" for i in range(100)]
    await crew.client.submit_many(crew.name, "brief", tasks_of("brief", *names))
    really, refused, twice = Queue.finish, False, list[str]()
    under_way: set[str] = set()

    async def finish(queue: Queue, incarnation: str, finished: Any, **rest: Any) -> Any:
        nonlocal refused
        if rest.get("begun") and finished and not refused:
            refused = True
            rest["sent"]()
            raise redis.exceptions.ResponseError("not this way")
        ids = {f.task.id for f in finished}
        twice.extend(under_way & ids)
        under_way.update(ids)
        try:
            await asyncio.sleep(0.02)
            return await really(queue, incarnation, finished, **rest)
        finally:
            under_way.difference_update(ids)

    monkeypatch.setattr(Queue, "finish", finish)
    async with crew.in_process(concurrency=10):
        await until(lambda: refused)
        await until(crew.is_idle)
    assert not twice
    assert await crew.ends() == dict.fromkeys(((name, "completed") for name in names), 1)


async def test_what_was_handed_over_beside_the_last_call_is_counted_while_the_worker_is_idle(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = await make_crew({"brief": "Brief"}, concurrency=10)
    really, last = Queue.finish, asyncio.Event()

    async def finish(queue: Queue, incarnation: str, finished: Any, **rest: Any) -> Any:
        answer = await really(queue, incarnation, finished, **rest)
        if rest.get("begun"):  # what it begins has ended before it is answered
            with suppress(TimeoutError):
                await asyncio.wait_for(last.wait(), 2)
        elif finished and not rest:
            last.set()
            await asyncio.sleep(0.1)
        return answer

    def shown(metric: str, **labels: str) -> float:
        namespace, name = metrics.of_crew(crew.name)
        return REGISTRY.get_sample_value(metric, {"namespace": namespace, "crew": name, **labels}) or 0.0

    only_rung(monkeypatch.setattr)
    monkeypatch.setattr(Queue, "finish", finish)
    async with crew.in_process(concurrency=10):
        await crew.client.submit_many(crew.name, "brief", tasks_of("brief", *(f"b{i}" for i in range(30))))
        await until(crew.is_idle)
        assert last.is_set(), "nothing was sent beside a call"
        done = {"agent": "brief", "outcome": "completed"}
        await until(lambda: shown("watchbill_tasks_total", **done) == 30, what="that all are counted")
        await until(lambda: shown("watchbill_task_run_seconds_count", agent="brief") == 30, what="that all are timed")
        await until(lambda: shown("watchbill_worker_tasks_running") == 0, what="that none is shown as running")


async def test_a_life_that_several_learn_the_end_of_is_followed_by_one(make_crew: Make) -> None:
    crew = await make_crew({"brief": "Brief"}, lease_seconds=3600)
    async with crew.in_process() as worker:
        await until(lambda: worker._shift is not None and worker._shift._bell.is_waiting, what="an idle worker")
        old = worker._state.incarnation.name
        while worker._state.incarnation.name == old:
            worker._state.end_incarnation(old, Fenced("taken for dead"))
            await asyncio.sleep(0)
        new = worker._state.incarnation.name
        await crew.submit("t1", "brief")
        assert (await crew.result("t1")).success
        assert worker._state.incarnation.name == new
