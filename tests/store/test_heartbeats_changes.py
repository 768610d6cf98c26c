"""Heartbeats that are applied, fired by hand or missed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from beating import FOLLOWING, NOON, SLOT, Crew, beat, crew_of

from watchbill import connection
from watchbill.errors import InvalidInput, NotFound, QueueFull
from watchbill.names import CrewKeys
from watchbill.store import definitions, heartbeats, runs, submissions
from watchbill.store.submissions import Submission


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    async with connection.connected(redis_url) as client:
        keys = CrewKeys("team", crew_name)
        yield Crew(client, keys, await definitions.apply(client, keys, crew_of("a", "b")))


# ------------------------------------------------------------------ applying


async def test_an_unchanged_heartbeat_keeps_its_next_slot(crew: Crew) -> None:
    first = await crew.apply(beat())
    assert await crew.apply(beat(), now=NOON + timedelta(hours=5)) == first
    assert await crew.get() == first


async def test_a_changed_heartbeat_goes_on_from_now_and_remembers_the_last_slot(crew: Crew) -> None:
    state = await crew.apply(beat())
    await crew.fire(state)
    changed = await crew.apply(beat(schedule="0 * * * *"), now=NOON + timedelta(hours=5))
    assert changed.generation != state.generation
    assert (changed.next, changed.last) == (NOON + timedelta(hours=6), SLOT)


def test_a_generation_depends_on_what_is_said_and_not_on_how() -> None:
    def generation(**spec: Any) -> str:
        return heartbeats.generation(beat(**spec).spec)

    assert generation() == generation(suspend=False, priority="LOW", timeZone="UTC")
    assert generation(metadata={"a": "1", "b": "2"}) == generation(metadata={"b": "2", "a": "1"})
    others: list[dict[str, Any]] = [
        {"prompt": "x"},
        {"agent": None},
        {"suspend": True},
        {"metadata": {"a": "1"}},
        {"priority": "HIGH"},
    ]
    assert len({generation(), *(generation(**other) for other in others)}) == 6


async def test_a_heartbeat_that_can_never_fire_is_refused_and_not_stored(crew: Crew) -> None:
    before = await crew.dump()
    with pytest.raises(InvalidInput, match=r"spec\.schedule"):
        await crew.apply(beat(schedule="0 0 30 2 *"))
    assert await crew.dump() == before


async def test_the_most_metadata_that_is_taken_can_be_fired(crew: Crew) -> None:
    assert await crew.fire(await crew.apply(beat(metadata={str(i): "" for i in range(62)}))) == "fired"
    assert len((await crew.payload(crew.keys.task(heartbeats.task_id("hb", SLOT)))).metadata) == 64


async def test_heartbeats_are_listed_by_name_with_what_they_do(crew: Crew) -> None:
    await crew.apply(beat("nightly", schedule="0 3 * * *", timeZone="Europe/Berlin"))
    await crew.apply(beat("idle", intervalSeconds=5, suspend=True))
    idle, nightly = await heartbeats.all_of(crew.client, crew.keys)
    assert (idle.name, idle.spec.interval_seconds, idle.spec.suspend, idle.next) == ("idle", 5, True, None)
    assert (nightly.name, nightly.schedule.cron, nightly.schedule.zone) == ("nightly", "0 3 * * *", "Europe/Berlin")
    assert nightly.next == datetime(2026, 11, 22, 2, tzinfo=UTC)


async def test_a_spec_with_fields_of_a_later_version_can_be_read(crew: Crew) -> None:
    await crew.apply(beat())
    key = crew.keys.heartbeat("hb")
    later = json.loads(str(await crew.client.hget(key, "spec"))) | {"jitterSeconds": 5}
    await crew.client.hset(key, "spec", json.dumps(later))
    assert (await crew.get()).spec.prompt == "look"


# ------------------------------------------------------------------ run now


@pytest.mark.parametrize("suspend", [False, True])
async def test_run_now_fires_once_for_each_token_and_leaves_the_schedule(crew: Crew, suspend: bool) -> None:
    state = await crew.apply(beat(suspend=suspend))
    assert await crew.run_now("t1") == ("hb-hb-now-t1", True)
    assert await crew.run_now("t1") == ("hb-hb-now-t1", False)
    assert await crew.run_now("t2") == ("hb-hb-now-t2", True)
    assert await crew.queued() == ["hb-hb-now-t1", "hb-hb-now-t2"]
    after = await crew.get()
    assert after.next == state.next
    assert after.last is not None
    assert (await crew.payload(crew.keys.task("hb-hb-now-t1"))).metadata["slot"] == "2026-11-21T12:00:00Z"


async def test_a_token_that_a_former_crew_was_given_fires_for_a_new_one(crew: Crew) -> None:
    await crew.apply(beat())
    await crew.run_now("t")
    assert await definitions.delete(crew.client, crew.keys, crew.uid)
    crew.uid = await definitions.apply(crew.client, crew.keys, crew_of("a"))
    await crew.apply(beat())
    assert await crew.run_now("t") == ("hb-hb-now-t", True)
    assert await crew.queued() == ["hb-hb-now-t"]


async def test_run_now_can_run_the_whole_crew(crew: Crew) -> None:
    await crew.apply(beat(agent=None))
    made, _ = await crew.run_now("t")
    assert await crew.queued() == [f"{made}/a"]


async def test_run_now_says_why_it_could_not(crew: Crew) -> None:
    with pytest.raises(NotFound, match="'hb'"):
        await crew.run_now("t")
    await crew.apply(beat())
    for token in ("", "a/b", "x" * 65, "ü"):
        with pytest.raises(InvalidInput, match="token"):
            await crew.run_now(token)
    await crew.define(crew_of("a", max_queued=1))
    await submissions.submit(crew.client, crew.keys, crew.uid, [Submission("x", "a", "{}")], max_queued=1)
    with pytest.raises(QueueFull, match="maxQueued = 1"):
        await crew.run_now("t")
    assert await crew.queued() == ["x"]


# ------------------------------------------------------------------ missed slots


async def test_missed_slots_are_told_once_and_not_fired_any_more(crew: Crew) -> None:
    state = await crew.apply(beat())
    later = SLOT + timedelta(minutes=3)

    async def tell(first: datetime, following: datetime) -> tuple[str, datetime | None]:
        return await heartbeats.miss(
            crew.client, crew.keys, state, first=first, following=following, count=3, message='missed "three"'
        )

    assert await tell(SLOT, later) == ("told", later)
    assert await tell(SLOT, later) == ("moved", later)
    assert await crew.told() == ['missed "three"']
    assert await crew.fire(state, FOLLOWING) == "already"
    assert await crew.queued() == []
    assert await crew.fire(state, later) == "fired"
    assert (await crew.get()).missed == 3


async def test_a_slot_that_was_fired_is_not_told_as_missed(crew: Crew) -> None:
    state = await crew.apply(beat())
    await crew.fire(state)
    reply = await heartbeats.miss(
        crew.client, crew.keys, state, first=SLOT, following=FOLLOWING, count=1, message="missed"
    )
    assert reply == ("moved", FOLLOWING)
    assert await crew.told() == []


@pytest.mark.parametrize("agent", ["a", None], ids=["task", "run"])
async def test_inputs_are_given_to_each_task_and_slot_and_now_are_times(crew: Crew, agent: str | None) -> None:
    given = {"notes": "of {slot}", "empty": "", "log": "x" * 30_000 if agent else "two words\n"}
    heartbeat = beat(agent=agent, prompt="since {slot}, at {now}", inputs=given, timeZone="Europe/Berlin")
    state = await crew.apply(heartbeat)
    assert await crew.fire(state) == "fired"
    made = heartbeats.task_id("hb", SLOT)
    key = crew.keys.task(made) if agent else crew.keys.run(made)
    assert (await crew.payload(key)).prompt == "since 2026-11-21T13:01:00+01:00, at 2026-11-21T13:01:02+01:00"
    stored = await runs.inputs(crew.client, crew.keys, made, list(given))
    assert stored == {**given, "notes": "of 2026-11-21T13:01:00+01:00"}
    assert (await crew.client.hget(key, "inputs")) == "empty log notes"
    if agent is None:
        assert await crew.client.hlen(crew.keys.run_steps(made)) == len(
            (await definitions.current(crew.client, crew.keys)).definition.agents
        )
    assert await crew.fire(state) == "already"


async def test_a_prompt_that_its_times_make_too_long_is_refused_and_nothing_is_written(crew: Crew) -> None:
    state = await crew.apply(beat(prompt="{now}" * 20_000))
    before = await crew.dump()
    with pytest.raises(InvalidInput, match="the prompt has 500000 bytes"):
        await crew.fire(state)
    assert await crew.dump() == before


# ------------------------------------------------------------------ lost writes


async def test_a_store_that_lost_writes_does_not_fire_again_what_somebody_remembers(crew: Crew) -> None:
    assert await crew.fire(await crew.apply(beat())) == "fired"
    await crew.client.hset(crew.keys.heartbeat("hb"), "next", heartbeats.ms(SLOT))  # as before the slot was fired
    for key in (crew.keys.fire("hb", heartbeats.label(SLOT)), crew.keys.task(heartbeats.task_id("hb", SLOT))):
        await crew.client.delete(key)
    again = await heartbeats.apply(crew.client, crew.keys, crew.uid, beat(), now=SLOT, fired=SLOT)
    assert again.next == FOLLOWING
    assert await crew.fire(again) == "already"


async def test_what_somebody_remembers_moves_no_slot_that_was_not_fired(crew: Crew) -> None:
    state = await crew.apply(beat())
    again = await heartbeats.apply(
        crew.client, crew.keys, crew.uid, beat(), now=NOON, fired=SLOT - timedelta(minutes=1)
    )
    assert again.next == state.next == SLOT
    suspended = await heartbeats.apply(crew.client, crew.keys, crew.uid, beat(suspend=True), now=NOON, fired=SLOT)
    assert suspended.next is None
