"""The client on a real store: stopping work and going on, dead letters, many tasks at once, what is told of the end."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from client_support import small_queue
from support import Crew, flow_of, library, server_ms

from watchbill.client import CancelledAll, Client
from watchbill.errors import Conflict, NotFound
from watchbill.plan import flow
from watchbill.store import definitions
from watchbill.tasks import RunState, TaskState

# ---------------------------------------------------------------- cancel


async def test_a_waiting_task_that_is_cancelled_wakes_who_waits_for_it(crew: Crew, client: Client) -> None:
    task_id = await client.submit(crew.keys.crew, "x", agent="a")
    waiting = asyncio.create_task(client.wait(crew.keys.crew, task_id, timeout=180))
    assert await client.cancel(crew.keys.crew, task_id, reason="no longer needed")
    result = await waiting
    assert (result.success, result.cancelled, result.error) == (False, True, "cancelled: no longer needed")
    assert await client.state(crew.keys.crew, task_id) is TaskState.CANCELLED
    assert await client.cancel(crew.keys.crew, task_id), "it is so already"
    assert await client.result(crew.keys.crew, task_id) == result


async def test_a_cancelled_record_is_kept_as_long_as_the_crew_says(crew: Crew, client: Client) -> None:
    await definitions.apply(crew.client, crew.keys, small_queue(10))
    await crew.submit("t1")
    await client.cancel(crew.keys.crew, "t1")
    assert 0 < await crew.client.ttl(crew.keys.task("t1")) <= 77


async def test_a_running_task_is_asked_to_stop_and_its_worker_tells_the_end(crew: Crew, client: Client) -> None:
    await crew.submit("t1", "t2")
    stopped, completed = await crew.take("w")
    for task in (stopped, completed):
        assert not await client.cancel(crew.keys.crew, task.id, reason="too slow")
        assert await client.state(crew.keys.crew, task.id) is TaskState.CANCELLING
    await crew.finish("w", [stopped], "cancelled")
    await crew.finish("w", [completed])
    result = await client.wait(crew.keys.crew, "t1", timeout=180)
    assert (result.cancelled, result.error) == (True, "cancelled: too slow")
    result = await client.wait(crew.keys.crew, "t2", timeout=180)
    assert (result.success, result.cancelled) == (True, False)
    with pytest.raises(Conflict, match="it is completed"):
        await client.cancel(crew.keys.crew, "t2")


async def test_a_cancelled_run_is_told_as_such_with_its_steps(crew: Crew, client: Client) -> None:
    await crew.run("r1", library(*"abc", max_parallel_tasks=2))
    (first,) = await crew.take("w", 1, 1)
    assert not await client.cancel(crew.keys.crew, "r1", reason="enough")
    assert await client.state(crew.keys.crew, "r1") is RunState.CANCELLING
    skipped: Any = await client.result(crew.keys.crew, "r1/c")
    assert (skipped.error, skipped.success) == ("skipped: the run was cancelled", False)
    await crew.finish("w", [first])
    run: Any = await client.wait(crew.keys.crew, "r1", timeout=180)
    assert (run.status, run.cancelled, run.success) == (RunState.CANCELLED, True, False)
    assert run.error == "b: cancelled: enough"
    assert run.steps["b"].cancelled
    assert not run.steps["a"].cancelled
    assert run.skipped == ("c",)
    assert await client.state(crew.keys.crew, "r1/c") is TaskState.SKIPPED


async def test_a_run_none_of_whose_steps_was_cancelled_says_why_it_has_no_output(crew: Crew, client: Client) -> None:
    await crew.run("r1", flow_of([("a", "b")], ["a", "b"]))
    tasks = await crew.take("w")
    await client.cancel(crew.keys.crew, "r1")
    await crew.finish("w", tasks)
    run: Any = await client.wait(crew.keys.crew, "r1", timeout=180)
    assert (run.cancelled, run.error, run.skipped) == (True, "cancelled", ("b",))
    assert flow.outcome((await client.status(crew.keys.crew, "r1")).steps, cancelling=True) is run.status


@pytest.mark.parametrize("ask", ["cancel", "interrupt", "resume", "state", "dead_letter"])
async def test_what_is_not_there_is_not_found(crew: Crew, client: Client, ask: str) -> None:
    for name, task_id in ((crew.keys.crew, "nobody"), (crew.keys.crew, "no/step"), ("test/no-crew", "t1")):
        with pytest.raises(NotFound):
            await getattr(client, ask)(name, task_id)


async def test_a_step_that_the_run_has_not_is_not_found(crew: Crew, client: Client) -> None:
    await crew.run("r1")
    for ask in (client.cancel, client.interrupt, client.resume, client.state, client.result):
        with pytest.raises(NotFound):
            await ask(crew.keys.crew, "r1/nobody")


async def test_a_crew_that_was_made_anew_is_cancelled_by_its_new_uid(crew: Crew, client: Client) -> None:
    await crew.submit("t1")
    await client.cancel(crew.keys.crew, "t1")
    await definitions.delete(crew.client, crew.keys, crew.uid)
    await definitions.apply(crew.client, crew.keys, crew.definition)
    task_id = await client.submit(crew.keys.crew, "x", agent="a")
    async with Client(crew.url) as other:
        assert await other.cancel(crew.keys.crew, task_id)
    assert await client.cancel(crew.keys.crew, task_id)


# ---------------------------------------------------------------- cancel_all


async def test_all_that_is_unfinished_is_cancelled_wherever_it_is(crew: Crew, client: Client) -> None:
    """More than a page of tasks; tasks that are handed back, tried again, interrupted, due later, parked; and runs."""
    await crew.submit("done", "failed", "held", "running")
    tasks = {task.id: task for task in await crew.take("w", 1, 4)}
    await crew.finish("w", [tasks["done"]])
    await crew.finish("w", [tasks["failed"]], "failed")
    await crew.submit("back", "again", "aside", "parked")
    tasks |= {task.id: task for task in await crew.take("w", 2, 4)}
    await crew.queue.hand_back("w", [tasks["back"]])
    await crew.finish("w", [tasks["again"]], "retry", ttl_ms=60_000)
    await crew.queue.park("w", [tasks["parked"]], "no such agent")
    await client.interrupt(crew.keys.crew, "aside")
    await crew.finish("w", [tasks["aside"]], "interrupted")
    await crew.submit("later", due_ms=await server_ms(crew.client) + 60_000)
    await crew.submit(*(f"t{n}" for n in range(600)))
    for n in range(20):
        await crew.run(f"r{n}", library(*"abc", max_parallel_tasks=2))
    waiting = asyncio.create_task(client.wait(crew.keys.crew, "t599", timeout=180))

    done = await client.cancel_all(crew.keys.crew, reason="a mistake")
    assert done == CancelledAll(cancelled=605 + 20, cancelling=2)
    assert set(await client.unfinished(crew.keys.crew)) == {"held", "running"}
    assert (await waiting).error == "cancelled: a mistake"
    for task_id in ("back", "again", "aside", "parked", "later", "t0", "r0", "r19", "r0/a"):
        assert await client.state(crew.keys.crew, task_id) == "cancelled", task_id
    assert await client.state(crew.keys.crew, "r0/c") is TaskState.SKIPPED
    assert await client.state(crew.keys.crew, "done") is TaskState.COMPLETED
    assert await client.state(crew.keys.crew, "failed") is TaskState.FAILED

    assert await client.cancel_all(crew.keys.crew) == CancelledAll(0, 2), "they are asked again"
    await crew.finish("w", [tasks["held"], tasks["running"]], "cancelled")
    assert await client.cancel_all(crew.keys.crew) == CancelledAll(0, 0)
    assert await crew.claim("z") == ()
    for name in ("w", "z"):
        await crew.queue.leave(name)
    await crew.assert_idle()


async def test_with_an_agent_only_its_own_tasks_are_cancelled(crew: Crew, client: Client) -> None:
    await crew.submit("t1", "t2")
    await crew.submit("other", agent="b")
    await crew.run("r1")
    name = crew.keys.crew
    assert await client.cancel_all(name, agent="a") == CancelledAll(2, 0)
    assert set(await client.unfinished(name)) == {"other", "r1"}
    assert await client.state(name, "r1/a") is TaskState.WAITING
    assert await client.cancel_all(name, agent="a") == CancelledAll(0, 0)


async def test_an_agent_goes_by_each_of_its_names_and_tasks_may_be_left_of_one_that_is_gone(
    crew: Crew, client: Client
) -> None:
    named = library("a", "b")
    anna = named.agents[0].model_copy(update={"name": "Anna"})
    named = named.model_copy(update={"agents": [anna, named.agents[1]]})
    await definitions.apply(crew.client, crew.keys, named)
    await crew.submit("t1")
    assert await client.cancel_all(crew.keys.crew, agent="Anna") == CancelledAll(1, 0)
    await crew.submit("t2", agent="b")
    await definitions.apply(crew.client, crew.keys, library("a"))
    assert await client.cancel_all(crew.keys.crew, agent="b") == CancelledAll(1, 0)
    for wrong in ("b", "nobody", ""):
        with pytest.raises(NotFound, match=f"has no agent '{wrong}', nor tasks of one; it has: a$"):
            await client.cancel_all(crew.keys.crew, agent=wrong)
    with pytest.raises(NotFound, match="no-crew"):
        await client.cancel_all("test/no-crew")


async def test_what_has_ended_or_lost_its_record_meanwhile_is_passed_over(crew: Crew, client: Client) -> None:
    """As if it had ended between the index and the record being read."""
    await crew.run("r1", library("a"))
    await crew.submit("t1")
    await crew.finish("w", await crew.take("w"))
    await crew.finish("w", await crew.take("w", 2))
    await crew.submit("t2")
    far = 1e13 + await server_ms(crew.client)
    await crew.client.zadd(crew.keys.ids, {"r1": far, "t1": far, "lost": far})
    assert await client.cancel_all(crew.keys.crew) == CancelledAll(1, 0)
    assert await client.state(crew.keys.crew, "r1") is RunState.COMPLETED
    assert await client.state(crew.keys.crew, "t1") is TaskState.COMPLETED


async def test_of_a_crew_that_was_made_anew_all_is_cancelled_too(crew: Crew, client: Client) -> None:
    await client.figures(crew.keys.crew)  # from now on it knows the former
    await definitions.delete(crew.client, crew.keys, crew.uid)
    await definitions.apply(crew.client, crew.keys, crew.definition)
    async with Client(crew.url) as other:
        await other.submit(crew.keys.crew, "x", agent="a")
    assert await client.cancel_all(crew.keys.crew) == CancelledAll(1, 0)


# ---------------------------------------------------------------- interrupt and resume


async def test_an_interrupted_task_waits_until_it_is_resumed_and_so_does_who_waits_for_it(
    crew: Crew, client: Client
) -> None:
    task_id = await client.submit(crew.keys.crew, "x", agent="a", inputs={"log": "lines"})
    waiting = asyncio.create_task(client.wait(crew.keys.crew, task_id, timeout=180))
    assert await client.interrupt(crew.keys.crew, task_id, reason="wait for the figures")
    assert await client.state(crew.keys.crew, task_id) is TaskState.INTERRUPTED
    assert await crew.claim("w") == ()
    assert not waiting.done()
    assert await client.resume(crew.keys.crew, task_id)
    assert not await client.resume(crew.keys.crew, task_id)
    await crew.finish("w", await crew.take("w", 2))
    assert (await waiting).success


async def test_a_whole_run_is_not_interrupted_and_one_of_its_steps_is(crew: Crew, client: Client) -> None:
    await crew.run("r1", flow_of([("a", "b")], ["a", "b"]))
    with pytest.raises(Conflict, match="interrupt one of its steps"):
        await client.interrupt(crew.keys.crew, "r1")
    with pytest.raises(Conflict, match="waits for other steps"):
        await client.interrupt(crew.keys.crew, "r1/b")
    assert await client.interrupt(crew.keys.crew, "r1/a")
    assert await client.state(crew.keys.crew, "r1/a") is TaskState.INTERRUPTED


# ---------------------------------------------------------------- workers


async def test_workers_are_listed_and_told_to_drain(crew: Crew, client: Client) -> None:
    name = crew.keys.crew
    assert await client.workers(name) == []
    await crew.submit("t1")
    await crew.claim("host-1.aaaa")
    for number, worker in enumerate(("host-1", "host-1.aaaa"), 2):
        assert await client.drain(name, worker)
        assert not await client.drain(name, worker)
        (listed,) = await client.workers(name)
        assert (listed.name, listed.draining) == ("host-1.aaaa", True)
        assert (await crew.queue.claim("host-1.aaaa", 2 * number, 0, lease_ms=60_000, take_over=False)).draining
        assert await client.undrain(name, worker)
        assert not await client.undrain(name, worker)
    with pytest.raises(NotFound, match="it has: host-1"):
        await client.drain(name, "host-2")
    with pytest.raises(NotFound):
        await client.workers("nobody")


async def test_a_crew_that_was_deleted_is_not_found_by_who_knew_it(crew: Crew, client: Client) -> None:
    name = crew.keys.crew
    await client.submit(name, "x", agent="a")
    await definitions.delete(crew.client, crew.keys, crew.uid)
    for ask in (client.workers, client.figures, partial(client.purge, everything=True)):
        with pytest.raises(NotFound):
            await ask(name)
    with pytest.raises(NotFound):
        await anext(client.dead_letters(name))
