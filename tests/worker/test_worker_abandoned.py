"""Agents that go on when they shouldn't: each holds its slot until it ends, and a worker with too many starts anew."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable

from test_worker_drain import most_at_once
from workshop import AGENTS, Crew, Make, Process, agent, metrics_of

import forks
from waiting import until
from watchbill.worker.__main__ import RECYCLED

ONCE = {"max_attempts": 1}


def pod(crew: Crew, *, grace_seconds: float = 20) -> Process:
    """A worker process as it runs in a pod."""
    environment = os.environ | {
        "WATCHBILL_CREW": crew.name,
        "WATCHBILL_FOLDERS": str(AGENTS),
        "WATCHBILL_REDIS_URL": crew.url,
        "WATCHBILL_GRACE_SECONDS": str(grace_seconds),
    }
    folder = crew.folder / f"process-{len(crew.processes)}"
    folder.mkdir()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        started = forks.start(["-m", "watchbill.worker"], stdout=out, stderr=err, env=environment)
    process = Process(started, folder)
    crew.processes.append(process)
    return process


async def described(crew: Crew) -> list[dict[str, object]]:
    """What its workers say of themselves."""
    found = [json.loads(value) for value in (await crew.redis.hgetall(crew.keys.workers)).values()]
    return [one if "slots" in one else json.loads(one["description"]) for one in found]


async def abandoned(process: Process, crew: Crew, number: int) -> bool:
    return (await metrics_of(process.metrics_url, crew.name)).get(("watchbill_worker_abandoned",), 0) == number


def names(prefix: str, number: int) -> Iterable[str]:
    return [f"{prefix}{n}" for n in range(number)]


async def test_an_abandoned_agent_holds_its_slot_until_it_really_ends(make_crew: Make) -> None:
    crew = await make_crew(
        [
            agent("deaf", "Deaf", timeout_seconds=1),
            agent("thread", "ThreadGate", timeout_seconds=1),
            agent("b", "Gate"),
        ],
        concurrency=3,
        tasks=ONCE,
        lease_seconds=3,
    )
    worker = await crew.worker(health=True)
    for name in ("deaf", "thread"):
        await crew.submit(name, name)
    assert {result.error for result in await crew.results(["deaf", "thread"])} == {"timed out after 1 s"}
    await until(lambda: abandoned(worker, crew, 2), what="the gauge")
    await until(lambda: worker.log.count("still runs") == 2, what="both warnings")
    assert worker.log.count("WARNING watchbill.worker: agent 'deaf' with task deaf still runs") == 1
    assert worker.log.count("WARNING watchbill.worker: agent 'thread' with task thread still runs") == 1

    for task in names("t", 3):
        await crew.submit(task, "b")
    await crew.started("t0")
    await crew.invite(worker)
    assert set(crew.executions()) == {"deaf", "thread", "t0"}, "one slot is left"
    assert await crew.waits(2)

    async def is_told() -> bool:
        (told,) = await described(crew)
        return (told["slots"], told["running"], told["abandoned"]) == (3, 1, 2)

    await until(is_told, what="what it says of itself")

    crew.open("deaf")
    await crew.started("t1")
    crew.open("thread")
    await crew.started("t2")
    await until(lambda: abandoned(worker, crew, 0), what="the gauge")
    crew.open()
    assert all(result.success for result in await crew.results(names("t", 3)))
    assert most_at_once(crew) == 3
    assert worker.lives


async def test_a_worker_whose_agents_are_abandoned_while_it_is_idle_wakes_when_they_end(make_crew: Make) -> None:
    """It has no slot, and so waits at no bell."""
    agents = [agent("a", "ThreadGate", timeout_seconds=1), agent("b", "Gate"), agent("c", "Brief")]
    crew = await make_crew(agents, concurrency=2, tasks=ONCE, lease_seconds=3600)  # no renewal wakes it, either
    await crew.worker()
    await crew.submit("one", "a")
    await crew.result("one")
    await crew.submit("two", "b")
    await crew.started("two")
    await crew.submit("three", "c")
    crew.open("one")
    assert (await crew.result("three")).success
    assert {note["task"] for note in crew.notes("end")} == {"one", "three"}, "nothing else woke it"


async def test_agents_of_a_fenced_incarnation_hold_their_slots_too(make_crew: Make) -> None:
    """The worker goes on as another, but in the same process."""
    crew = await make_crew({"a": "Deaf", "b": "Gate"}, lease_seconds=12)  # neither may be taken for dead by itself
    zombie = await crew.worker(concurrency=2)
    await crew.submit("t", "a")
    await crew.started("t")
    zombie.signal(signal.SIGSTOP)
    await crew.worker(concurrency=1)
    await until(lambda: crew.executions()["t"] == 2, what="its second start, elsewhere")
    zombie.signal(signal.SIGCONT)
    await until(lambda: "going on as" in zombie.log)
    for task in names("t", 2):
        await crew.submit(task, "b")
    await crew.started("t0")
    await crew.invite(zombie)
    assert "t1" not in crew.executions(), "the other slot is taken"
    assert await crew.waits(1)
    crew.open()
    assert all(result.success for result in await crew.results(["t", *names("t", 2)]))
    assert crew.started_by(zombie) >= {"t", "t0"}


# ---------------------------------------------------------------- starting anew


async def test_a_pod_with_half_of_its_slots_lost_finishes_what_runs_and_ends_to_be_started_anew(
    make_crew: Make,
) -> None:
    crew = await make_crew(
        [agent("deaf", "Deaf", timeout_seconds=1), agent("b", "Gate"), agent("left", "LeavesTask")],
        concurrency=4,
        tasks=ONCE,
    )
    worker = pod(crew)
    await crew.submit("left", "left")
    await crew.result("left")
    await crew.submit("runs", "b")
    await crew.started("runs")
    await crew.submit("deaf0", "deaf")
    await crew.result("deaf0")
    await until(lambda: "agent 'deaf' with task deaf0 still runs" in worker.log)
    await crew.submit("more", "b")
    await crew.started("more")
    crew.open("more")
    assert (await crew.result("more")).success, "one of four is no reason"

    await crew.submit("deaf1", "deaf")
    await crew.result("deaf1")
    await until(lambda: "takes no more" in worker.log)
    await crew.submit("waits", "b")
    await crew.invite(worker)
    assert worker.lives, "something still runs"
    assert "waits" not in crew.executions()
    crew.open("runs")
    assert (await crew.result("runs")).success
    assert await worker.ended() == RECYCLED, worker.log
    assert "2 of 4 slots are held by agents that did not stop" in worker.log
    assert await crew.incarnations() == set()

    again = pod(crew)
    crew.open()
    assert (await crew.result("waits")).success
    assert crew.executions() == dict.fromkeys(("left", "runs", "more", "waits", "deaf0", "deaf1"), 1)
    again.signal(signal.SIGTERM)
    assert await again.ended() == 0, again.log


async def test_what_agents_left_behind_does_not_hold_up_the_end_of_a_pod(make_crew: Make) -> None:
    crew = await make_crew({"left": "LeavesTask"})
    worker = pod(crew)
    await crew.submit("t", "left")
    await crew.result("t")
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0, worker.log


async def test_a_worker_that_nobody_starts_anew_goes_on_with_fewer_slots_and_stops_when_none_is_left(
    make_crew: Make,
) -> None:
    crew = await make_crew([agent("deaf", "Deaf", timeout_seconds=1), agent("b", "Brief")], concurrency=2, tasks=ONCE)
    worker = await crew.worker()
    await crew.submit("deaf0", "deaf")
    await crew.result("deaf0")
    await until(lambda: "still runs" in worker.log)
    await crew.submit("t", "b")
    assert (await crew.result("t")).success
    assert worker.lives
    await crew.submit("deaf1", "deaf")
    assert (await crew.result("deaf1")).error == "timed out after 1 s"
    assert await worker.ended() == 1
    assert "all of its slots (2). The log names them" in worker.log
    assert await crew.incarnations() == set()


async def test_a_worker_that_is_told_to_stop_does_not_ask_to_be_started_anew(make_crew: Make) -> None:
    crew = await make_crew({"a": "Deaf"}, concurrency=1)
    worker = pod(crew, grace_seconds=0.2)
    await crew.submit("t", "a")
    await crew.started("t")
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0, worker.log
    assert "agent 'a' with task t still runs" in worker.log
