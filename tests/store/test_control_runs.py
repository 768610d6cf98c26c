"""Control of runs and workers."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any

import pytest
from asks import TTL, ask_to_cancel, ask_to_interrupt, ask_to_resume
from support import LEASE_MS, Crew, counted, finished, flow_of, lenient, library, run_submission, server_ms

from watchbill import connection
from watchbill.connection import scripts
from watchbill.errors import Conflict
from watchbill.store import control, definitions, incarnations, runs
from watchbill.tasks import RunState

# ---------------------------------------------------------------- runs


async def test_a_cancelled_run_begins_nothing_more_and_ends_with_what_runs(crew: Crew) -> None:
    await crew.run("r1", library(*"abcdef", max_parallel_tasks=2))
    first, second = await crew.take("w", 1, 2)
    assert not await ask_to_cancel(crew, "r1", "enough")
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
    assert await ask_to_cancel(crew, "r1"), "asked again, it is so already"
    await crew.queue.leave("w")
    await crew.queue.leave("w2")
    await crew.assert_idle()


async def test_a_run_that_waits_is_cancelled_at_once(crew: Crew) -> None:
    await crew.run("r1", library(*"abcdef", max_parallel_tasks=2))
    assert await ask_to_cancel(crew, "r1", "not today")
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLED
    result: Any = await runs.result(crew.client, crew.keys, "r1")
    assert result.error == "a: cancelled: not today\nb: cancelled: not today"
    assert await crew.queued() == 0
    await crew.assert_idle()


async def test_a_run_all_of_whose_steps_complete_while_it_is_cancelled_is_completed(crew: Crew) -> None:
    await crew.run("r1", library(*"ab", max_parallel_tasks=2))
    tasks = await crew.take("w")
    await ask_to_cancel(crew, "r1")
    await crew.finish("w", tasks)
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.COMPLETED


async def test_a_run_cancelled_again_goes_on_until_the_last_of_its_steps_has_stopped(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("c", "d")]))
    tasks = {task.step: task for task in await crew.take("w")}
    assert not await ask_to_cancel(crew, "r1")
    assert await crew.finish("w", [tasks["a"]]) == ["applied"], "so b would be ready"
    assert not await ask_to_cancel(crew, "r1"), "c still runs"
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
    assert await ask_to_cancel(crew, "r1")
    states = await crew.step_states("r1")
    assert sorted({*states.values()}) == ["cancelled", "skipped"]
    assert sum(state == "cancelled" for state in states.values()) == 600
    await crew.assert_idle()


async def test_a_run_with_delayed_and_interrupted_steps_is_cancelled_whole(crew: Crew) -> None:
    await crew.run("r1", library(*"abc", max_parallel_tasks=3))
    tasks = {t.step: t for t in await crew.take("w")}
    await crew.finish("w", [tasks["a"]], "retry", ttl_ms=60_000)
    await ask_to_interrupt(crew, "r1/b")
    await crew.finish("w", [tasks["b"]], "interrupted")
    await crew.finish("w", [tasks["c"]])
    assert await ask_to_cancel(crew, "r1")
    assert await crew.step_states("r1") == {"a": "cancelled", "b": "cancelled", "c": "completed"}
    await crew.queue.leave("w")
    await crew.assert_idle()


# Else it would stay as it is until somebody cancels it again.
@pytest.mark.parametrize("end", ["failed", "skipped"])
async def test_a_run_is_cancelled_whole_though_a_step_before_has_not_completed(crew: Crew, end: Any) -> None:
    await crew.run("r1", lenient(flow_of([("a", "b"), ("a", "c"), ("a", "d")]), "a"))
    await crew.finish("w", await crew.take("w"), end)
    b, c, d = await crew.take("w", 2)
    await crew.finish("w", [c], "interrupted")
    await crew.finish("w", [d], "retry", ttl_ms=60_000)
    assert not await ask_to_cancel(crew, "r1")
    assert await crew.step_states("r1") == {"a": end, "b": "cancelling", "c": "cancelled", "d": "cancelled"}
    await crew.finish("w", [b], "cancelled")
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLED
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_run_is_cancelled_whole_though_its_canceller_dies_behind_its_first_write(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: Any) -> bool:
        raise KeyboardInterrupt

    await crew.run("r1", library(*"abcde", max_parallel_tasks=4))
    tasks = {t.step: t for t in await crew.take("w", slots=3)}
    await crew.finish("w", [tasks["a"]], "retry", ttl_ms=60_000)
    await ask_to_interrupt(crew, "r1/b")
    await crew.finish("w", [tasks["b"]], "interrupted")
    monkeypatch.setattr(control, "_stop", die)
    with pytest.raises(KeyboardInterrupt):
        await ask_to_cancel(crew, "r1")
    assert await crew.finish("w", [tasks["c"]], "retry") == ["applied"]
    states = {"a": "cancelled", "b": "cancelled", "c": "cancelled", "d": "cancelled", "e": "skipped"}
    assert await crew.step_states("r1") == states
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CANCELLED
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_cancelled_step_ends_what_is_behind_it_and_no_more(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("b", "c")], ["a", "b", "c", "d"]))
    assert await ask_to_cancel(crew, "r1/b", "not this one"), "it isn't even ready"
    for number in (1, 2):
        await crew.finish("w", await crew.take("w", number))
    assert await crew.step_states("r1") == {"a": "completed", "b": "cancelled", "c": "skipped", "d": "completed"}
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.PARTIAL
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_step_parked_for_its_runs_bound_may_be_interrupted_cancelled_and_resumed(crew: Crew) -> None:
    await crew.run("r1", library(*"abc", max_parallel_tasks=1))
    assert await ask_to_interrupt(crew, "r1/b")
    assert await ask_to_cancel(crew, "r1/c")
    assert await ask_to_resume(crew, "r1/b")
    assert await crew.step_states("r1") == {"a": "waiting", "b": "parked", "c": "cancelled"}
    for number, step in ((1, "a"), (2, "b")):
        tasks = await crew.take("w", number)
        assert [t.step for t in tasks] == [step], "within the run's bound"
        await crew.finish("w", tasks)
    assert await crew.step_states("r1") == {"a": "completed", "b": "completed", "c": "cancelled"}
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_resumed_step_waits_for_none_that_is_interrupted(crew: Crew) -> None:
    await crew.run("r1", library(*"abcd", max_parallel_tasks=1))
    for step in "bcd":
        assert await ask_to_interrupt(crew, f"r1/{step}")
    assert await ask_to_resume(crew, "r1/b")
    assert await crew.step_states("r1") == {"a": "waiting", "b": "parked", "c": "interrupted", "d": "interrupted"}
    await crew.finish("w", await crew.take("w", 1))
    assert await crew.step_states("r1") == {"a": "completed", "b": "waiting", "c": "interrupted", "d": "interrupted"}
    assert await ask_to_cancel(crew, "r1/d")
    assert await ask_to_resume(crew, "r1/c")
    for number, step in ((2, "b"), (3, "c")):
        tasks = await crew.take("w", number)
        assert [t.step for t in tasks] == [step], "within the run's bound"
        await crew.finish("w", tasks)
    assert await crew.step_states("r1") == {"a": "completed", "b": "completed", "c": "completed", "d": "cancelled"}
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_step_that_is_interrupted_in_its_place_keeps_it(crew: Crew) -> None:
    await crew.run("r1", library(*"ab", max_parallel_tasks=1))
    assert await ask_to_interrupt(crew, "r1/a")
    assert await ask_to_interrupt(crew, "r1/b")
    assert await ask_to_resume(crew, "r1/b")
    assert await crew.step_states("r1") == {"a": "interrupted", "b": "parked"}
    assert await ask_to_resume(crew, "r1/a")
    assert await crew.step_states("r1") == {"a": "waiting", "b": "parked"}
    for number, step in ((1, "a"), (2, "b")):
        tasks = await crew.take("w", number)
        assert [t.step for t in tasks] == [step], "within the run's bound"
        await crew.finish("w", tasks)
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_an_interrupted_step_holds_its_run_open_until_it_is_resumed(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b")], ["a", "b"]))
    tasks = await crew.take("w")
    assert not await ask_to_interrupt(crew, "r1/a")
    assert await crew.finish("w", tasks, "interrupted") == ["applied"]
    assert await crew.finish("w", tasks, "interrupted") == ["repeated"]
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.RUNNING
    assert await ask_to_resume(crew, "r1/a")
    for number in (2, 3):
        await crew.finish("w", await crew.take("w", number))
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.COMPLETED
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_whole_run_is_not_interrupted_but_its_steps_are(crew: Crew) -> None:
    await crew.run("r1", library(*"ab", max_parallel_tasks=2))
    with pytest.raises(Conflict, match="r1/STEP"):
        await ask_to_interrupt(crew, "r1")


async def test_a_run_abandoned_while_it_was_created_can_be_cancelled(crew: Crew) -> None:
    definition = library(*[f"s{i}" for i in range(700)], max_parallel_tasks=10)
    await definitions.apply(crew.client, crew.keys, definition)
    calls = runs.script_call(crew.keys, crew.uid, run_submission("r1", definition), 10_000, "")
    await scripts.run(crew.client, "submit_run", *calls[0])
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CREATING
    assert await ask_to_cancel(crew, "r1", "never mind")
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
    assert not await ask_to_cancel(crew, "begun"), "its worker is asked: it may live"
    await _silent(crew, "w")
    assert await control.cancelling(crew.client, crew.keys, crew.uid) == 0
    assert [await crew.state(i) for i in ("begun", "held")] == ["cancelled", "waiting"]
    assert await ask_to_cancel(crew, "r1")
    assert await ask_to_cancel(crew, "held", "no more")
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
    assert await ask_to_cancel(crew, "t1")
    assert await control.interrupt(crew.client, crew.keys, crew.uid, "t2", "")
    assert await ask_to_cancel(crew, "r1")
