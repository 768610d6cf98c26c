"""Work that people cancel, interrupt and resume, and workers that they drain."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from asks import TTL, ask_to_cancel, ask_to_interrupt, ask_to_resume
from support import Crew, finished, flow_of, library, payload, server_ms

from watchbill import connection
from watchbill.errors import Conflict, NotFound, QueueFull, RetryLater
from watchbill.store import runs
from watchbill.store.queue import Claimed
from watchbill.store.submissions import Submission
from watchbill.tasks import TERMINAL, TRANSITIONS, RunState, TaskState


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
        assert await ask_to_interrupt(crew, "t1")
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
    assert await ask_to_cancel(crew, "t1", "no longer needed")
    assert await crew.state("t1") == "cancelled"
    result: Any = await runs.result(crew.client, crew.keys, "t1")
    assert (result.success, result.error, result.agent_name) == (False, "cancelled: no longer needed", "a")
    assert await crew.claim("z") == ()
    await crew.queue.leave("z")
    assert (await crew.results())[-1]["state"] == "cancelled"
    assert (await crew.events())[-1]["event_type"] == "task_cancelled"
    assert await ask_to_cancel(crew, "t1"), "asked again, it is so already"
    await crew.queue.leave("w")
    await crew.assert_idle()
    assert 0 < await crew.client.pttl(crew.keys.task("t1")) <= TTL


@pytest.mark.parametrize("state", ["waiting", "delayed", "parked", "retrying", "handed back"])
async def test_what_nobody_runs_is_interrupted_at_once_and_resumed_with_all_that_it_had(crew: Crew, state: str) -> None:
    await _make(crew, state)
    attempts = 2 if state == "retrying" else 1
    assert await ask_to_interrupt(crew, "t1", "wait for the figures")
    assert await crew.state("t1") == "interrupted"
    assert await crew.queued() == 0
    assert await crew.claim("z") == ()
    assert await ask_to_interrupt(crew, "t1"), "asked again, it is so already"
    assert await ask_to_resume(crew, "t1")
    assert not await ask_to_resume(crew, "t1"), "asked again, it waits already"
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
    assert not await ask_to_cancel(crew, "t1", "too slow")
    assert await crew.state("t1") == "cancelling"
    assert not await ask_to_cancel(crew, "t1", "too slow")
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
    await ask_to_cancel(crew, "t1")
    assert await crew.finish("w", [task], outcome) == ["applied"]
    assert await crew.state("t1") == outcome
    with pytest.raises(Conflict, match=f"it is {outcome}"):
        await ask_to_cancel(crew, "t1")
    assert await crew.client.exists(crew.keys.wishes) == 0


async def test_a_failed_attempt_of_what_is_to_be_cancelled_is_not_tried_again(crew: Crew) -> None:
    (task,) = await _make(crew, "running")
    await ask_to_cancel(crew, "t1")
    assert await crew.finish("w", [task], "retry", ttl_ms=0) == ["applied"]
    assert await crew.state("t1") == "cancelled"
    assert await crew.client.zcard(crew.keys.delayed) == 0
    assert TTL - 30_000 < await crew.client.pttl(crew.keys.task("t1")) <= TTL, "as long as whoever cancelled it said"


async def test_an_interrupted_attempt_does_not_count_and_a_failed_one_does(crew: Crew) -> None:
    (task,) = await _make(crew, "running")
    assert not await ask_to_interrupt(crew, "t1")
    await crew.finish("w", [task], "interrupted")
    assert await crew.state("t1") == "interrupted"
    await ask_to_resume(crew, "t1")
    (task,) = await crew.take("w", 2)
    assert task.attempt == 1
    await ask_to_interrupt(crew, "t1")
    await crew.finish("w", [task], "retry", ttl_ms=1)
    assert await crew.state("t1") == "interrupted"
    await ask_to_resume(crew, "t1")
    (task,) = await crew.take("w", 3)
    assert task.attempt == 2


async def test_cancel_goes_before_interrupt(crew: Crew) -> None:
    (task,) = await _make(crew, "running")
    await ask_to_interrupt(crew, "t1")
    await ask_to_cancel(crew, "t1")
    with pytest.raises(Conflict, match="it is cancelling"):
        await ask_to_interrupt(crew, "t1")
    await crew.finish("w", [task], "interrupted")
    assert await crew.state("t1") == "cancelled"


async def test_what_is_to_be_cancelled_and_was_handed_back_is_not_interrupted(crew: Crew) -> None:
    (task,) = await _make(crew, "running")
    await ask_to_cancel(crew, "t1")
    await crew.queue.hand_back("w", [task])
    with pytest.raises(Conflict, match="it is cancelling"):
        await ask_to_interrupt(crew, "t1")
    assert await crew.state("t1") == "cancelling"
    assert await ask_to_cancel(crew, "t1")
    assert await crew.state("t1") == "cancelled"
    assert await crew.client.exists(crew.keys.wishes) == 0


async def test_what_is_to_be_stopped_is_not_begun_by_whoever_takes_it_over(crew: Crew) -> None:
    await _make(crew, "running")
    await ask_to_cancel(crew, "t1")
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
    [(ask_to_cancel, "cancel", "cancelling", "cancelled"), (ask_to_interrupt, "interrupt", "waiting", "interrupted")],
)
@pytest.mark.parametrize("how", ["hand back", "park"])
async def test_a_wish_outlives_the_worker_that_gives_the_task_away(
    crew: Crew, how: str, ask: Any, wish: str, state: str, end: Any
) -> None:
    (task,) = await _make(crew, "running")
    await ask(crew, "t1")
    if how == "park":
        assert await crew.queue.park("w", [task], "no such agent") == ["stopped"]
        assert await crew.queue.park("w", [task], "no such agent") == ["repeated"]
    else:
        assert await crew.queue.hand_back("w", [task]) == ["applied"]
    assert await crew.state("t1") == state
    (taken,) = await crew.claim("w2")
    assert taken.wish == wish
    assert await crew.finish("w2", [taken], end) == ["applied"]
    assert await crew.state("t1") == end
    assert await ask_to_cancel(crew, "t1")
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
        await ask_to_cancel(crew, "t1", "why not")
        await ask_to_interrupt(crew, "t2")
        await ask_to_cancel(crew, "t3")
        assert crew.queue.renew(client, "w", 60_000, "{}").wishes == {"t1": "cancel", "t2": "interrupt"}
    finally:
        client.close()


async def test_workers_are_told_at_once(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    await crew.take("w")
    async with crew.client.pubsub(ignore_subscribe_messages=True) as listening:
        await listening.subscribe(crew.keys.control)
        await ask_to_cancel(crew, "t1")
        await ask_to_interrupt(crew, "t2")
        heard: list[str] = []
        while len(heard) < 2:
            if message := await listening.get_message(timeout=180):
                heard.append(message["data"])
    assert heard == ["cancel\x1ft1", "interrupt\x1ft2"]


@pytest.mark.parametrize("state", ["completed", "failed", "dead", "cancelled"])
async def test_what_has_ended_is_neither_cancelled_nor_interrupted_nor_resumed(crew: Crew, state: str) -> None:
    await _make(crew, state)
    before = await crew.dump()
    for ask in (ask_to_cancel, ask_to_interrupt, ask_to_resume):
        if state == "cancelled" and ask is ask_to_cancel:
            assert await ask(crew, "t1")
            continue
        with pytest.raises(Conflict, match=f"it is {state}"):
            await ask(crew, "t1")
    assert await crew.dump() == before


@pytest.mark.parametrize("task_id", ["nobody", "no-run/step"])
async def test_what_is_not_there_is_not_found(crew: Crew, task_id: str) -> None:
    for ask in (ask_to_cancel, ask_to_interrupt, ask_to_resume):
        with pytest.raises(NotFound, match=task_id):
            await ask(crew, task_id)


async def test_delayed_work_that_is_on_a_stream_by_now_is_cancelled_and_its_entry_runs_nothing(crew: Crew) -> None:
    await _make(crew, "on a stream by now")
    with pytest.raises(RetryLater):
        await ask_to_interrupt(crew, "t1")
    assert await ask_to_cancel(crew, "t1")
    tasks = await crew.claim("w")
    assert [s.state for s in await crew.queue.start("w", tasks)] == ["stale"]
    await crew.queue.leave("w")
    await crew.assert_idle()


# Else its agent counts as one that works for ever.
@pytest.mark.parametrize("when", ["before its end", "with its end"])
async def test_a_stray_entry_that_began_is_no_longer_counted_once_it_ends(crew: Crew, when: str) -> None:
    await _make(crew, "on a stream by now")
    assert await ask_to_cancel(crew, "t1")
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
    await ask_to_interrupt(crew, "t1")
    assert await ask_to_resume(crew, "t1")
    assert await crew.state("t1") == "delayed"
    assert [score for _, score in await crew.client.zrange(crew.keys.delayed, 0, -1, withscores=True)] == [due]
    assert await crew.claim("w") == ()


async def test_a_step_that_is_interrupted_between_attempts_is_not_early_when_it_is_resumed(crew: Crew) -> None:
    await crew.run("r1", library("a"))
    await crew.finish("w", await crew.take("w"), "retry", ttl_ms=60_000)
    [(member, due)] = await crew.client.zrange(crew.keys.delayed, 0, -1, withscores=True)
    for _ in range(2):
        assert await ask_to_interrupt(crew, "r1/a")
        assert await crew.step_states("r1") == {"a": "interrupted"}
        assert await ask_to_resume(crew, "r1/a")
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
        await ask_to_interrupt(crew, "r1/b")


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
    assert await ask_to_cancel(crew, name)
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
        for ask in (ask_to_cancel, ask_to_interrupt, ask_to_resume):
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
