"""The end of a run, and its status."""

from __future__ import annotations

from typing import Any

import pytest
from run_checks import run_ended, steps_enqueued
from support import MANY, Crew, counted, finished, flow_of, library, next_millisecond, run_submission

from waiting import until
from watchbill.errors import NotFound
from watchbill.records import ExecutionMode
from watchbill.store import runs, unfinished
from watchbill.store.queue import BATCH
from watchbill.tasks import RunResult, RunState, TaskResult, Usage

# ---------------------------------------------------------------- the end of a run


async def test_finished_steps_are_not_put_on_the_queue_again_when_workers_die(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]))
    names = iter(f"w{i}" for i in range(20))
    begun: list[str] = []
    while not await run_ended(crew, "r1"):
        dying, living = next(names), next(names)
        lost = await crew.take(dying)
        await crew.queue.declare_dead([dying])
        tasks = await crew.take(living)
        assert [t.id for t in tasks] == [t.id for t in lost]
        assert {t.attempt for t in tasks} == {2}
        begun += [str(t.step) for t in tasks]
        await crew.finish(living, tasks)
        await crew.queue.leave(living)
    assert sorted(begun) == ["a", "b", "c", "d"]
    assert await steps_enqueued(crew) == 4
    status = await runs.status(crew.client, crew.keys, "r1")
    assert {s.name: s.attempt for s in status.steps} == dict.fromkeys("abcd", 2)
    await crew.assert_idle()


async def test_a_run_ends_once_and_tells_its_clients_once(crew: Crew) -> None:
    channel = crew.keys.reply("me")
    async with crew.client.pubsub() as listener:
        await listener.subscribe(channel)
        assert await listener.get_message(timeout=180)
        submission = run_submission("r1", crew.definition)
        for _ in range(2):
            await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=MANY, reply_to=channel)
        tasks = await crew.take("w")
        for _ in range(2):
            await crew.finish("w", tasks)
        await crew.client.publish(channel, "the end")
        heard: list[Any] = []
        while not heard or heard[-1] != "the end":
            message = await listener.get_message(timeout=180)
            assert message is not None
            heard.append(message["data"])
    assert heard == ["r1", "the end"]
    assert counted(await crew.results()) == {"r1": 1, "r1/a": 1, "r1/b": 1}
    changes = [e for e in await crew.events() if e["event_type"] == "mission_state_changed"]
    assert [(e["old_state"], e["new_state"]) for e in changes] == [("creating", "running"), ("running", "completed")]


async def test_nothing_of_a_run_expires_before_its_end_and_then_all_of_it(crew: Crew) -> None:
    await crew.run("r1", library("a", "b", mode=ExecutionMode.SEQUENTIAL))
    keys = [crew.keys.run("r1"), crew.keys.run_steps("r1"), crew.keys.run_results("r1")]
    await crew.finish("w", await crew.take("w", 1), ttl_ms=60_000)
    assert [await crew.client.ttl(key) for key in keys] == [-1, -1, -1]
    assert await unfinished.newest(crew.client, crew.keys) == ["r1"]
    await crew.finish("w", await crew.take("w", 2), ttl_ms=300)
    assert await unfinished.newest(crew.client, crew.keys) == []
    assert all([await crew.client.pttl(key) in (-2, *range(301)) for key in keys]), "-2: it has gone by now"

    async def gone() -> bool:
        return not await crew.client.exists(*keys)

    await until(gone)
    for read in (runs.result, runs.status):
        with pytest.raises(NotFound, match="'r1'"):
            await read(crew.client, crew.keys, "r1")
    with pytest.raises(NotFound, match="'r1"):
        await runs.result(crew.client, crew.keys, "r1/a")
    await crew.submit("other")
    await crew.finish("w", await crew.take("w", 3))
    assert await crew.client.zrange(crew.keys.ids, 0, -1) == ["other"]


# ---------------------------------------------------------------- looking


