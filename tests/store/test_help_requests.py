"""Ready work that makes no progress: when help is asked for, how often, and for which task."""

from __future__ import annotations

import pytest
from support import LEASE_MS, Crew, library, limit

from watchbill.api.limits import RateLimit
from watchbill.errors import CrewGone
from watchbill.records import ExecutionMode
from watchbill.store import control, help_requests, suspension


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request is made as soon as somebody looks; the next one not within the test."""
    monkeypatch.setattr(help_requests, "INTERVALS_SECONDS", (0.0, 3600.0))


async def _ask(crew: Crew) -> float | None:
    return await help_requests.ask(crew.client, crew.keys, crew.uid)


async def _told(crew: Crew, key: str | None = None) -> list[tuple[str, str, str]]:
    """Task, agent and message of each request."""
    found = [e for e in await crew.events(key) if e["event_type"] == "mission_help_needed"]
    return [(e["task_id"], e["agent_id"], e["message"]) for e in found]


async def test_help_is_asked_for_at_growing_intervals_that_the_store_keeps(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    pauses = []
    for _ in range(6):
        await _ask(crew)
        pauses.append(await _ask(crew))  # another replica
        since, times, _, task = str(await crew.client.hget(crew.keys.meta, "stuck")).split(" ", 3)
        await crew.client.hset(crew.keys.meta, "stuck", f"{since} {times} {since} {task}")  # it is due
    assert pauses == pytest.approx([60, 300, 900, 3600, 3600, 3600], abs=50)
    assert [told[:2] for told in await _told(crew)] == [("t1", "a")] * 5
    assert await _told(crew, crew.keys.agent_events("a")) == await _told(crew)


@pytest.mark.usefixtures("at_once")
async def test_once_another_task_is_the_oldest_the_intervals_begin_anew(crew: Crew) -> None:
    await crew.submit("t1", "t2")
    assert [await _ask(crew) for _ in range(2)] == pytest.approx([3600, 3600], abs=60)
    await control.cancel(crew.client, crew.keys, crew.uid, "t1", "never", LEASE_MS)
    await _ask(crew)
    assert [message for *_, message in await _told(crew)] == [
        f"none of the ready tasks ({number}) has begun for 0 s, and this is the oldest: no worker is there"
        for number in (2, 1)
    ]


@pytest.mark.usefixtures("at_once")
async def test_work_that_no_worker_can_run_asks_on_the_stream_of_its_run(crew: Crew) -> None:
    await crew.run("r", library("a", "b", mode=ExecutionMode.SEQUENTIAL))
    await crew.queue.park("w", await crew.take("w"), "AgentUnavailable")
    await crew.submit("t", agent="b")
    await crew.take("w", 2)  # that others are at work is no progress for it
    await _ask(crew)
    ((task, agent, message),) = await _told(crew, crew.keys.run_events("r"))
    assert (task, agent) == ("r/a", "a")
    assert message == "none of the ready tasks (1) has begun for 0 s, and this is the oldest: no worker can run agent a"


@pytest.mark.usefixtures("at_once")
async def test_workers_that_take_nothing_are_no_progress_and_those_of_the_dead_neither(crew: Crew) -> None:
    await crew.queue.enter("w", ["a"], lease_ms=LEASE_MS)
    await crew.submit("t")
    await _ask(crew)
    assert (await _told(crew))[0][2].endswith("none of the workers (1) takes one")
    await crew.take("w", 2)
    assert await _ask(crew) is None, "it runs"
    await crew.client.zadd(crew.keys.leases, {"w": 1})
    await _ask(crew)
    assert (await _told(crew))[1][2].endswith("no worker is there")


@pytest.mark.usefixtures("at_once")
async def test_nobody_asks_for_a_crew_at_rest_nor_for_one_without_ready_work(crew: Crew) -> None:
    assert await _ask(crew) is None
    await crew.submit("later", due_ms=10**15)
    await crew.client.xadd(crew.keys.streams[0], {"no": "task"})
    assert await _ask(crew) is None
    await crew.submit("t")
    await suspension.suspend(crew.client, crew.keys, crew.uid, on=True)
    assert await _ask(crew) is None
    assert await _told(crew) == []
    with pytest.raises(CrewGone):
        await help_requests.ask(crew.client, crew.keys, "another")


@pytest.mark.usefixtures("at_once")
async def test_what_waits_for_the_limit_of_its_agent_is_not_the_oldest(crew: Crew) -> None:
    await limit(crew, rate_limit=RateLimit.model_validate({"requests": 1, "periodSeconds": 3600}))
    await crew.submit("t1", "t2")
    await crew.finish("w", await crew.take("w"))
    await _ask(crew)
    assert await _told(crew) == [], "nothing is ready"
    await crew.submit("free", agent="b")
    await _ask(crew)
    await crew.client.delete(crew.keys.leases)
    await crew.client.hdel(crew.keys.meta, "stuck")
    await _ask(crew)
    begun = "none of the ready tasks (1) has begun for 0 s, and this is the oldest: "
    assert await _told(crew) == [
        ("free", "b", f"{begun}none of the workers (1) takes one"),
        ("free", "b", f"{begun}no worker is there"),
    ]
