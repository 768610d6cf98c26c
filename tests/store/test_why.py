"""Why a task isn't done yet: what one script reads of it in a real store, wherever it may be."""

from __future__ import annotations

import asyncio

import pytest
from support import LEASE_MS, SHORT_MS, Crew, flow_of, server_ms

from waiting import until
from watchbill import connection
from watchbill.connection import scripts
from watchbill.errors import NotFound
from watchbill.plan.why import Reason, Why, explain
from watchbill.store import control
from watchbill.store.why import seen
from watchbill.tasks import Priority


async def why(crew: Crew, task_id: str) -> Why:
    return explain(await seen(crew.client, crew.keys, task_id, 3))


async def test_a_waiting_task_tells_what_is_before_it_by_priority(crew: Crew) -> None:
    await crew.submit("n1", "n2", "n3")
    await crew.submit("c1", priority=Priority.CRITICAL)
    await crew.submit("l1", priority=Priority.LOW)
    told = await why(crew, "n3")
    assert (told.kind, told.state, told.agent, told.priority) == ("task", "waiting", "a", "normal")
    assert (told.reason, told.before, told.before_is_least) == (Reason.NO_WORKER, 3, False)
    assert told.message == "no worker lives; 3 tasks are before it (1 of higher priority)"
    assert (told.starts_in_seconds, told.starts) == (None, "unknown: when a worker comes")
    assert (await why(crew, "l1")).before == 4

    assert [t.id for t in await crew.take("h-1.x", slots=2)] == ["c1", "n1"]
    sync = connection.connect_sync(crew.url)
    await asyncio.to_thread(crew.queue.renew, sync, "h-1.x", LEASE_MS, '{"running": 2, "slots": 2}')
    sync.close()
    told = await why(crew, "n3")
    assert (told.reason, told.before) == (Reason.QUEUED, 1)
    assert told.message == "1 task is before it; 2 of 2 slots are busy"
    assert told.starts == "unknown: too few tasks have ended to tell how fast the crew is"

    await control.drain(crew.client, crew.keys, crew.uid, "h-1", on=True)
    assert (await why(crew, "n3")).reason is Reason.DRAINING


async def test_more_entries_than_one_call_looks_at_are_counted_in_further_calls(crew: Crew) -> None:
    await crew.submit(*(f"t{i}" for i in range(2500)))
    told = await why(crew, "t2499")
    assert (told.before, told.before_is_least) == (2499, False)
    assert (await why(crew, "t1000")).before == 1000


