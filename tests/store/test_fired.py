"""What a heartbeat has fired: how it ended, when it fires next, and what its history limits leave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from beating import FOLLOWING, NOON, SLOT, Crew, beat, crew_of

from watchbill import connection
from watchbill.names import CrewKeys
from watchbill.store import control, definitions, fired, heartbeats
from watchbill.store.fired import HeartbeatReport
from watchbill.store.queue import Finished, Queue


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    async with connection.connected(redis_url) as client:
        keys = CrewKeys("team", crew_name)
        yield Crew(client, keys, await definitions.apply(client, keys, crew_of("a")))


async def work_off(crew: Crew, number: int, *outcomes: str) -> None:
    """Ends what waits, in its order."""
    queue = Queue(crew.client, crew.keys, crew.uid)
    claim = await queue.claim("w", number, len(outcomes), lease_ms=10_000, take_over=True)
    await queue.start("w", claim.tasks)
    ended = zip(claim.tasks, outcomes, strict=True)
    await queue.finish("w", [Finished(task, outcome, "{}") for task, outcome in ended])  # type: ignore[arg-type]


async def report(crew: Crew, most: int = 10) -> HeartbeatReport:
    [found] = await fired.reports(crew.client, crew.keys, now=NOON, most=most)
    return found


async def states(crew: Crew) -> dict[str, str]:
    return {work.id.removeprefix("hb-hb-"): work.state for work in (await report(crew)).last}


async def test_a_report_has_the_times_to_come_and_what_was_fired_the_newest_first(crew: Crew) -> None:
    state = await crew.apply(beat(schedule="*/5 9 * * *", timeZone="Europe/Berlin"))
    found = await report(crew, most=13)
    assert (found.name, found.crew, found.suspended) == ("hb", crew.keys.crew, False)
    assert found.schedule == "*/5 9 * * * Europe/Berlin"
    assert [f"{at:%d %H:%M}" for at in found.next[::4]] == ["22 08:00", "22 08:20", "22 08:40", "23 08:00"]
    assert found.last == ()

    assert state.next is not None
    await crew.fire(state, state.next)
    await crew.run_now("t")
    await work_off(crew, 1, "completed", "failed")
    newest, oldest = (await report(crew)).last
    assert (newest.id, newest.state) == ("hb-hb-now-t", "failed")
    assert (oldest.id, oldest.state) == (heartbeats.task_id("hb", state.next), "completed")
    assert oldest.finished is not None
    assert timedelta() <= oldest.finished - oldest.fired < timedelta(minutes=5)
    assert len((await report(crew, most=1)).last) == 1


async def test_times_that_have_passed_are_no_times_to_come_and_jitter_is_counted(crew: Crew) -> None:
    await crew.apply(beat(schedule="0 * * * *", jitterSeconds=600), now=NOON - timedelta(days=9))
    [state] = await heartbeats.all_of(crew.client, crew.keys)
    following = (await report(crew, most=3)).next
    assert following[0] >= NOON
    assert {at - state.jitter - NOON for at in following} <= {timedelta(hours=i) for i in range(-1, 4)}


async def test_a_suspended_heartbeat_has_no_times_and_says_what_it_fired(crew: Crew) -> None:
    await crew.apply(beat(suspend=True))
    await crew.run_now("t")
    found = await report(crew)
    assert (found.suspended, found.next) == (True, ())
    assert await states(crew) == {"now-t": "waiting"}


async def test_a_run_is_told_by_its_own_state_and_a_record_that_is_gone_as_expired(crew: Crew) -> None:
    state = await crew.apply(beat(agent=None))
    await crew.fire(state)
    await control.cancel(crew.client, crew.keys, crew.uid, heartbeats.task_id("hb", SLOT), "", 3_600_000)
    await crew.fire(state, FOLLOWING)
    await crew.client.delete(crew.keys.run(heartbeats.task_id("hb", FOLLOWING)))
    assert [(work.state, work.finished is None) for work in (await report(crew)).last] == [
        ("expired", True),
        ("cancelled", False),
    ]


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, {"t0", "t1", "t2", "t3", "t4", "t5"}),
        ({"successfulRunsHistoryLimit": 1}, {"t1", "t3", "t4", "t5"}),
        ({"failedRunsHistoryLimit": 1}, {"t0", "t2", "t3", "t4", "t5"}),
        ({"successfulRunsHistoryLimit": 0, "failedRunsHistoryLimit": 0}, {"t5"}),
        ({"successfulRunsHistoryLimit": 2, "failedRunsHistoryLimit": 9}, {"t1", "t2", "t3", "t4", "t5"}),
    ],
)
async def test_history_limits_leave_the_newest_and_what_has_not_ended(
    crew: Crew, limits: dict[str, Any], left: set[str]
) -> None:
    state = await crew.apply(beat(**limits))
    for i in range(5):
        await crew.run_now(f"t{i}")
    await work_off(crew, 1, "completed", "failed", "completed", "dead", "completed")
    await crew.run_now("t5")
    before = await crew.client.zcard(crew.keys.ids)
    went = await fired.trim(crew.client, crew.keys, state)
    assert went == 6 - len(left) == before - await crew.client.zcard(crew.keys.ids)
    assert {name.removeprefix("now-") for name in await states(crew)} == left
    kept = [
        name for name in (f"t{i}" for i in range(6)) if await crew.client.exists(crew.keys.task(f"hb-hb-now-{name}"))
    ]
    assert set(kept) == left
    assert await fired.trim(crew.client, crew.keys, state) == 0
