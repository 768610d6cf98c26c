"""Work that people cancel, interrupt and resume, and workers that they drain."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any

import pytest
from support import LEASE_MS, Crew, counted, finished, flow_of, library, payload, run_submission, server_ms

from watchbill import connection
from watchbill.connection import scripts
from watchbill.errors import Conflict, NotFound, QueueFull, RetryLater
from watchbill.store import control, definitions, incarnations, runs
from watchbill.store.queue import Claimed
from watchbill.store.submissions import Submission
from watchbill.tasks import TERMINAL, TRANSITIONS, RunState, TaskState

TTL = 60_000


async def _cancel(crew: Crew, task_id: str, why: str = "") -> bool:
    return await control.cancel(crew.client, crew.keys, crew.uid, task_id, why, TTL)


async def _interrupt(crew: Crew, task_id: str, why: str = "") -> bool:
    return await control.interrupt(crew.client, crew.keys, crew.uid, task_id, why)


async def _resume(crew: Crew, task_id: str) -> bool:
    return await control.resume(crew.client, crew.keys, crew.uid, task_id)


async def _make(crew: Crew, state: str) -> tuple[Claimed, ...]:
    """t1 in this state, and whoever holds it."""
    if state in ("delayed", "on a stream by now"):
        await crew.submit("t1", due_ms=await server_ms(crew.client) + 60_000)
        if state != "delayed":
            await _make_due(crew)
            await crew.queue.move_due()
        return ()
    await crew.submit("t1")
    if state == "waiting":
        return ()
    if state == "interrupted":
        assert await _interrupt(crew, "t1")
        return ()
    if state == "held":
        return await crew.claim("w")
    tasks = await crew.take("w")
    if state == "parked":
        await crew.queue.park("w", tasks, "no such agent")
        return ()
    if state == "retrying":
        await crew.finish("w", tasks, "retry", ttl_ms=60_000)
        return ()
    if state == "handed back":
        await crew.queue.hand_back("w", tasks)
        return ()
    if state in TERMINAL:
        await crew.finish("w", tasks, state)  # type: ignore[arg-type]
    return tasks


async def _make_due(crew: Crew) -> None:
    """What is due later is due now."""
    for member in await crew.client.zrange(crew.keys.delayed, 0, -1):
        await crew.client.zadd(crew.keys.delayed, {member: 1})


AWAY = ["waiting", "delayed", "parked", "retrying", "handed back", "interrupted"]


@pytest.mark.parametrize("state", AWAY)
async def test_what_nobody_runs_is_cancelled_at_once_and_never_runs(crew: Crew, state: str) -> None:
    await _make(crew, state)
    assert await _cancel(crew, "t1", "no longer needed")
    assert await crew.state("t1") == "cancelled"
    result: Any = await runs.result(crew.client, crew.keys, "t1")
    assert (result.success, result.error, result.agent_name) == (False, "cancelled: no longer needed", "a")
    assert await crew.claim("z") == ()
    await crew.queue.leave("z")
    assert (await crew.results())[-1]["state"] == "cancelled"
    assert (await crew.events())[-1]["event_type"] == "task_cancelled"
    assert await _cancel(crew, "t1"), "asked again, it is so already"
    await crew.queue.leave("w")
    await crew.assert_idle()
    assert 0 < await crew.client.pttl(crew.keys.task("t1")) <= TTL


@pytest.mark.parametrize("state", ["waiting", "delayed", "parked", "retrying", "handed back"])
async def test_what_nobody_runs_is_interrupted_at_once_and_resumed_with_all_that_it_had(crew: Crew, state: str) -> None:
    await _make(crew, state)
    attempts = 2 if state == "retrying" else 1
    assert await _interrupt(crew, "t1", "wait for the figures")
    assert await crew.state("t1") == "interrupted"
    assert await crew.queued() == 0
    assert await crew.claim("z") == ()
    assert await _interrupt(crew, "t1"), "asked again, it is so already"
    assert await _resume(crew, "t1")
    assert not await _resume(crew, "t1"), "asked again, it waits already"
    await _make_due(crew)
    (task,) = await crew.take("z", 2)
    assert (task.id, task.attempt, task.agent) == ("t1", attempts, "a")
    assert (await crew.queue.start("z", [task]))[0].payload == payload("t1")
    assert await crew.finish("z", [task]) == ["applied"]
    await crew.queue.leave("z")
    await crew.queue.leave("w")
    await crew.assert_idle()


@pytest.mark.parametrize("state", ["held", "running"])
async def test_a_worker_is_asked_and_tells_the_end(crew: Crew, state: str) -> None:
    (task,) = await _make(crew, state)
    assert not await _cancel(crew, "t1", "too slow")
    assert await crew.state("t1") == "cancelling"
    assert not await _cancel(crew, "t1", "too slow")
    assert await crew.finish("w", [task], "cancelled") == ["applied"]
    assert await crew.finish("w", [task], "cancelled") == ["repeated"]
    result: Any = await runs.result(crew.client, crew.keys, "t1")
    assert (result.success, result.error) == (False, "cancelled: too slow")
    assert await crew.client.exists(crew.keys.wishes) == 0
    await crew.queue.leave("w")
    await crew.assert_idle()


@pytest.mark.parametrize("outcome", ["completed", "failed", "dead"])
async def test_what_ends_by_itself_before_it_is_stopped_has_ended_so(crew: Crew, outcome: Any) -> None:
    (task,) = await _make(crew, "running")
    await _cancel(crew, "t1")
    assert await crew.finish("w", [task], outcome) == ["applied"]
    assert await crew.state("t1") == outcome
    with pytest.raises(Conflict, match=f"it is {outcome}"):
        await _cancel(crew, "t1")
    assert await crew.client.exists(crew.keys.wishes) == 0


async def test_a_failed_attempt_of_what_is_to_be_cancelled_is_not_tried_again(crew: Crew) -> None:
    (task,) = await _make(crew, "running")
    await _cancel(crew, "t1")
    assert await crew.finish("w", [task], "retry", ttl_ms=0) == ["applied"]
    assert await crew.state("t1") == "cancelled"
    assert await crew.client.zcard(crew.keys.delayed) == 0
    assert TTL - 30_000 < await crew.client.pttl(crew.keys.task("t1")) <= TTL, "as long as whoever cancelled it said"


async def test_an_interrupted_attempt_does_not_count_and_a_failed_one_does(crew: Crew) -> None:
    (task,) = await _make(crew, "running")
    assert not await _interrupt(crew, "t1")
    await crew.finish("w", [task], "interrupted")
    assert await crew.state("t1") == "interrupted"
    await _resume(crew, "t1")
    (task,) = await crew.take("w", 2)
    assert task.attempt == 1
    await _interrupt(crew, "t1")
    await crew.finish("w", [task], "retry", ttl_ms=1)
    assert await crew.state("t1") == "interrupted"
    await _resume(crew, "t1")
    (task,) = await crew.take("w", 3)
    assert task.attempt == 2


async def test_cancel_goes_before_interrupt(crew: Crew) -> None:
    (task,) = await _make(crew, "running")
    await _interrupt(crew, "t1")
    await _cancel(crew, "t1")
    with pytest.raises(Conflict, match="it is cancelling"):
        await _interrupt(crew, "t1")
    await crew.finish("w", [task], "interrupted")
    assert await crew.state("t1") == "cancelled"


async def test_what_is_to_be_cancelled_and_was_handed_back_is_not_interrupted(crew: Crew) -> None:
    (task,) = await _make(crew, "running")
    await _cancel(crew, "t1")
    await crew.queue.hand_back("w", [task])
    with pytest.raises(Conflict, match="it is cancelling"):
        await _interrupt(crew, "t1")
    assert await crew.state("t1") == "cancelling"
    assert await _cancel(crew, "t1")
    assert await crew.state("t1") == "cancelled"
    assert await crew.client.exists(crew.keys.wishes) == 0


async def test_what_is_to_be_stopped_is_not_begun_by_whoever_takes_it_over(crew: Crew) -> None:
    await _make(crew, "running")
    await _cancel(crew, "t1")
    await crew.queue.declare_dead(["w"])
    claim = await crew.queue.claim("w2", 1, 5, lease_ms=60_000, take_over=True, begin=5)
    (taken,) = claim.tasks
    assert (taken.id, taken.wish, taken.begun) == ("t1", "cancel", False)
    again = await crew.queue.claim("w2", 1, 5, lease_ms=60_000, take_over=True, begin=5)
    assert again.tasks[0].wish == "cancel", "a claim sent again says so, too"
    assert await crew.finish("w2", [taken], "cancelled") == ["applied"]
    assert await crew.state("t1") == "cancelled"
    await crew.queue.leave("w2")
    await crew.assert_idle()


@pytest.mark.parametrize(
    ("ask", "wish", "state", "end"),
    [(_cancel, "cancel", "cancelling", "cancelled"), (_interrupt, "interrupt", "waiting", "interrupted")],
)
@pytest.mark.parametrize("how", ["hand back", "park"])
async def test_a_wish_outlives_the_worker_that_gives_the_task_away(
    crew: Crew, how: str, ask: Any, wish: str, state: str, end: Any
) -> None:
    (task,) = await _make(crew, "running")
    await ask(crew, "t1")
    if how == "park":
        assert await crew.queue.park("w", [task], "no such agent") == ["applied"]
        assert await crew.queue.park("w", [task], "no such agent") == ["repeated"]
    else:
        assert await crew.queue.hand_back("w", [task]) == ["applied"]
    assert await crew.state("t1") == state
    (taken,) = await crew.claim("w2")
    assert taken.wish == wish
    assert await crew.finish("w2", [taken], end) == ["applied"]
    assert await crew.state("t1") == end
    assert await _cancel(crew, "t1")
    await crew.queue.leave("w2")
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_renewal_tells_what_a_lost_message_did_not(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await crew.take("w")
    await crew.submit("t3")
    await crew.take("other")
    client = connection.connect_sync(crew.url)
    try:
        assert crew.queue.renew(client, "w", 60_000, "{}").wishes == {}
        await _cancel(crew, "t1", "why not")
        await _interrupt(crew, "t2")
        await _cancel(crew, "t3")
        assert crew.queue.renew(client, "w", 60_000, "{}").wishes == {"t1": "cancel", "t2": "interrupt"}
    finally:
        client.close()


async def test_workers_are_told_at_once(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await crew.take("w")
    async with crew.client.pubsub(ignore_subscribe_messages=True) as listening:
        await listening.subscribe(crew.keys.control)
        await _cancel(crew, "t1")
        await _interrupt(crew, "t2")
        heard: list[str] = []
        while len(heard) < 2:
            if message := await listening.get_message(timeout=5):
                heard.append(message["data"])
    assert heard == ["cancel\x1ft1", "interrupt\x1ft2"]


@pytest.mark.parametrize("state", ["completed", "failed", "dead", "cancelled"])
async def test_what_has_ended_is_neither_cancelled_nor_interrupted_nor_resumed(crew: Crew, state: str) -> None:
    await _make(crew, state)
    before = await crew.dump()
    for ask in (_cancel, _interrupt, _resume):
        if state == "cancelled" and ask is _cancel:
            assert await ask(crew, "t1")
            continue
        with pytest.raises(Conflict, match=f"it is {state}"):
            await ask(crew, "t1")
    assert await crew.dump() == before


@pytest.mark.parametrize("task_id", ["nobody", "no-run/step"])
async def test_what_is_not_there_is_not_found(crew: Crew, task_id: str) -> None:
    for ask in (_cancel, _interrupt, _resume):
        with pytest.raises(NotFound, match=task_id):
            await ask(crew, task_id)


async def test_delayed_work_that_is_on_a_stream_by_now_is_cancelled_and_its_entry_runs_nothing(crew: Crew) -> None:
    await _make(crew, "on a stream by now")
    with pytest.raises(RetryLater):
        await _interrupt(crew, "t1")
    assert await _cancel(crew, "t1")
    tasks = await crew.claim("w")
    assert [s.state for s in await crew.queue.start("w", tasks)] == ["stale"]
    await crew.queue.leave("w")
    await crew.assert_idle()


# Else its agent counts as one that works for ever.
@pytest.mark.parametrize("when", ["before its end", "with its end"])
async def test_a_stray_entry_that_began_is_no_longer_counted_once_it_ends(crew: Crew, when: str) -> None:
    await _make(crew, "on a stream by now")
    assert await _cancel(crew, "t1")
    tasks = await crew.claim("w")
    if when == "before its end":
        await crew.queue.finish("w", [], begun=tasks)
        assert await crew.client.hgetall(crew.keys.agents) == {"a": "1"}
    begun = tasks if when == "with its end" else ()
    assert await crew.queue.finish("w", [finished(tasks[0])], begun=begun) == (["stale"], None)
    assert await crew.state("t1") == "cancelled"
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_what_is_interrupted_before_it_is_due_is_not_early_when_it_is_resumed(crew: Crew) -> None:
    due = await server_ms(crew.client) + 60_000
    await crew.submit("t1", due_ms=due)
    await _interrupt(crew, "t1")
    assert await _resume(crew, "t1")
    assert await crew.state("t1") == "delayed"
    assert [score for _, score in await crew.client.zrange(crew.keys.delayed, 0, -1, withscores=True)] == [due]
    assert await crew.claim("w") == ()


async def test_a_step_that_is_interrupted_between_attempts_is_not_early_when_it_is_resumed(crew: Crew) -> None:
    await crew.run("r1", library("a"))
    await crew.finish("w", await crew.take("w"), "retry", ttl_ms=60_000)
    [(member, due)] = await crew.client.zrange(crew.keys.delayed, 0, -1, withscores=True)
    for _ in range(2):
        assert await _interrupt(crew, "r1/a")
        assert await crew.step_states("r1") == {"a": "interrupted"}
        assert await _resume(crew, "r1/a")
        assert await crew.step_states("r1") == {"a": "delayed"}
        assert await crew.client.zrange(crew.keys.delayed, 0, -1, withscores=True) == [(member, due)]
    assert await crew.claim("w", 2) == ()
    await crew.client.zadd(crew.keys.delayed, {member: 1})
    tasks = await crew.take("w", 3)
    assert [task.attempt for task in tasks] == [2]
    await crew.finish("w", tasks)
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.COMPLETED
    await crew.assert_idle()


async def test_a_step_that_waits_for_others_is_not_interrupted_and_that_is_said(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b")], ["a", "b"]))
    with pytest.raises(Conflict, match="waits for other steps"):
        await _interrupt(crew, "r1/b")


@pytest.mark.parametrize("how", ["hand back", "park"])
@pytest.mark.parametrize("kind", ["task", "step"])
async def test_the_entry_of_what_was_cancelled_is_not_put_back_by_whoever_gives_it_away(
    crew: Crew, kind: str, how: str
) -> None:
    """Else it would run, and end a second time."""
    if kind == "task":
        name = "t1"
        await _make(crew, "on a stream by now")
    else:
        name = "r1/a"
        await crew.run("r1", library("a", "b"))
        first, second = await crew.take("w0")
        await crew.finish("w0", [first], "retry", ttl_ms=0)
        await crew.finish("w0", [second])
        await crew.queue.leave("w0")
    while await crew.queued() == 0:
        await crew.queue.move_due()
    assert await _cancel(crew, name)
    tasks = await crew.claim("w")
    assert [task.id for task in tasks] == [name]
    for _ in range(2):
        if how == "park":
            assert await crew.queue.park("w", tasks, "no such agent") == ["stale"]
        else:
            assert await crew.queue.hand_back("w", tasks) == ["stale"]
    assert (await runs.result(crew.client, crew.keys, name)).success is False  # type: ignore[union-attr]
    assert [row["state"] for row in await crew.results() if row["id"] == name] == ["cancelled"]
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_interrupted_work_counts_against_the_bound(crew: Crew) -> None:
    await _make(crew, "interrupted")
    with pytest.raises(QueueFull):
        await crew.submit_all([Submission("t2", "a", payload("t2"))], max_queued=1)


async def test_a_table_of_moves_holds_for_every_call(crew: Crew) -> None:
    """Whatever is asked of a task in whatever state: its next state is one that the table allows."""
    for number, state in enumerate(["waiting", "delayed", "parked", "retrying", "interrupted", "running", *TERMINAL]):
        for ask in (_cancel, _interrupt, _resume):
            if state == TaskState.SKIPPED:
                continue
            task_id = "t1"
            await _make(crew, state)
            before = TaskState(await crew.state(task_id) or "")
            with contextlib.suppress(Conflict, RetryLater):
                await ask(crew, task_id)
            after = TaskState(await crew.state(task_id) or "")
            assert after is before or after in TRANSITIONS[before], f"{before} → {after} by {ask.__name__} ({number})"
            await _delete_records(crew)


async def _delete_records(crew: Crew) -> None:
    kept = {crew.keys.meta, crew.keys.definition(crew.definition.digest())}
    doomed = [key for key in await crew.client.keys(crew.keys.prefix + "*") if key not in kept]
    if doomed:
        await crew.client.delete(*doomed)


# ---------------------------------------------------------------- runs


async def test_a_cancelled_run_begins_nothing_more_and_ends_with_what_runs(crew: Crew) -> None:
    await crew.run("r1", library(*"abcdef", max_parallel_tasks=2))
    first, second = await crew.take("w", 1, 2)
    assert not await _cancel(crew, "r1", "enough")
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLING
    assert await crew.claim("w2") == (), "nothing else begins"
    await crew.finish("w", [first])
    await crew.finish("w", [second], "cancelled")
    status = await runs.status(crew.client, crew.keys, "r1")
    assert status.status is RunState.CANCELLED
    states = {s.name: s.status.value for s in status.steps}
    assert states == {"a": "completed", "b": "cancelled", **dict.fromkeys("cdef", "skipped")}
    result: Any = await runs.result(crew.client, crew.keys, "r1")
    assert (result.status, result.success) == (RunState.CANCELLED, False)
    assert await _cancel(crew, "r1"), "asked again, it is so already"
    await crew.queue.leave("w")
    await crew.queue.leave("w2")
    await crew.assert_idle()


async def test_a_run_that_waits_is_cancelled_at_once(crew: Crew) -> None:
    await crew.run("r1", library(*"abcdef", max_parallel_tasks=2))
    assert await _cancel(crew, "r1", "not today")
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLED
    result: Any = await runs.result(crew.client, crew.keys, "r1")
    assert result.error == "a: cancelled: not today\nb: cancelled: not today"
    assert await crew.queued() == 0
    await crew.assert_idle()


async def test_a_run_all_of_whose_steps_complete_while_it_is_cancelled_is_completed(crew: Crew) -> None:
    await crew.run("r1", library(*"ab", max_parallel_tasks=2))
    tasks = await crew.take("w")
    await _cancel(crew, "r1")
    await crew.finish("w", tasks)
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.COMPLETED


async def test_a_run_cancelled_again_goes_on_until_the_last_of_its_steps_has_stopped(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("c", "d")]))
    tasks = {task.step: task for task in await crew.take("w")}
    assert not await _cancel(crew, "r1")
    assert await crew.finish("w", [tasks["a"]]) == ["applied"], "so b would be ready"
    assert not await _cancel(crew, "r1"), "c still runs"
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLING
    assert await crew.finish("w", [tasks["c"]], "cancelled") == ["applied"]
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLED
    assert [row["id"] for row in await crew.results()].count("r1") == 1
    assert await crew.client.hget(crew.keys.run("r1"), "active") == "0"
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_large_run_is_cancelled_whole(crew: Crew) -> None:
    names = [f"s{i}" for i in range(1200)]
    await crew.run("r1", library(*names, max_parallel_tasks=600))
    assert await _cancel(crew, "r1")
    states = await crew.step_states("r1")
    assert sorted({*states.values()}) == ["cancelled", "skipped"]
    assert sum(state == "cancelled" for state in states.values()) == 600
    await crew.assert_idle()


async def test_a_run_with_delayed_and_interrupted_steps_is_cancelled_whole(crew: Crew) -> None:
    await crew.run("r1", library(*"abc", max_parallel_tasks=3))
    tasks = {t.step: t for t in await crew.take("w")}
    await crew.finish("w", [tasks["a"]], "retry", ttl_ms=60_000)
    await _interrupt(crew, "r1/b")
    await crew.finish("w", [tasks["b"]], "interrupted")
    await crew.finish("w", [tasks["c"]])
    assert await _cancel(crew, "r1")
    assert await crew.step_states("r1") == {"a": "cancelled", "b": "cancelled", "c": "completed"}
    await crew.queue.leave("w")
    await crew.assert_idle()


# Else it would stay as it is until somebody cancels it again.
async def test_a_run_is_cancelled_whole_though_its_canceller_dies_behind_its_first_write(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: Any) -> bool:
        raise KeyboardInterrupt

    await crew.run("r1", library(*"abcde", max_parallel_tasks=4))
    tasks = {t.step: t for t in await crew.take("w", slots=3)}
    await crew.finish("w", [tasks["a"]], "retry", ttl_ms=60_000)
    await _interrupt(crew, "r1/b")
    await crew.finish("w", [tasks["b"]], "interrupted")
    monkeypatch.setattr(control, "_stop", die)
    with pytest.raises(KeyboardInterrupt):
        await _cancel(crew, "r1")
    assert await crew.finish("w", [tasks["c"]], "retry") == ["applied"]
    states = {"a": "cancelled", "b": "cancelled", "c": "cancelled", "d": "cancelled", "e": "skipped"}
    assert await crew.step_states("r1") == states
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLED
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_cancelled_step_ends_what_is_behind_it_and_no_more(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("b", "c")], ["a", "b", "c", "d"]))
    assert await _cancel(crew, "r1/b", "not this one"), "it isn't even ready"
    for number in (1, 2):
        await crew.finish("w", await crew.take("w", number))
    assert await crew.step_states("r1") == {"a": "completed", "b": "cancelled", "c": "skipped", "d": "completed"}
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.PARTIAL
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_step_parked_for_its_runs_bound_may_be_interrupted_cancelled_and_resumed(crew: Crew) -> None:
    await crew.run("r1", library(*"abc", max_parallel_tasks=1))
    assert await _interrupt(crew, "r1/b")
    assert await _cancel(crew, "r1/c")
    assert await _resume(crew, "r1/b")
    tasks = await crew.take("w")
    assert [t.step for t in tasks] == ["a", "b"]
    await crew.finish("w", tasks)
    assert await crew.step_states("r1") == {"a": "completed", "b": "completed", "c": "cancelled"}
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_an_interrupted_step_holds_its_run_open_until_it_is_resumed(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b")], ["a", "b"]))
    tasks = await crew.take("w")
    assert not await _interrupt(crew, "r1/a")
    assert await crew.finish("w", tasks, "interrupted") == ["applied"]
    assert await crew.finish("w", tasks, "interrupted") == ["repeated"]
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.RUNNING
    assert await _resume(crew, "r1/a")
    for number in (2, 3):
        await crew.finish("w", await crew.take("w", number))
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.COMPLETED
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_whole_run_is_not_interrupted_but_its_steps_are(crew: Crew) -> None:
    await crew.run("r1", library(*"ab", max_parallel_tasks=2))
    with pytest.raises(Conflict, match="r1/STEP"):
        await _interrupt(crew, "r1")


async def test_a_run_abandoned_while_it_was_created_can_be_cancelled(crew: Crew) -> None:
    definition = library(*[f"s{i}" for i in range(700)], max_parallel_tasks=10)
    await definitions.apply(crew.client, crew.keys, definition)
    calls = runs.script_call(crew.keys, crew.uid, run_submission("r1", definition), 10_000, "")
    await scripts.run(crew.client, "submit_run", *calls[0])
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CREATING
    assert await _cancel(crew, "r1", "never mind")
    result: Any = await runs.result(crew.client, crew.keys, "r1")
    assert result.error == "cancelled: never mind"
    assert (await scripts.run(crew.client, "submit_run", *calls[1]))[1] == "exists", (
        "whoever creates it goes on in vain"
    )
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLED
    await crew.assert_idle()


# ---------------------------------------------------------------- draining


async def test_a_worker_that_is_to_drain_claims_nothing_until_that_is_taken_back(crew: Crew) -> None:
    await crew.submit("t1")
    assert await control.drain(crew.client, crew.keys, crew.uid, "host-1", on=True)
    assert not await control.drain(crew.client, crew.keys, crew.uid, "host-1", on=True)
    for number, life in enumerate(["host-1.aaaa", "host-1.bbbb"]):
        claim = await crew.queue.claim(life, 1, 5, lease_ms=60_000, take_over=True)
        assert (claim.tasks, claim.draining) == ((), True), f"life {number}"
    assert await control.drain(crew.client, crew.keys, crew.uid, "host-1", on=False)
    claim = await crew.queue.claim("host-1.bbbb", 2, 5, lease_ms=60_000, take_over=True)
    assert ([t.id for t in claim.tasks], claim.draining) == (["t1"], False)


async def test_who_is_told_to_drain_and_is_gone_for_a_day_is_forgotten(crew: Crew) -> None:
    await crew.claim("alive-1.aaaa")
    with contextlib.closing(connection.connect_sync(crew.url)) as client:
        crew.queue.renew(client, "alive-1.aaaa", 60_000, "{}")
    for worker in ("alive-1", "gone-1", "late-1"):
        await control.drain(crew.client, crew.keys, crew.uid, worker, on=True)
    long_ago = int((await crew.client.time())[0] * 1000 - 25 * 3_600_000)
    await crew.client.hset(crew.keys.meta, mapping={"drain:alive-1": long_ago, "drain:gone-1": long_ago})
    await control.drain(crew.client, crew.keys, crew.uid, "new-1", on=True)
    flags = {field for field in await crew.client.hkeys(crew.keys.meta) if field.startswith("drain:")}
    assert flags == {"drain:alive-1", "drain:late-1", "drain:new-1"}


async def test_a_draining_worker_that_heard_the_bell_leaves_it_to_others(crew: Crew) -> None:
    await crew.submit("t1")
    await control.drain(crew.client, crew.keys, crew.uid, "host-1", on=True)
    assert await crew.bell()
    assert await crew.claim("host-1.aaaa") == ()
    assert await crew.bell()


async def test_what_a_draining_worker_makes_ready_is_told_to_others(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b")]))
    (first,) = await crew.take("host-1.aaaa")
    await control.drain(crew.client, crew.keys, crew.uid, "host-1", on=True)
    assert await crew.bell()
    done = [finished(first, definition=crew.definition.digest())]
    _, claim = await crew.queue.finish("host-1.aaaa", done, number=2, slots=1, lease_ms=60_000)
    assert claim is not None
    assert claim.tasks == ()
    assert await crew.bell()


async def test_a_draining_worker_finishes_what_it_has_and_another_takes_the_rest(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    (first,) = await crew.take("host-1.aaaa", 1, 1)
    await control.drain(crew.client, crew.keys, crew.uid, "host-1", on=True)
    done = crew.queue.finish("host-1.aaaa", [finished(first)], number=2, slots=1, lease_ms=60_000)
    outcomes, claim = await done
    assert outcomes == ["applied"]
    assert claim is not None
    assert (claim.tasks, claim.draining) == ((), True)
    assert [t.id for t in await crew.claim("host-2.bbbb")] == ["t2"]


async def test_a_worker_that_vanished_is_forgotten_and_that_is_told(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.take("w")
    await crew.client.hset(crew.keys.workers, "w", "{}")
    await crew.queue.declare_dead(["w"])
    assert [t.id for t in await crew.claim("w2")] == ["t1"]
    assert await crew.client.hkeys(crew.keys.workers) == []
    (told,) = [e for e in await crew.events() if e["event_type"] == "worker_lost"]
    assert "worker w has vanished" in told["message"]


# ---------------------------------------------------------------- what dead workers held


async def _silent(crew: Crew, worker: str) -> None:
    """Its lease is over."""
    await crew.client.zadd(crew.keys.leases, {worker: await server_ms(crew.client) - 1}, xx=True)


async def test_what_a_dead_worker_held_is_cancelled_at_once_by_whoever_cancels(crew: Crew) -> None:
    await crew.submit("begun", "held", "waits")
    await crew.run("r1", library("a", "b", max_parallel_tasks=2))
    claimed = await crew.claim("w", slots=5)
    await crew.queue.start("w", [task for task in claimed if task.id in ("begun", "r1/a")])
    assert not await _cancel(crew, "begun"), "its worker is asked: it may live"
    await _silent(crew, "w")
    assert await control.cancelling(crew.client, crew.keys, crew.uid) == 0
    assert [await crew.state(i) for i in ("begun", "held")] == ["cancelled", "waiting"]
    assert await _cancel(crew, "r1")
    assert await _cancel(crew, "held", "no more")
    assert (await crew.task("held"))["attempt"] == "0", "it hadn't begun"
    assert await control.cancel_all(crew.client, crew.keys, crew.uid, None, "", TTL) == control.CancelledAll(1, 0)
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLED
    assert counted(await crew.results()) == dict.fromkeys(("begun", "held", "waits", "r1/a", "r1/b", "r1"), 1)
    assert await crew.finish("w", claimed) == ["stale"] * 5, "it comes back"
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_what_a_dead_worker_held_is_set_aside_and_the_attempt_that_died_counts(crew: Crew) -> None:
    await crew.submit("begun", "held")
    claimed = await crew.claim("w")
    await crew.queue.start("w", claimed[:1])
    await _silent(crew, "w")
    for task in ("begun", "held"):
        assert await control.interrupt(crew.client, crew.keys, crew.uid, task, "")
        assert await control.resume(crew.client, crew.keys, crew.uid, task)
    assert {t.id: t.attempt for t in await crew.claim("w2")} == {"begun": 2, "held": 1}


async def test_whoever_cancels_knows_of_processes_of_this_host_that_have_ended(crew: Crew) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    host, _, rest = incarnations.fresh().rpartition("-")
    worker = f"{host}-{gone.pid}.{rest.partition('.')[2]}"
    for task in ("t1", "t2"):
        await crew.submit(task)
        await crew.take(worker, lease_ms=LEASE_MS)
        worker += "a"
    await crew.run("r1", library("a"))
    await crew.take(worker, lease_ms=LEASE_MS)
    assert await _cancel(crew, "t1")
    assert await control.interrupt(crew.client, crew.keys, crew.uid, "t2", "")
    assert await _cancel(crew, "r1")
