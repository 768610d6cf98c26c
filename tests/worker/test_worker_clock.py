"""A worker whose wall clock is an hour wrong works as any other: what counts is the server's, or the monotonic one."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from workshop import Crew, Make, Process, agent, metrics_of
from wrong_clock import wrong_clock

from waiting import until
from watchbill.records import AgentDefinition
from watchbill.tasks import RunResult, TaskResult

HOUR = 3600
LEASE = 12
"""Seconds. A busy machine must not let a worker be silent for as long."""
SLACK = 60
"""Seconds that a busy machine may take over anything: little beside an hour."""


def clocks(name: str, kind: str, **config: str) -> AgentDefinition:
    return AgentDefinition(agent_id=name, agent_class=f"clocks:{kind}", config=config)


async def made(make_crew: Make) -> Crew:
    agents = [
        *(agent("gate", "Gate"), agent("shaky", "Shaky"), agent("slow", "Brief", timeout_seconds=1)),
        *(clocks("tell", "tell"), clocks("limited", "Limited", folder="")),
    ]
    return await make_crew(agents, lease_seconds=LEASE, tasks={"backoff_seconds": 0.1})


def gap(crew: Crew, task: str) -> float:
    """Seconds between its first two attempts."""
    one, two = [note["at"] for note in crew.notes() if note["task"] == task][:2]
    return float(two - one)


async def output(crew: Crew, task: str) -> object:
    result = await crew.result(task)
    assert isinstance(result, TaskResult), result
    return result.output


@pytest.fixture(params=[("C", HOUR), ("C", -HOUR), ("Python", HOUR), ("Python", -HOUR)], ids=str)
def wrong(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, str], int]:
    """The environment of a process whose clock is wrong, and by how much."""
    way, ahead = request.param
    return wrong_clock(way, ahead, tmp_path / "clock"), ahead


async def test_times_and_pauses_of_tasks_are_right(make_crew: Make, wrong: tuple[dict[str, str], int]) -> None:
    environment, ahead = wrong
    crew = await made(make_crew)
    worker = await crew.worker(environment=environment, health=True, figures_seconds=SLACK)

    before = time.time()
    await crew.submit("tell", "tell")
    told = await output(crew, "tell")
    assert isinstance(told, dict)
    assert abs(told["now"] - time.time() - ahead) < 60, "its clock is wrong indeed"
    assert abs(told["deadline"] - told["now"] - 300) < SLACK, "for the agent, by its own clock"
    result = await crew.result("tell")
    assert result.completed_at is not None
    assert before - 0.1 <= result.completed_at.timestamp() <= time.time() + 0.1

    due = datetime.now(UTC) + timedelta(seconds=1.2)
    await crew.submit("later", "shaky", "fine:0", scheduled_at=due)
    await crew.submit("again", "shaky", "busy:1")
    await crew.submit("slow", "slow", "30")
    sent = datetime.now(UTC)
    after = "|".join(format_datetime(at, usegmt=True) for at in (sent, sent + timedelta(seconds=2)))
    await crew.submit("limited", "limited", after)
    assert (await crew.result("slow")).error == "timed out after 1 s"
    assert (await crew.result("later")).success
    assert (await crew.result("again")).success
    assert (await crew.result("limited")).success
    (first,) = (note["at"] for note in crew.notes() if note["task"] == "later")
    late = first - time.monotonic() + time.time() - due.timestamp()
    assert 0 <= late < 1 + SLACK, "never early"
    assert 1 <= gap(crew, "slow") < 1.2 + SLACK, "time was up, and another attempt followed"
    assert 1 <= gap(crew, "again") < 1.2 + SLACK
    assert 2 <= gap(crew, "limited") < 2.2 + SLACK, "as the server that refused it reckons"

    window = {"dedupe_key": "long", "dedupe_seconds": 300.0}
    assert await crew.submit("one", "shaky", "fine:0", **window) == "one"
    assert await crew.submit("two", "shaky", "fine:0", **window) == "one"
    window = {"dedupe_key": "short", "dedupe_seconds": 1.0}
    await crew.submit("brief", "shaky", "fine:0", **window)
    await crew.result("one")
    again = await until(lambda: _resubmitted(crew, window), 1 + SLACK)
    assert again == "three"

    metrics = await metrics_of(worker.metrics_url, crew.name)
    assert 0 <= metrics["watchbill_task_wait_seconds_sum",] < 10 * SLACK, "of ten tasks"
    assert metrics["watchbill_workers",] == 1
    crew.open()
    run = await crew.client.run(crew.name, "fine:0", timeout=180)
    assert isinstance(run, RunResult)
    assert run.finished_at is not None
    assert abs(run.finished_at.timestamp() - time.time()) < SLACK
    await worker.drain()


async def _resubmitted(crew: Crew, window: dict[str, object]) -> str | None:
    got = await crew.submit("three", "shaky", "fine:0", **window)
    return got if got == "three" else None


async def test_leases_hold_and_end_as_they_should_beside_a_worker_whose_clock_is_right(
    make_crew: Make, wrong: tuple[dict[str, str], int]
) -> None:
    environment, _ = wrong
    crew = await made(make_crew)
    off = await crew.worker(environment=environment, concurrency=3)
    for task in ("its", "x", "y"):
        await crew.submit(task, "gate")
    await crew.started("its", "x", "y")
    right = await crew.worker(concurrency=2)
    await crew.submit("a", "gate")
    await crew.submit("b", "gate")
    await crew.started("a", "b")
    ends = time.monotonic() + 1.2 * LEASE
    while time.monotonic() < ends:
        now = (await crew.redis.time())[0]
        leases = await crew.redis.zrange(crew.keys.leases, 0, -1, withscores=True)
        assert all(abs(score / 1000 - now) < LEASE + SLACK for _, score in leases), leases
        assert crew.executions() == dict.fromkeys(("its", "x", "y", "a", "b"), 1), "nobody takes the other for dead"
        await asyncio.sleep(0.05)
    assert crew.started_by(right) == {"a", "b"}
    crew.open("x", "y")
    await crew.results(["x", "y"])
    await _taken_over(crew, "a", "b", dead=right, heir=off)
    another = await crew.worker(concurrency=4)
    await _taken_over(crew, "its", "a", "b", dead=off, heir=another)
    crew.open()
    assert all(result.success for result in await crew.results(["its", "a", "b"]))
    assert await crew.is_idle()
    await another.drain()


async def _taken_over(crew: Crew, *tasks: str, dead: Process, heir: Process) -> None:
    """What the one ran, by the other, within the lease and two seconds."""
    assert set(tasks) <= crew.started_by(dead)
    killed = dead.kill()
    await until(lambda: set(tasks) <= crew.started_by(heir), LEASE + 2 + SLACK)
    assert time.monotonic() - killed < LEASE + 2 + SLACK
