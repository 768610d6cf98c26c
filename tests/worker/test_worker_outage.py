"""The store goes away and comes back, or loses its answers: no worker exits, nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from workshop import Crew, Make, Process

from waiting import until
from watchbill.errors import Conflict
from watchbill.tasks import RunState

PrivateRedis = Callable[[], Awaitable[Any]]


class Outage:
    """Two workers of three slots each, and ten tasks, of which six run, when the store goes away."""

    tasks = tuple(f"t{number}" for number in range(10))

    def __init__(self, crew: Crew, workers: tuple[Process, Process]) -> None:
        self.crew = crew
        self.workers = workers
        self.running = tuple(sorted(crew.started_by(worker)) for worker in workers)

    @classmethod
    async def prepared(cls, crew: Crew) -> Outage:
        one = await crew.worker(concurrency=3)
        for task in cls.tasks[:3]:
            await crew.submit(task, "a")
        await crew.started(*cls.tasks[:3])
        two = await crew.worker(concurrency=3)
        for task in cls.tasks[3:]:
            await crew.submit(task, "a")
        await crew.started(*cls.tasks[3:6])
        return cls(crew, (one, two))

    async def last_until(self, deadline: float) -> None:
        """Watches that nobody exits, and that nothing new begins."""
        while time.monotonic() < deadline:
            assert all(worker.lives for worker in self.workers)
            assert set(self.crew.executions()) == set(self.tasks[:6])
            await asyncio.sleep(0.05)

    async def check(self) -> None:
        """The store is back: everything is done, once, by those who were there."""
        crew = self.crew
        crew.open()
        results = await crew.results(self.tasks, timeout=180)
        assert all(worker.lives for worker in self.workers)
        assert crew.executions() == dict.fromkeys(self.tasks, 1), "nothing runs twice"
        assert crew.notes("cancelled") == []
        assert [result.success for result in results] == [True] * 10
        assert await crew.ends() == {(task, "completed"): 1 for task in self.tasks}
        assert await crew.ended_events() == dict.fromkeys(self.tasks, 1)
        assert await crew.is_idle()
        for worker in self.workers:
            assert "silent for longer than its lease" not in worker.log
            await worker.drain()


async def test_twenty_seconds_without_an_answer(make_crew: Make, private_redis: PrivateRedis) -> None:
    """The literal promise, with the default lease of 15 s, which runs out meanwhile."""
    server = await private_redis()
    crew = await make_crew({"a": "Gate"}, url=server.url, lease_seconds=15)
    outage = await Outage.prepared(crew)
    server.pause()
    began = time.monotonic()
    crew.open(outage.running[0][0])  # at once
    await outage.last_until(began + 8)
    crew.open(outage.running[1][0])
    await outage.last_until(began + 18)
    crew.open(outage.running[0][1])
    await outage.last_until(began + 20)
    server.resume()
    await outage.check()


@pytest.mark.parametrize("how", ["silent", "killed and restarted"])
async def test_a_worker_that_comes_back_first_leaves_the_others_time_to_come_back(
    make_crew: Make, private_redis: PrivateRedis, how: str
) -> None:
    """It has something to hand in, and so it asks, with a free slot, before the others have renewed their leases.

    Where the store was silent, it asked when the outage began, and what it asked then is done when the outage ends.
    """
    server = await private_redis()
    crew = await make_crew({"a": "Gate"}, url=server.url, lease_seconds=3600)  # a third is for the others to come back
    outage = await Outage.prepared(crew)
    eager, late = outage.workers
    for worker in outage.workers:  # so that nobody renews
        worker.signal(signal.SIGSTOP)
    await crew.redis.zadd(crew.keys.leases, dict.fromkeys(await crew.incarnations(), 1))  # an outage in which all ended
    if how == "silent":
        server.pause()
    else:
        await server.kill()
        late.signal(signal.SIGCONT)  # else it is slow for all that time, so that nothing of it is on its way
    eager.signal(signal.SIGCONT)
    crew.open(outage.running[0][0])
    await until(lambda: crew.notes("end"), what="something to hand in")
    await outage.last_until(time.monotonic() + 1)
    if how == "silent":
        server.resume()
    else:
        late.signal(signal.SIGSTOP)
        await server.restart()
    await crew.result(outage.running[0][0])
    await until(lambda: len(crew.started_by(eager)) > 3, what="new work for the eager one")
    late.signal(signal.SIGCONT)
    await outage.check()


async def test_a_worker_that_dies_while_the_store_is_away_is_noticed_afterwards(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    """Patience with those who had the outage too must not become blindness."""
    server = await private_redis()
    lease = 1
    crew = await make_crew({"a": "SecondTime"}, url=server.url, lease_seconds=lease)
    dies = await crew.worker()
    await crew.submit("t", "a")
    await crew.started("t")
    survivor = await crew.worker()
    server.pause()
    dies.kill()
    back = time.monotonic() + lease + 1
    await until(lambda: time.monotonic() > back)
    server.resume()
    result = await crew.result("t")
    assert result.output == "attempt 2"
    assert time.monotonic() - back < lease + 120
    assert crew.started_by(survivor) == {"t"}


async def test_a_worker_asked_to_stop_while_the_store_does_not_answer_stops(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    server = await private_redis()
    crew = await make_crew({"a": "Gate"}, url=server.url, lease_seconds=3)
    worker = await crew.worker(grace_seconds=1)
    await crew.submit("t", "a")
    await crew.started("t")
    server.pause()
    worker.process.terminate()
    try:
        await worker.ended()
    finally:
        server.resume()
    crew.open()
    await crew.worker()
    assert (await crew.result("t")).success


async def test_an_idle_worker_does_not_wait_for_a_store_that_is_away_when_it_is_asked_to_stop(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    server = await private_redis()
    crew = await make_crew({"a": "Brief"}, url=server.url)
    worker = await crew.worker(grace_seconds=3600)
    await crew.submit("t", "a")
    assert (await crew.result("t")).success
    server.pause()
    worker.process.terminate()
    try:
        await worker.ended()
    finally:
        server.resume()


async def test_a_worker_that_may_not_listen_for_a_while_does_not_stay_deaf(
    make_crew: Make, private_redis: PrivateRedis
) -> None:
    """Rights and passwords are changed in living systems. It may end, with an error, and be restarted; or go on."""
    server = await private_redis()
    crew = await make_crew({"a": "Brief"}, url=server.url)
    worker = await crew.worker()
    assert await crew.redis.execute_command("ACL", "SETUSER", "default", "-blpop")
    await crew.submit("before", "a")
    await asyncio.sleep(2.5)  # longer than one turn at the bell
    assert await crew.redis.execute_command("ACL", "SETUSER", "default", "+blpop")
    await crew.submit("after", "a")

    async def is_done_or_has_ended() -> bool:
        return not worker.lives or await crew.client.result(crew.name, "after") is not None

    await until(is_done_or_has_ended, what="work, or an end")
    assert worker.lives or worker.process.returncode != 0


# ---------------------------------------------------------------- lost answers


async def test_every_answer_lost_once_and_everything_is_done_once(
    make_crew: Make, proxy: Callable[..., Awaitable[Any]]
) -> None:
    """Whatever the worker (its lease keeper too) or the client asks for the first time, they hear nothing of."""
    steps = ("s1", "s2", "s3")
    crew = await make_crew(dict.fromkeys(steps, "SayingGate"), lease_seconds=1)
    lossy = await proxy()
    lossy.drop_every_reply_once = True
    crew.open()
    worker = await crew.worker(url=lossy.url, concurrency=2)
    crew = await crew.through(lossy.url)
    tasks = [f"t{number}" for number in range(8)]
    async with asyncio.TaskGroup() as group:
        group.create_task(crew.submit("r"))
        for task in tasks:
            group.create_task(crew.submit(task, "s1"))
    results = await crew.results(tasks)
    run = await crew.run_result("r")
    assert lossy.dropped > 30
    assert run.status is RunState.COMPLETED
    assert all(result.success and result.attempt == 1 for result in results)
    all_tasks = [*tasks, *(f"r/{step}" for step in steps)]
    assert crew.executions() == dict.fromkeys(all_tasks, 1)
    ends = await crew.ends()
    assert ends == {(task, "completed"): 1 for task in [*all_tasks, "r"]}
    assert await crew.ended_events() == dict.fromkeys(all_tasks, 1)
    said = Counter(event.task_id for event in await crew.events() if event.event_type == "mission_event")
    assert said == dict.fromkeys(all_tasks, 1), "what an agent says is told once"
    assert await crew.is_idle()
    assert "silent for longer than its lease" not in worker.log
    await worker.drain()


async def test_answers_lost_while_draining_leave_every_task_to_be_done_once_more_and_no_oftener(
    make_crew: Make, proxy: Callable[..., Awaitable[Any]]
) -> None:
    crew = await make_crew({"a": "Gate"})
    lossy = await proxy()
    lossy.drop_every_reply_once = True
    worker = await crew.worker(url=lossy.url, grace_seconds=0)
    tasks = ["t1", "t2", "t3"]
    for task in tasks:
        await crew.submit(task, "a")
    await crew.started(*tasks)
    await worker.drain()
    crew.open()
    await crew.worker()
    results = await crew.results(tasks)
    assert [result.attempt for result in results] == [1, 1, 1], "handed back, not lost"
    assert crew.executions() == dict.fromkeys(tasks, 2)
    assert await crew.ends() == {(task, "completed"): 1 for task in tasks}


# ---------------------------------------------------------------- the same id twice


@pytest.mark.parametrize("agent", ["a", None], ids=["task", "run"])
async def test_the_same_id_submitted_twice_at_once_is_executed_once_with_one_answer(
    make_crew: Make, agent: str | None
) -> None:
    crew = await make_crew({"a": "Gate"})
    other = await crew.through(crew.url)
    await asyncio.gather(crew.worker(), crew.worker())
    waiting = [
        asyncio.create_task(client.client.run(crew.name, "do it", agent=agent, id="same", timeout=180))
        for client in (crew, other)
    ]
    step = "same" if agent else "same/a"
    await crew.started(step)
    assert await crew.submit("same", agent) == "same"  # while it runs
    crew.open()
    one, two = await asyncio.gather(*waiting)
    assert one == two
    assert one.success
    assert await crew.submit("same", agent) == "same"  # when it is done
    with pytest.raises(Conflict):
        await crew.submit("same", agent, "something else")
    assert await crew.result("same") == one
    assert crew.executions() == {step: 1}
    assert (await crew.ends())["same", "completed"] == 1