async def test_the_status_of_a_run_tells_of_each_step(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("a", "c"), ("c", "b")]))
    await crew.queue.finish(
        "w",
        [
            finished(t, usage=Usage(input_tokens=5), definition=crew.definition.digest())
            for t in await crew.take("w", 1)
        ],
    )
    await crew.take("w", 2)
    status = await runs.status(crew.client, crew.keys, "r1")
    assert (status.run_id, status.crew, status.status) == ("r1", crew.keys.crew, RunState.RUNNING)
    assert status.finished_at is None
    steps = {s.name: s for s in status.steps}
    assert [(s.name, s.status.value, s.after, s.attempt, s.tokens) for s in status.steps] == [
        ("a", "completed", (), 1, 5),
        ("c", "running", ("a",), 1, 0),
        ("b", "waiting", ("a", "c"), 0, 0),
    ]
    assert steps["a"].started_at is not None
    assert steps["a"].finished_at is not None
    assert status.submitted_at <= steps["a"].started_at <= steps["a"].finished_at
    assert steps["c"].finished_at is None


async def test_results_of_tasks_runs_and_steps_are_none_until_they_are_there(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.run("r1")
    for task_id in ("t1", "r1", "r1/a"):
        assert await runs.result(crew.client, crew.keys, task_id) is None
    await crew.finish("w", await crew.take("w"))
    task = await runs.result(crew.client, crew.keys, "t1")
    step = await runs.result(crew.client, crew.keys, "r1/a")
    assert isinstance(task, TaskResult)
    assert isinstance(step, TaskResult)
    assert (task.output, step.output) == ("t1", "r1/a")
    run = await runs.result(crew.client, crew.keys, "r1")
    assert isinstance(run, RunResult)
    assert run.success
    assert run.steps["a"] == step
    assert run.finished_at is not None
    assert run.execution_time_ms >= 0


@pytest.mark.parametrize("unknown", ["nothing", "r1/nothing", "nothing/a", "r1/", "/"])
async def test_what_is_not_there_is_not_found(crew: Crew, unknown: str) -> None:
    await crew.run("r1")
    with pytest.raises(NotFound, match=crew.keys.crew):
        await runs.result(crew.client, crew.keys, unknown)
    with pytest.raises(NotFound):
        await runs.status(crew.client, crew.keys, unknown)


async def test_whoever_waits_for_a_step_that_was_skipped_is_not_left_waiting(crew: Crew) -> None:
    await crew.run("r1", library("a", "b", mode=ExecutionMode.SEQUENTIAL))
    await crew.finish("w", await crew.take("w"), "failed")
    assert await run_ended(crew, "r1")
    result = await runs.result(crew.client, crew.keys, "r1/b")
    assert isinstance(result, TaskResult)
    assert not result.success


# ---------------------------------------------------------------- all that is unfinished


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("at_once", [1, 7, 3000])
async def test_every_unfinished_id_is_told_once_however_many_came_at_the_same_time(
    crew: Crew, at_once: int, ends: bool
) -> None:
    """`ends`: what was told has ended when the next page is read."""
    far = 1.1e13
    wanted = [f"t{n:04}" for n in range(2600)]
    await crew.client.zadd(crew.keys.ids, {task_id: far + n // at_once for n, task_id in enumerate(wanted)})
    await crew.client.zadd(crew.keys.ids, {"ended": 1e12})
    pages = []
    async for page in unfinished.pages(crew.client, crew.keys):
        pages.append(page)
        if ends:
            await crew.client.zadd(crew.keys.ids, dict.fromkeys(page, 1e12))
    assert [task_id for page in pages for task_id in page] == wanted
    assert max(map(len, pages)) == BATCH


async def test_what_comes_while_all_that_is_unfinished_is_read_is_not_among_it(crew: Crew) -> None:
    before = [f"t{n}" for n in range(BATCH + 1)]
    await crew.submit(*before)
    await next_millisecond(crew)
    pages = unfinished.pages(crew.client, crew.keys)
    found = await anext(pages)
    await crew.submit("a-later", "z-later")
    found += [task_id async for page in pages for task_id in page]
    assert sorted(found) == sorted(before)
