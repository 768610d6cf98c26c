"""Workers that die, or are taken for dead: what they held is done by others, once, and they can't spoil it."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections import Counter
from typing import Any

from workshop import OF_INCARNATIONS, Crew, Make, Process, agent, metrics_of

from waiting import until
from watchbill.records import ExecutionMode
from watchbill.store import incarnations
from watchbill.tasks import Priority, RunState, TaskState

SLACK = 60
"""Seconds that a busy machine may take on top."""


async def taken_over(crew: Crew, survivor: Process, *task_ids: str) -> None:
    await until(lambda: set(task_ids) <= crew.started_by(survivor), what=f"a take-over of {task_ids}")


async def fenced(process: Process) -> None:
    """Until it has learnt that it was taken for dead."""
    await until(lambda: "silent for longer than its lease" in process.log, what="its knowledge of being fenced")


# ---------------------------------------------------------------- kill -9


async def test_what_a_killed_worker_ran_is_finished_by_another_within_its_lease_and_two_seconds(
    make_crew: Make,
) -> None:
    lease = 12  # a busy machine must not let a worker be silent for as long
    crew = await make_crew({"a": "SecondTime"}, lease_seconds=lease)
    first = await crew.worker()
    await crew.submit("t", "a")
    await crew.started("t")
    second = await crew.worker()
    busy_until = time.monotonic() + lease * 1.1
    await until(lambda: time.monotonic() > busy_until)
    assert crew.executions() == {"t": 1}, "a busy worker that lives is not taken for dead"

    killed = first.kill()
    result = await crew.result("t")
    assert time.monotonic() - killed < lease + 2 + SLACK
    assert result.success
    assert result.output == "attempt 2"
    assert result.attempt == 2
    assert crew.started_by(second) == {"t"}
    assert crew.executions() == {"t": 2}
    assert await crew.ends() == {("t", "completed"): 1}
    assert await crew.ended_events() == {"t": 1}
    assert await crew.is_idle()
    fences = [line["fence"] for line in crew.notes()]
    assert fences[1] > fences[0]


async def test_a_run_goes_on_after_a_kill_between_any_two_of_its_steps(make_crew: Make) -> None:
    """Each run loses its worker at the moment at which the feed tells that step k has ended."""
    steps = ["s1", "s2", "s3", "s4"]

    async def lose_worker_after(gap: int) -> None:
        crew = await make_crew(dict.fromkeys(steps, "Gate"), lease_seconds=1)
        done, next_step = [f"r/{s}" for s in steps[:gap]], f"r/{steps[gap]}"
        crew.open(*done)
        first = await crew.worker()
        await crew.submit("r")
        await until(lambda: crew.client.result(crew.name, done[-1]), what=f"the end of {done[-1]}")
        first.kill()
        assert await crew.result_of_run("r") is None
        crew.open()
        await crew.worker()
        run = await crew.run_result("r")
        assert run.status is RunState.COMPLETED
        assert [run.steps[s].success for s in steps] == [True] * 4
        executions = crew.executions()
        assert [executions[step] for step in done] == [1] * gap, "finished steps are not run again"
        # it may, or may not, have been started before the kill
        assert executions[next_step] in (1, 2)
        assert [executions[f"r/{s}"] for s in steps[gap + 1 :]] == [1] * (3 - gap)
        ends = await crew.ends()
        assert ends == {("r", "completed"): 1} | {(f"r/{s}", "completed"): 1 for s in steps}
        assert await crew.is_idle()

    await asyncio.gather(*(lose_worker_after(gap) for gap in (1, 2, 3)))


async def test_a_parallel_run_goes_on_after_a_kill_with_some_steps_done_and_some_running(make_crew: Make) -> None:
    names = ["p1", "p2", "p3", "p4"]
    crew = await make_crew(dict.fromkeys(names, "Gate"), mode=ExecutionMode.PARALLEL, lease_seconds=1)
    first = await crew.worker()
    await crew.submit("r")
    await crew.started(*(f"r/{name}" for name in names))
    crew.open("r/p1", "r/p3")
    await until(lambda: crew.client.result(crew.name, "r/p1"))
    await until(lambda: crew.client.result(crew.name, "r/p3"))
    first.kill()
    crew.open()
    await crew.worker()
    run = await crew.run_result("r")
    assert run.success
    assert run.output == {name: f"{name}: do it" for name in names}
    assert crew.executions() == {"r/p1": 1, "r/p2": 2, "r/p3": 1, "r/p4": 2}
    assert Counter((await crew.ends()).values()) == {1: 5}


# ---------------------------------------------------------------- taken for dead


async def test_a_worker_stopped_past_its_lease_writes_and_renews_nothing_says_so_and_works_on_anew(
    make_crew: Make,
) -> None:
    crew = await make_crew({"a": "SayingGate", "b": "ThreadGate", "c": "Gate"}, lease_seconds=1)
    zombie = await crew.worker()
    for name in "abc":
        await crew.submit(f"t-{name}", name)
    await crew.started("t-a", "t-b", "t-c")
    (old,) = await crew.incarnations(zombie)
    zombie.signal(signal.SIGSTOP)

    healthy = await crew.worker()
    await taken_over(crew, healthy, "t-a", "t-b", "t-c")
    crew.open()  # also for the zombie, which will want to finish all three, and say so on the feed, when it wakes
    results = await crew.results(["t-a", "t-b", "t-c"])
    assert [result.attempt for result in results] == [2, 2, 2]
    await until(crew.is_checked, what="its agents are loaded, which an idle worker does and tells")
    await healthy.drain()
    feeds = ["events", *(f"events:agent:{name}" for name in "abc")]  # its new incarnation tells of its agents

    async def told() -> list[Any]:
        return [e for e in await crew.events() if e.event_type not in ("agent_spawned", "agent_stopped")]

    before, told_before = await crew.stored(*OF_INCARNATIONS, *feeds), await told()
    assert old not in await crew.incarnations()

    zombie.signal(signal.SIGCONT)
    await fenced(zombie)
    (new,) = await until(lambda: crew.incarnations(zombie), what="a new incarnation")
    assert new != old
    # Its thread has ended and been refused, or it never will: both are over a lease later.
    over = time.monotonic() + 1.5
    while time.monotonic() < over:
        assert old not in await crew.incarnations(), "it renews nothing"
        assert await crew.stored(*OF_INCARNATIONS, *feeds) == before, "it writes nothing"
        assert await told() == told_before, "it says nothing"
        await asyncio.sleep(0.05)
    assert await crew.redis.hexists(crew.keys.claims, old) == 0
    assert await crew.ends() == {(f"t-{name}", "completed"): 1 for name in "abc"}

    await crew.submit("t-new", "c")
    assert (await crew.result("t-new")).success
    assert "t-new" in crew.started_by(zombie), "it works on as a new incarnation"
    await zombie.drain()


async def test_a_worker_stopped_past_its_lease_with_nobody_else_there_goes_on_and_its_result_counts(
    make_crew: Make,
) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=1)
    alone = await crew.worker()
    await crew.submit("t", "a")
    await crew.started("t")
    (name,) = await crew.incarnations(alone)
    alone.signal(signal.SIGSTOP)

    async def is_expired() -> bool:
        seconds, micros = await crew.redis.time()
        return float(await crew.redis.zscore(crew.keys.leases, name)) + 500 < int(seconds) * 1000 + int(micros) / 1000

    await until(is_expired, what="the end of its lease")
    crew.open()
    alone.signal(signal.SIGCONT)
    result = await crew.result("t")
    assert result.success
    assert result.attempt == 1
    assert crew.executions() == {"t": 1}
    assert await crew.incarnations(alone) == {name}
    assert "silent" not in alone.log
    assert await crew.ends() == {("t", "completed"): 1}


# ---------------------------------------------------------------- work that kills


async def test_a_task_that_kills_its_worker_each_time_is_given_up_and_harms_no_other(make_crew: Make) -> None:
    crew = await make_crew(
        {"bad": "Poison", "good": "Brief"}, tasks={"max_attempts": 3}, concurrency=1, lease_seconds=1
    )
    await crew.submit("poison", "bad", priority=Priority.HIGH)
    for number in range(3):
        await crew.submit(f"innocent-{number}", "good")
    for _ in range(3):
        victim = await crew.worker(doomed=True)
        assert await victim.ended() == 66
    last = await crew.worker()
    poison = await crew.result("poison")
    assert not poison.success
    why = re.search(r"given up: worker (\S+) died while attempt 3 of 3 ran", poison.error or "")
    assert why, poison.error
    assert incarnations.worker(why[1]).endswith(f"-{victim.process.pid}"), (
        "the one that it killed, not the one that tells"
    )
    assert poison.attempt == 3
    innocents = await crew.results([f"innocent-{number}" for number in range(3)])
    assert all(result.success for result in innocents)
    assert [result.attempt for result in innocents] == [1, 1, 1], "what had not started is not counted"
    assert crew.executions() == {"poison": 3, "innocent-0": 1, "innocent-1": 1, "innocent-2": 1}
    (dead,) = await crew.dead()
    assert (dead["id"], dead["agent"]) == ("poison", "bad")
    assert why[0] in dead["reason"]
    assert (await crew.ends())["poison", "dead"] == 1
    assert await crew.is_idle()
    assert last.lives


async def test_a_step_that_kills_its_worker_each_time_fails_its_run(make_crew: Make) -> None:
    crew = await make_crew(
        {"one": "Brief", "bad": "Poison", "three": "Brief"}, tasks={"max_attempts": 1}, lease_seconds=1
    )
    await crew.submit("r")
    victim = await crew.worker(doomed=True)
    assert await victim.ended() == 66
    await crew.worker()
    run = await crew.run_result("r")
    assert run.status is RunState.FAILED
    assert "given up" in (run.steps["bad"].error or "")
    assert run.skipped == ("three",)
    states = {step.name: step.status for step in (await crew.client.status(crew.name, "r")).steps}
    assert states == {"one": TaskState.COMPLETED, "bad": TaskState.DEAD, "three": TaskState.SKIPPED}
    assert crew.executions() == {"r/one": 1, "r/bad": 1}


async def test_a_task_that_was_claimed_and_not_started_is_not_counted_against_it(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"}, tasks={"max_attempts": 1})
    await crew.submit("t", "a")
    for number in range(3):  # three workers that die before they start anything
        claim = await crew.queue.claim(f"mayfly-{number}", 1, 5, lease_ms=1, take_over=True)
        if number == 0:
            assert [task.id for task in claim.tasks] == ["t"]
        await crew.queue.declare_dead([f"mayfly-{number}"])
    async with crew.in_process():
        result = await crew.result("t")
    assert (result.success, result.attempt) == (True, 1)


# ---------------------------------------------------------------- a worker that is only slow


async def test_an_agent_that_blocks_the_event_loop_costs_no_lease_and_is_pilloried(make_crew: Make) -> None:
    lease = 12  # a busy machine must not let a worker be silent for as long
    crew = await make_crew([agent("a", "Blocker", config={"seconds": lease + 3})], lease_seconds=lease)
    blocked = await crew.worker(health=True)
    await crew.submit("t", "a")
    await crew.started("t")
    await crew.worker()  # would take over, if it could
    result = await crew.result("t")
    assert (result.output, result.attempt) == ("blocked", 1)
    assert crew.executions() == {"t": 1}
    assert crew.started_by(blocked) == {"t"}
    warning = next(part for part in blocked.log.split("WARNING") if "event loop has been blocked" in part)
    assert "by agent 'a' with task t." in warning, "it says who"
    assert "stands_here" in warning, "and where"
    assert "silent" not in blocked.log
    assert (await metrics_of(blocked.metrics_url, crew.name))["watchbill_worker_loop_blocked_total", "a"] == 1
