"""How much a worker takes, and how it stops: nothing new, what ends in time is finished, the rest is handed back."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

from workshop import Crew, Make

from waiting import until
from watchbill.worker.state import STORE_SECONDS


def most_at_once(crew: Crew) -> int:
    """How many agents ran at the same time, at most, by their own notes."""
    moments = [(line["at"], 1) for line in crew.notes("start")] + [(line["at"], -1) for line in crew.notes("end")]
    now = most = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def start_of(crew: Crew, task_id: str, which: int = 0) -> dict[str, Any]:
    return [line for line in crew.notes() if line["task"] == task_id][which]


# ---------------------------------------------------------------- slots


async def test_a_worker_runs_as_many_tasks_at_once_as_it_should_and_never_more(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate", "b": "ThreadGate"}, concurrency=3)
    await crew.worker()
    tasks = [f"t{number:02}" for number in range(12)]
    for number, task in enumerate(tasks):
        await crew.submit(task, "ab"[number % 2])
    await crew.started(*tasks[:3])
    assert (await crew.client.figures(crew.name)).running == 3
    while len(crew.executions()) < len(tasks):  # one gate at a time, so that each slot is filled again by itself
        begun = len(crew.executions())
        crew.open(tasks[begun - 3])
        await until(lambda n=begun: len(crew.executions()) > n, what="a slot being filled again")  # type: ignore[misc]
        assert len(crew.executions()) == begun + 1
    crew.open()
    assert all(result.success for result in await crew.results(tasks))
    assert most_at_once(crew) == 3
    order = [line["task"] for line in crew.notes()]
    assert [*sorted(order[:3]), *order[3:]] == tasks, "first in, first out"


async def test_slots_that_become_free_are_filled_at_once(make_crew: Make) -> None:
    """Not at the next look, which may be two seconds away."""
    crew = await make_crew({"a": "Brief"})
    await crew.worker(concurrency=2, only_rung=True)
    tasks = [f"t{number}" for number in range(40)]
    for task in tasks:
        await crew.submit(task, "a", "0.01")
    await crew.results(tasks, timeout=180)
    assert most_at_once(crew) == 2


async def test_an_idle_worker_starts_what_comes_at_once(make_crew: Make) -> None:
    """It is rung for: a look would come after 2 s."""
    crew = await make_crew({"a": "Brief"})
    await crew.worker(only_rung=True)
    for number in range(8):
        await crew.submit(f"t{number}", "a")
        assert (await crew.result(f"t{number}")).success


async def test_two_workers_share_what_there_is(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, concurrency=3)
    one, two = await crew.worker(), await crew.worker()
    tasks = [f"t{number}" for number in range(9)]
    for task in tasks:
        await crew.submit(task, "a")
    await crew.started(*tasks[:6])
    assert (len(crew.started_by(one)), len(crew.started_by(two))) == (3, 3)
    await until(lambda: crew.waits(3), what="the rest waiting")
    crew.open()
    await crew.results(tasks)
    assert set(crew.executions().values()) == {1}


# ---------------------------------------------------------------- SIGTERM


async def test_sigterm_finishes_what_ends_in_time_and_hands_back_the_rest_which_goes_on_elsewhere_at_once(
    make_crew: Make,
) -> None:
    crew = await make_crew({"a": "Gate", "b": "ThreadGate"}, lease_seconds=3600, concurrency=3)
    leaving = await crew.worker(grace_seconds=30)
    for task, kind in (("ends", "a"), ("async", "a"), ("thread", "b"), ("waiting", "a")):
        await crew.submit(task, kind)
    await crew.started("ends", "async", "thread")
    asked = time.monotonic()
    await leaving.stopping()
    crew.open("ends")
    assert (await crew.result("ends")).success
    assert leaving.lives, "there is still time"
    assert "waiting" not in crew.executions(), "it claims nothing new"

    assert await leaving.ended() == 0, leaving.log
    assert time.monotonic() - asked > 29.9
    assert "handing back 2 tasks" in leaving.log
    assert await crew.incarnations() == set()
    figures = await crew.client.figures(crew.name)
    assert (figures.waiting, figures.running, figures.workers) == (3, 0, 0)
    assert [await crew.redis.hget(crew.keys.task(t), "state") for t in ("async", "thread")] == ["waiting"] * 2

    there = await crew.worker()
    await until(lambda: len(crew.started_by(there)) == 3, what="the start of all three (its lease has an hour)")
    crew.open()
    results = await crew.results(["async", "thread", "waiting"])
    assert [result.attempt for result in results] == [1, 1, 1], "it was nobody's fault"
    assert crew.executions() == {"ends": 1, "async": 2, "thread": 2, "waiting": 1}
    assert await crew.ends() == {(task, "completed"): 1 for task in ("ends", "async", "thread", "waiting")}
    assert start_of(crew, "async", 1)["fence"] > start_of(crew, "async", 0)["fence"]


async def test_what_is_handed_back_is_started_by_a_waiting_worker_at_once(make_crew: Make) -> None:
    """It waits for the bell; the one that rings it must not take it with itself into the grave."""
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)
    there = await crew.worker(grace_seconds=0.1, only_rung=True)
    for number in range(4):
        leaving = there
        await crew.submit(f"t{number}", "a")
        await crew.started(f"t{number}")
        there = await crew.worker(grace_seconds=0.1, only_rung=True)
        leaving.signal(signal.SIGTERM)
        await until(lambda t=there, n=number: f"t{n}" in crew.started_by(t))  # type: ignore[misc]
        assert await leaving.ended() == 0, leaving.log
        crew.open(f"t{number}")
        await crew.result(f"t{number}")


async def test_an_idle_worker_stops_at_once(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"})
    worker = await crew.worker(grace_seconds=3600)
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0, "long before the grace period was over"
    assert await crew.incarnations() == set()
    assert worker.log == f"INFO watchbill.worker: works for crew {crew.keys.crew}, on 10 tasks at once\n"


async def test_a_second_signal_hurries(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"})
    worker = await crew.worker(grace_seconds=3600)
    await crew.submit("t", "a")
    await crew.started("t")
    await worker.stopping()
    assert worker.lives
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0, worker.log
    assert await crew.redis.hget(crew.keys.task("t"), "state") == "waiting"


async def test_a_thread_that_never_ends_does_not_hold_up_the_exit(make_crew: Make) -> None:
    crew = await make_crew({"a": "Stuck"})
    worker = await crew.worker(grace_seconds=0.2)
    await crew.submit("t", "a")
    await crew.started("t")
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0, worker.log
    assert await crew.redis.hget(crew.keys.task("t"), "state") == "waiting"


async def test_an_agent_that_swallows_its_cancellation_does_not_hold_up_the_exit(make_crew: Make) -> None:
    crew = await make_crew({"a": "Stubborn"})
    worker = await crew.worker(grace_seconds=0.2)
    await crew.submit("t", "a")
    await crew.started("t")
    worker.signal(signal.SIGTERM)
    await until(lambda: crew.waits(1), what="the hand-back")
    assert await worker.ended() == 0, worker.log
    assert len(crew.notes("swallowed")) >= 1, "it did try"


async def test_a_call_to_the_store_can_be_cancelled_at_any_moment(make_crew: Make) -> None:
    """Every stop, timeout and take-over leans on it. (Python 3.11's wait_for swallows a cancellation at times.)"""
    crew = await make_crew({"a": "Brief"})

    async def call() -> None:
        while True:
            await crew.queue.move_due()

    for moment in range(300):
        calling = asyncio.create_task(call())
        for _ in range(moment % 30):
            await asyncio.sleep(0)
        calling.cancel()
        _, goes_on = await asyncio.wait({calling}, timeout=180)
        calling.cancel()
        assert not goes_on, f"it swallowed its cancellation at moment {moment}"


async def test_a_worker_that_stood_still_at_its_end_hands_back_what_it_had(make_crew: Make) -> None:
    """For longer than the store may be silent then; but nobody had listened."""
    crew = await make_crew({"a": "Gate"})
    async with crew.in_process() as worker:
        await crew.submit("t", "a")
        await crew.started("t")
        worker.stop()
        time.sleep(STORE_SECONDS + 1)
    assert await crew.redis.hget(crew.keys.task("t"), "state") == "waiting"
    assert not await crew.incarnations()