async def test_the_script_writes_nothing_and_a_reader_may_call_it(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    before = await crew.dump()
    keys = crew.keys
    names = [*keys.fixed, keys.task("t2"), keys.run("t2"), keys.run_steps("t2")]
    text, _ = scripts.source("why")
    answer = await crew.client.execute_command("EVAL_RO", text, len(names), *names, "t2", "", "", 10)
    assert answer[9][0] == 1
    assert await crew.dump() == before


async def test_a_task_that_runs_or_was_handed_back_names_its_worker(crew: Crew) -> None:
    await crew.submit("t1", "t2", "t3")
    held = await crew.take("w1", slots=2)
    told = await why(crew, "t1")
    assert (told.state, told.reason, told.before) == ("running", Reason.RUNNING, None)
    assert told.message.startswith("worker w1 has been running attempt 1 for ")
    assert [(a.number, a.outcome, a.worker) for a in told.attempts] == [(1, "running", "w1")]

    await control.cancel(crew.client, crew.keys, crew.uid, "t1", "", 1000)
    assert (await why(crew, "t1")).reason is Reason.CANCELLING

    await crew.queue.hand_back("w1", held[1:])
    told = await why(crew, "t2")
    assert (told.state, told.reason, told.before) == ("waiting", Reason.HANDED_BACK, 0)
    assert (await why(crew, "t3")).before == 1, "what was handed back goes first"


async def test_a_worker_whose_lease_is_over_is_named_silent_and_its_attempt_lost(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.take("w1", lease_ms=SHORT_MS)
    until_ms = int(await crew.client.zscore(crew.keys.leases, "w1"))

    async def is_over() -> bool:
        return await server_ms(crew.client) > until_ms

    await until(is_over)
    told = await why(crew, "t1")
    assert (told.reason, told.starts) == (Reason.WORKER_SILENT, "unknown: no worker lives")
    await crew.queue.declare_dead(["w1"])
    await crew.take("w2")
    told = await why(crew, "t1")
    assert [(a.number, a.outcome, a.worker) for a in told.attempts] == [(1, "lost", ""), (2, "running", "w2")]


async def test_failed_attempts_are_told_with_their_workers_and_the_next_with_its_time(crew: Crew) -> None:
    await crew.submit("t1")
    for worker, ttl in (("w1", 0), ("w2", 3_600_000)):
        tasks = await crew.take(worker)
        message = f"attempt {tasks[0].attempt} failed: it\nbroke"
        await crew.finish(worker, tasks, "retry", ttl_ms=ttl, message=message)
    told = await why(crew, "t1")
    assert (told.state, told.reason, told.attempt, told.max_attempts) == ("delayed", Reason.RETRY, 2, 3)
    assert told.starts_in_seconds is not None
    assert 1800 < told.starts_in_seconds <= 3600
    assert told.message.startswith("attempt 2 failed; attempt 3 of 3 is due in ")
    assert [(a.number, a.outcome, a.worker, a.message) for a in told.attempts] == [
        (1, "failed", "w1", "attempt 1 failed: it broke"),
        (2, "failed", "w2", "attempt 2 failed: it broke"),
    ]


async def test_work_that_is_set_aside_says_for_what_it_waits(crew: Crew) -> None:
    due_ms = await server_ms(crew.client) + 3_600_000
    await crew.submit("later", due_ms=due_ms)
    told = await why(crew, "later")
    assert told.reason is Reason.DELAYED
    assert told.starts.startswith("in ")

    await crew.submit("stranger", agent="b")
    await crew.queue.park("w1", await crew.take("w1"), "no worker can run agent b")
    told = await why(crew, "stranger")
    assert (told.state, told.reason) == ("parked", Reason.AGENT_UNAVAILABLE)
    assert "its agent 'b'" in told.message

    await control.interrupt(crew.client, crew.keys, crew.uid, "later", "")
    assert (await why(crew, "later")).reason is Reason.INTERRUPTED


async def test_a_step_waits_for_its_run_s_bound_or_for_other_steps(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "d"), ("b", "d")], ["a", "b", "d"]), parallel=1)
    told = await why(crew, "r1")
    assert (told.kind, told.state, told.reason) == ("run", "running", Reason.RUNNING)
    assert told.message == "0 of 3 steps have ended; now: a waiting, b parked"
    assert told.waits_for == ("a", "b")

    assert (await why(crew, "r1/a")).before == 0
    told = await why(crew, "r1/b")
    assert told.reason is Reason.CONCURRENCY
    assert "its run has 1 steps at once, and maxParallelTasks allows 1" in told.message
    told = await why(crew, "r1/d")
    assert (told.reason, told.waits_for) == (Reason.DEPENDENCY, ("a", "b"))
    assert told.message == "it comes after a (waiting), b (parked)"

    await crew.finish("w", await crew.take("w"), "dead")
    told = await why(crew, "r1/a")
    assert (told.reason, told.state) == (Reason.ENDED, "dead")
    told = await why(crew, "r1/d")
    assert told.reason is Reason.BEHIND_FAILURE
    assert told.message == "it comes after steps that did not complete: a is dead"
    await crew.finish("w", await crew.take("w", 2))
    told = await why(crew, "r1")
    assert (told.reason, told.message) == (Reason.ENDED, "the run has ended as failed: 3 of 3 steps ended")


async def test_a_crew_without_the_task_says_so(crew: Crew) -> None:
    with pytest.raises(NotFound, match="has no run or task 'nothing'"):
        await why(crew, "nothing")
    with pytest.raises(NotFound, match="has no run or task 'r1/a'"):
        await why(crew, "r1/a")
