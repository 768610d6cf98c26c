"""The client on a real store: stopping work and going on, dead letters, many tasks at once, what is told of the end."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis
from redis.asyncio.client import PubSub
from support import Crew, flow_of, library, opened, server_ms, until

from watchbill.client import CancelledAll, Client, Replay
from watchbill.connection import scripts
from watchbill.errors import Conflict, CrewGone, InvalidInput, NotFound, QueueFull, StoreUnavailable
from watchbill.plan import flow
from watchbill.records import TaskPolicy
from watchbill.store import definitions, runs
from watchbill.store.crews import CrewRedis
from watchbill.tasks import AgentTask, RunState, TaskState


def small_queue(most: int, *agents: str) -> Any:
    return library(*agents, tasks=TaskPolicy(max_queued=most, result_ttl_seconds=77))


async def die(crew: Crew, *ids: str, agent: str = "a") -> None:
    """These tasks end out of attempts."""
    await crew.submit(*ids, agent=agent)
    name = f"killer-{uuid.uuid4().hex}"
    await crew.finish(name, await crew.take(name, slots=len(ids)), "dead", message="it broke", detail="Traceback …")
    await crew.queue.leave(name)


# ---------------------------------------------------------------- cancel


async def test_a_waiting_task_that_is_cancelled_wakes_who_waits_for_it(crew: Crew, client: Client) -> None:
    task_id = await client.submit(crew.keys.crew, "x", agent="a")
    waiting = asyncio.create_task(client.wait(crew.keys.crew, task_id, timeout=60))
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
    assert 70 < await crew.client.ttl(crew.keys.task("t1")) <= 77


async def test_a_running_task_is_asked_to_stop_and_its_worker_tells_the_end(crew: Crew, client: Client) -> None:
    await crew.submit("t1", "t2")
    stopped, completed = await crew.take("w")
    for task in (stopped, completed):
        assert not await client.cancel(crew.keys.crew, task.id, reason="too slow")
        assert await client.state(crew.keys.crew, task.id) is TaskState.CANCELLING
    await crew.finish("w", [stopped], "cancelled")
    await crew.finish("w", [completed])
    result = await client.wait(crew.keys.crew, "t1", timeout=60)
    assert (result.cancelled, result.error) == (True, "cancelled: too slow")
    result = await client.wait(crew.keys.crew, "t2", timeout=60)
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
    run: Any = await client.wait(crew.keys.crew, "r1", timeout=60)
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
    run: Any = await client.wait(crew.keys.crew, "r1", timeout=60)
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
    waiting = asyncio.create_task(client.wait(crew.keys.crew, "t599", timeout=60))

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
    waiting = asyncio.create_task(client.wait(crew.keys.crew, task_id, timeout=60))
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


# ---------------------------------------------------------------- dead letters


async def listed(client: Client, crew: Crew, **chosen: Any) -> list[str]:
    return [letter.task_id async for letter in client.dead_letters(crew.keys.crew, **chosen)]


async def test_letters_are_listed_newest_first_and_by_what_is_asked(crew: Crew, client: Client) -> None:
    await die(crew, "t1", "t2")
    await die(crew, "t3", agent="b")
    now = datetime.now(UTC)
    assert await listed(client, crew) == ["t3", "t2", "t1"]
    assert await listed(client, crew, agent="b") == ["t3"]
    assert await listed(client, crew, reason="BROKE", after=now - timedelta(hours=1)) == ["t3", "t2", "t1"]
    assert await listed(client, crew, before=now - timedelta(hours=1)) == []
    letter = await client.dead_letter(crew.keys.crew, "t1")
    assert (letter.prompt, letter.error) == ("t1", "Traceback …")
    assert await client.dead_letter(crew.keys.crew, letter.id) == letter
    with pytest.raises(InvalidInput, match=r"before: .* has no time zone"):
        await listed(client, crew, before=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(NotFound):
        await listed(client, Crew(crew.client, type(crew.keys)("test", "no"), "", crew.definition, crew.queue))


async def test_letters_are_replayed_by_task_by_letter_by_filter_or_all(crew: Crew, client: Client) -> None:
    await die(crew, "t1", "t2", "t3")
    await die(crew, "t4", "t5", agent="b")
    letter = await client.dead_letter(crew.keys.crew, "t2")
    assert await client.replay(crew.keys.crew, ["t1", letter.id, "nobody"]) == [
        Replay("t1", "t1", "replayed", "current"),
        Replay(letter.id, "t2", "replayed", "current"),
        Replay("nobody", "", "missing"),
    ]
    assert await client.replay(crew.keys.crew, "t1") == [Replay("t1", "", "missing")]
    assert [r.task_id for r in await client.replay(crew.keys.crew, agent="b")] == ["t4", "t5"]
    assert [r.outcome for r in await client.replay(crew.keys.crew, everything=True)] == ["replayed"]
    assert await listed(client, crew) == []
    assert [t.id for t in await crew.claim("w")] == ["t1", "t2", "t4", "t5", "t3"]


async def test_of_several_letters_of_one_task_the_newest_is_replayed(crew: Crew, client: Client) -> None:
    await die(crew, "nightly")
    await crew.client.delete(crew.keys.task("nightly"))
    await crew.client.zrem(crew.keys.ids, "nightly")
    await die(crew, "nightly")
    older = [letter.id async for letter in client.dead_letters(crew.keys.crew)][1]
    assert await client.replay(crew.keys.crew, "nightly") == [Replay("nightly", "nightly", "replayed", "current")]
    assert [letter.id async for letter in client.dead_letters(crew.keys.crew)] == [older]
    assert await client.replay(crew.keys.crew, everything=True) == [Replay(older, "nightly", "taken")]


async def test_what_nobody_chose_is_neither_replayed_nor_purged(crew: Crew, client: Client) -> None:
    await die(crew, "t1")
    for ask in (client.replay, client.purge):
        with pytest.raises(InvalidInput, match="nothing says which"):
            await ask(crew.keys.crew)
        assert await ask(crew.keys.crew, []) in ([], 0)
        assert await ask(crew.keys.crew, ["t1"], agent="b") in ([Replay("t1", "", "missing")], 0)
    assert await listed(client, crew) == ["t1"]


async def test_letters_are_purged(crew: Crew, client: Client) -> None:
    await die(crew, "t1", "t2", "t3")
    await crew.client.xadd(crew.keys.streams[2], {b"what": b"\xff"})
    await crew.claim("w")
    assert await client.purge(crew.keys.crew, ["t1", "nobody"]) == 1
    assert await client.purge(crew.keys.crew, reason="malformed") == 1
    assert await client.purge(crew.keys.crew, everything=True) == 2
    assert await client.purge(crew.keys.crew, everything=True) == 0


async def test_a_full_queue_takes_no_letter_and_the_same_call_may_be_made_again(crew: Crew, client: Client) -> None:
    await die(crew, "t1", "t2")
    await definitions.apply(crew.client, crew.keys, small_queue(1))
    with pytest.raises(QueueFull):
        await client.replay(crew.keys.crew, everything=True)
    await definitions.apply(crew.client, crew.keys, small_queue(2))
    async with Client(crew.url, namespace="test") as other:
        assert len(await other.replay(crew.keys.crew, everything=True)) == 1, "one had found room"


# ---------------------------------------------------------------- many tasks


async def test_many_tasks_may_be_prompts_or_name_their_own_agents(crew: Crew, client: Client) -> None:
    ids = await client.submit_many(crew.keys.crew, "a", ["one", "two"])
    assert len(set(ids)) == 2
    own = [AgentTask(task_id=f"t{i}", agent_name=agent, prompt="x") for i, agent in enumerate("ab")]
    assert await client.submit_many(crew.keys.crew, None, own) == ["t0", "t1"]
    assert await client.submit_many(crew.keys.crew, "b", [own[0].model_copy(update={"task_id": "t2"})]) == ["t2"]
    tasks = await crew.take("w")
    assert [(t.id, t.agent) for t in tasks] == [(ids[0], "a"), (ids[1], "a"), ("t0", "a"), ("t1", "b"), ("t2", "b")]
    payloads = [AgentTask.model_validate_json(t.payload) for t in tasks]
    assert [p.prompt for p in payloads] == ["one", "two", "x", "x", "x"]
    later = AgentTask(agent_name="a", prompt="x", scheduled_at="2999-01-01T00:00")
    (due,) = await client.submit_many(crew.keys.crew, None, [later])
    assert (await client.state(crew.keys.crew, due), len(due)) == (TaskState.DELAYED, 32), "a naive time is UTC"
    assert [p.agent_name for p in payloads] == ["a", "a", "a", "b", "b"]
    assert await client.submit_many(crew.keys.crew, "a", []) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"priority": 2}, "priority: 2 can't be used: Input should be 1, 3, 5, 7 or 9"),
        ({"user_id": 7}, "user_id: 7 can't be used"),
        ({"metadata": {"n": {7}}}, "metadata.n: this can't be stored as JSON: Object of type set"),
        ({"metadata": {str(n): "" for n in range(65)}}, "metadata: there are 65 metadata entries. Give 64"),
        ({"metadata": {"n": "x" * 70_000}}, r"metadata: the metadata have 70001 bytes; the limit is 65536 \(64 KiB\)"),
        ({"inputs": {"n": 7}}, "inputs.n: input 'n' is no text: 7. Give it as a str."),
        ({"dedupe_key": "k", "dedupe_seconds": 0}, "dedupe_seconds: 0 is no window for a dedupe key. Give 0.001 to"),
        ({"dedupe_key": "k", "dedupe_seconds": float("inf")}, "dedupe_seconds: inf is no window"),
    ],
)
async def test_what_is_wrong_with_a_submission_is_named(
    crew: Crew, client: Client, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        await client.submit(crew.keys.crew, "do it", agent="a", **options)
    assert await client.unfinished(crew.keys.crew) == []


async def test_a_priority_may_be_given_by_name(crew: Crew, client: Client) -> None:
    await client.submit(crew.keys.crew, "do it", agent="a", priority="high")  # type: ignore[arg-type]
    ((_, waiting),) = [(c.name, c.waiting) for c in (await client.figures(crew.keys.crew)).classes if c.name == "high"]
    assert waiting == 1


async def test_one_bad_task_of_many_is_named_and_nothing_is_stored(crew: Crew, client: Client) -> None:
    for agent, tasks, message in (
        (None, ["prompt"], r"tasks\[0\]: a prompt alone names no agent"),
        ("a", [AgentTask(task_id="ok", agent_name="a", prompt="x"), _named("no good")], r"tasks\[1\]\.id: 'no good'"),
        (None, [_named("t1", agent="nobody")], r"tasks\[0\]\.agent: .*no agent 'nobody'"),
    ):
        with pytest.raises(InvalidInput, match=message):
            await client.submit_many(crew.keys.crew, agent, tasks)
    assert await crew.queued() == 0


def _named(task_id: str, agent: str = "a") -> AgentTask:
    return AgentTask(task_id=task_id, agent_name=agent, prompt="x")


WRONG: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "lone \ud800"},
    "prompt, escaped": {"prompt": "byte \udc80"},
    "metadata.n": {"metadata": {"n": float("nan")}},
    "metadata": {"metadata": {str(n): "" for n in range(65)}},
    "user_id": {"user_id": 5},
    "priority": {"priority": 4},
    "dedupe_seconds": {"dedupe_key": "k", "dedupe_seconds": float("inf")},
    "dedupe_seconds, too long": {"dedupe_key": "k", "dedupe_seconds": 1e18},
    "dedupe_seconds, none": {"dedupe_key": "k", "dedupe_seconds": -1},
}


@pytest.mark.parametrize("agent", ["a", None])
@pytest.mark.parametrize("what", WRONG)
async def test_a_value_that_is_wrong_is_told_as_such_and_nothing_is_stored(
    crew: Crew, client: Client, what: str, agent: str | None
) -> None:
    options: dict[str, Any] = {"prompt": "x", **WRONG[what]}
    with pytest.raises(InvalidInput) as caught:
        await client.submit(crew.keys.crew, options.pop("prompt"), agent=agent, **options)
    assert caught.value.problems[0].path in ("", what.partition(",")[0])
    assert await client.unfinished(crew.keys.crew) == []


async def test_a_prompt_among_many_that_is_no_text_is_named_before_any_is_stored(crew: Crew, client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.submit_many(crew.keys.crew, "a", [*["x"] * 600, "lone \ud800"])
    assert caught.value.problems[0].path == "tasks[600].prompt"
    assert await crew.queued() == 0


async def test_a_queue_that_fills_up_tells_which_of_many_tasks_are_stored(crew: Crew, client: Client) -> None:
    await definitions.apply(crew.client, crew.keys, small_queue(1200))
    tasks = [_named(f"t{i}") for i in range(1600)]
    with pytest.raises(QueueFull) as caught:
        await client.submit_many(crew.keys.crew, "a", tasks)
    assert list(caught.value.stored) == [t.task_id for t in tasks[:1000]]
    assert await crew.queued() == 1000
    with pytest.raises(QueueFull) as again:  # what is there needs no room, and is stored once
        await client.submit_many(crew.keys.crew, "a", tasks)
    assert len(again.value.stored) == 1000
    await definitions.apply(crew.client, crew.keys, small_queue(1600))
    assert await client.submit_many(crew.keys.crew, "a", tasks) == [t.task_id for t in tasks]
    assert await crew.queued() == 1600


async def test_more_than_the_queue_could_ever_hold_goes_in_piece_by_piece(crew: Crew, client: Client) -> None:
    """Else it would be told to try again later, without end."""
    await definitions.apply(crew.client, crew.keys, small_queue(20))
    tasks = [_named(f"t{i}") for i in range(30)]
    with pytest.raises(QueueFull, match=r"has no room for that: tasks\.maxQueued = 20") as caught:
        await client.submit_many(crew.keys.crew, "a", tasks)
    assert list(caught.value.stored) == [t.task_id for t in tasks[:20]]
    await crew.finish("w", await crew.take("w", slots=20), "dead")
    assert len(await client.submit_many(crew.keys.crew, "a", tasks)) == 30
    await crew.finish("w", await crew.take("w", 2, slots=20), "dead")
    with pytest.raises(QueueFull):
        await client.replay(crew.keys.crew, everything=True)
    await crew.finish("w", await crew.take("w", 3, slots=20))
    assert {one.outcome for one in await client.replay(crew.keys.crew, everything=True)} == {"replayed"}


async def test_a_run_with_more_steps_than_the_queue_may_hold_is_refused_for_good(crew: Crew, client: Client) -> None:
    await definitions.apply(crew.client, crew.keys, small_queue(1))
    with pytest.raises(InvalidInput, match=r"has 2 steps, and tasks\.maxQueued is 1\. Raise tasks\.maxQueued"):
        await client.submit(crew.keys.crew, "do it")
    await definitions.apply(crew.client, crew.keys, small_queue(2))
    await client.submit(crew.keys.crew, "do it", id="r1")
    with pytest.raises(QueueFull):
        await client.submit(crew.keys.crew, "do it")


async def test_the_id_of_a_run_among_many_tells_which_are_stored(crew: Crew, client: Client) -> None:
    await crew.run("taken")
    tasks = [_named(task_id) for task_id in ("t1", "taken", "t2")]
    with pytest.raises(Conflict, match="'taken' is the id of a run") as caught:
        await client.submit_many(crew.keys.crew, "a", [*(_named(f"s{i}") for i in range(500)), *tasks])
    assert list(caught.value.stored) == [f"s{i}" for i in range(500)]
    assert await crew.queued() == 502, "with the two steps of the run"


async def test_a_crew_that_goes_among_many_calls_is_told_with_what_was_stored(crew: Crew, client: Client) -> None:
    await client.submit(crew.keys.crew, "x", agent="a")
    await definitions.delete(crew.client, crew.keys, crew.uid)
    with pytest.raises(NotFound) as caught:
        await client.submit_many(crew.keys.crew, "a", ["x"])
    assert caught.value.stored == ()
    assert CrewGone("x").stored == ()


async def test_a_definition_that_changes_among_many_calls_hides_nothing_of_what_was_stored(
    crew: Crew, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is taken out while its tasks are submitted: the rest is refused, and the others are named."""
    really = scripts.run
    calls = 0

    async def run(redis: Any, name: str, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            await definitions.apply(crew.client, crew.keys, library("another"))
        return await really(redis, name, *arguments)

    monkeypatch.setattr(scripts, "run", run)
    tasks = [_named(f"t{i}") for i in range(700)]
    with pytest.raises(InvalidInput, match="has no agent 'a'") as caught:
        await client.submit_many(crew.keys.crew, "a", tasks)
    assert list(caught.value.stored) == [t.task_id for t in tasks[:500]]
    assert await crew.queued() == 500


# ---------------------------------------------------------------- the rest


async def channels(crew: Crew) -> list[str]:
    return [str(name) for name in await crew.client.pubsub_channels(crew.keys.prefix + "reply:*")]


async def test_many_first_calls_at_once_share_one_connection_for_replies(crew: Crew, client: Client) -> None:
    calls = [asyncio.create_task(client.run(crew.keys.crew, "x", agent="a")) for _ in range(20)]

    async def all_are_waited_for() -> bool:
        ids = await client.unfinished(crew.keys.crew)
        return len(ids) == 20 and all([await crew.client.hexists(crew.keys.task(id_), "reply") for id_ in ids])

    await until(all_are_waited_for)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    (found,) = await channels(crew)
    assert await crew.client.pubsub_numsub(found) == [(found, 1)]


async def test_who_does_not_wait_is_not_told(crew: Crew, client: Client) -> None:
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    await client.submit_many(crew.keys.crew, "a", [_named("t2")])
    await client.submit(crew.keys.crew, "x", id="r1")
    assert await channels(crew) == []
    for key in (crew.keys.task("t1"), crew.keys.task("t2"), crew.keys.run("r1")):
        assert not await crew.client.hget(key, "reply")


async def test_everyone_who_waits_is_told_at_once_whoever_submitted_it(
    crew: Crew, client: Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 3600.0)  # nobody looks
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    await client.submit(crew.keys.crew, "x", id="r1")
    async with Client(redis_url) as other:
        waiting = [asyncio.create_task(c.wait(crew.keys.crew, i)) for c in (client, other) for i in ("t1", "r1")]
        for key in (crew.keys.task("t1"), crew.keys.run("r1")):
            await until(partial(_waiters, crew, key))
        assert await client.cancel(crew.keys.crew, "r1")
        await crew.finish("w", await crew.take("w"))
        async with asyncio.timeout(60):
            assert [result.success for result in await asyncio.gather(*waiting)] == [True, False] * 2


async def _waiters(crew: Crew, key: str) -> bool:
    return len(str(await crew.client.hget(key, "reply")).split("\x1e")) == 2


async def test_what_ends_just_before_somebody_is_to_be_told_of_it_is_found(crew: Crew, client: Client) -> None:
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    await crew.finish("w", await crew.take("w"))
    await client.submit(crew.keys.crew, "x", id="r1")
    await client.cancel(crew.keys.crew, "r1")
    for id_ in ("t1", "r1", "unknown"):
        assert not await runs.subscribe(crew.client, crew.keys, id_, "channel")


async def test_running_again_what_has_ended_gives_its_result_at_once(
    crew: Crew, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 3600.0)
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    await crew.finish("w", await crew.take("w"))
    assert (await client.run(crew.keys.crew, "x", agent="a", id="t1", timeout=5)).success


async def test_waiting_outlasts_a_store_that_goes_as_it_is_to_listen(
    crew: Crew, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.submit(crew.keys.crew, "x", agent="a", id="t1")
    really, refused = PubSub.subscribe, 0

    async def subscribe(self: PubSub, *channels: Any) -> Any:
        nonlocal refused
        refused += 1
        if refused == 1:
            raise redis.exceptions.ConnectionError("away")
        return await really(self, *channels)

    monkeypatch.setattr(PubSub, "subscribe", subscribe)
    waiting = asyncio.create_task(client.wait(crew.keys.crew, "t1", timeout=10))

    async def has_listened() -> bool:
        return refused == 2 or waiting.done()

    await until(has_listened)
    await crew.finish("w", await crew.take("w"))
    assert (await waiting).success


async def test_who_comes_after_a_time_in_which_nobody_could_listen_is_told_at_once(
    private_redis: Any, crew_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A password that is changed, say. Whoever waited then looks; nobody after that should have to."""
    monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 1.0)
    server = await private_redis()
    async with opened(server.url, crew_name) as crew, Client(server.url) as client:
        await crew.submit("t1", "t2")
        waiting = asyncio.create_task(client.wait(crew.keys.crew, "t1", timeout=60))
        await until(partial(channels, crew))
        await crew.client.config_set("requirepass", "changed")
        await crew.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

        async def gives_up() -> bool:
            return "can't hear what ends" in caplog.text

        await until(gives_up)
        await crew.client.config_set("requirepass", "")
        one, two = await crew.take("w")
        await crew.finish("w", [one])
        assert (await waiting).success
        monkeypatch.setattr("watchbill.client.client.POLL_SECONDS", 3600.0)
        waiting = asyncio.create_task(client.wait(crew.keys.crew, "t2", timeout=60))
        await until(partial(channels, crew))
        await until(lambda: crew.client.hget(crew.keys.task("t2"), "reply"))
        await crew.finish("w", [two])
        assert (await waiting).success


async def test_connections_that_break_while_others_begin_to_listen_leave_everyone_told(
    private_redis: Any, crew_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each crew has a channel of its own, all on one connection, which is made anew by whoever finds it broken."""
    server = await private_redis()
    waiting: list[asyncio.Task[Any]] = []
    async with AsyncExitStack() as stack:
        crews = [await stack.enter_async_context(opened(server.url, f"{crew_name}-{n}")) for n in range(12)]
        client = await stack.enter_async_context(Client(server.url))

        async def break_connections() -> None:
            for n in range(300):
                await crews[0].client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(n % 11 / 1000)

        breaking = asyncio.create_task(break_connections())
        for crew in crews:
            await crew.submit("t1")
            waiting += [asyncio.create_task(client.wait(crew.keys.crew, "t1")) for _ in range(5)]
            await asyncio.sleep(0.1)
        await breaking

        async def all_listen() -> bool:
            return bool(len(await crews[0].client.pubsub_channels("*:reply:*")) == len(crews))

        await until(all_listen)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert "can't hear" not in caplog.text


async def test_running_something_is_refused_in_time_although_the_store_does_not_answer(
    private_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill.client.replies.LISTEN_SECONDS", 0.2)
    server = await private_redis()
    async with Client(server.url) as client:
        server.pause()
        try:
            async with asyncio.timeout(5):
                with pytest.raises(StoreUnavailable):
                    await client.run("c", "x")
        finally:
            server.resume()


async def test_waiting_gives_up_in_time_although_the_store_does_not_answer(private_redis: Any) -> None:
    server = await private_redis()
    async with Client(server.url) as client:
        server.pause()
        try:
            async with asyncio.timeout(5):
                with pytest.raises(TimeoutError):
                    await client.wait("c", "t1", timeout=0.2)
        finally:
            server.resume()


async def test_who_waited_too_long_is_told_for_what(crew: Crew, client: Client) -> None:
    """Of a run that was given no id, it is the only way to it."""
    name = crew.keys.crew
    with pytest.raises(TimeoutError, match=r"no result after 0\.1 s") as caught:
        await client.run(name, "do it", agent="a", timeout=0.1)
    (task_id,) = await client.unfinished(name)
    assert str(caught.value) == f"{task_id!r} of crew {name!r}: no result after 0.1 s"
    with pytest.raises(TimeoutError, match=task_id):
        await client.wait(name, task_id, timeout=0.1)


async def test_crews_are_listed_and_looked_at(crew: Crew, client: Client) -> None:
    namespace = crew.keys.crew.replace("/", "-")
    records = CrewRedis(client=crew.client, tenant=namespace, strict=True)
    try:
        for name in ("two", "one"):
            await records.save_crew(library().model_copy(update={"name": name}))
        assert await client.crews(namespace=namespace) == [f"{namespace}/one", f"{namespace}/two"]
    finally:
        await records.clear_all_crews()
    assert [a.agent_id for a in (await client.crew(crew.keys.crew)).agents] == ["a", "b"]
    await definitions.apply(crew.client, crew.keys, library("c"))
    assert [a.agent_id for a in (await client.crew(crew.keys.crew)).agents] == ["c"]
    with pytest.raises(NotFound):
        await client.crew("nobody")


async def test_the_state_of_tasks_runs_and_steps(crew: Crew, client: Client) -> None:
    await crew.submit("t1")
    await crew.run("r1")
    assert await client.state(crew.keys.crew, "t1") is TaskState.WAITING
    assert await client.state(crew.keys.crew, "r1") is RunState.RUNNING
    assert await client.state(crew.keys.crew, "r1/a") is TaskState.WAITING
    await crew.finish("w", await crew.take("w"))
    assert await client.state(crew.keys.crew, "t1") is TaskState.COMPLETED
    assert await client.state(crew.keys.crew, "r1") is RunState.COMPLETED
    assert await runs.result(crew.client, crew.keys, "r1") is not None
    await until(lambda: _idle(crew))


async def _idle(crew: Crew) -> bool:
    return await crew.queued() == 0
