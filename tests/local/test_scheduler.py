"""Real schedulers over a real store: each slot is fired once or told once, whatever happens around them."""

from __future__ import annotations

import asyncio
import heapq
import logging
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from scheduled import Crew, as_awaitable, at_least, beat, make_crew

from waiting import until
from watchbill import connection, metrics
from watchbill.errors import CrewGone, InvalidInput, NewerRecord
from watchbill.scheduler import Scheduler, scheduler
from watchbill.store import definitions, heartbeats
from watchbill.testing import FakeClock

# ------------------------------------------------------------------ firing


async def test_slots_are_fired_as_they_come_and_each_in_its_second(crew: Crew) -> None:
    async def are_counted() -> bool:
        return len(await crew.fired()) == crew.counted(metrics.HEARTBEATS_FIRED) >= 3

    async with crew.scheduled(beat()):
        await until(are_counted)
    await crew.assert_complete()
    entries = await crew.client.xrange(crew.keys.streams[3])
    early = [fields["id"] for entry, fields in entries if int(entry.partition("-")[0]) < _slot_ms(fields["id"])]
    assert early == [], "none before its time"


async def test_a_slot_of_a_crew_that_a_newer_version_defined_is_fired_once_it_can_be_read(
    crew: Crew, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    key = crew.keys.definition((await definitions.current(crew.client, crew.keys)).digest)
    readable = str(await crew.client.get(key))
    await crew.client.set(key, readable.replace("sequential", "swarm"))
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        clock.advance(3600)
        for _ in range(2):
            await until(lambda: as_awaitable(scheduler.UNREADABLE_AGAIN_SECONDS in clock.sleepers))
            clock.advance(scheduler.UNREADABLE_AGAIN_SECONDS)
        await until(lambda: as_awaitable(scheduler.UNREADABLE_AGAIN_SECONDS in clock.sleepers))
        await crew.client.set(key, readable)
        clock.advance(scheduler.UNREADABLE_AGAIN_SECONDS)
        assert await until(crew.fired) == ["1795266000"]
        assert caplog.text.count("execution_mode") == 1
        assert "Traceback" not in caplog.text  # before it stops, and logs what it cancels


async def test_a_heartbeat_of_a_newer_version_is_known_by_name_and_replaced(crew: Crew) -> None:
    newer = {"uid": crew.uid, "generation": "g", "spec": '{"priority": "loop"}', "next": "1000"}
    await crew.client.hset(crew.keys.heartbeat("hb"), mapping=newer)
    await crew.client.hset(crew.keys.meta, "heartbeat:hb", "")
    (state,) = await heartbeats.all_of(crew.client, crew.keys)
    with pytest.raises(NewerRecord, match=r"heartbeat 'hb' .*priority"):
        assert state.spec
    async with crew.scheduled(beat()):
        assert (await crew.state()).spec.interval_seconds == 1


async def test_two_heartbeats_of_one_crew_fire_beside_each_other(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(), beat("all", agent=None), clock=clock):
        await crew.tick(clock)
        assert await until(lambda: crew.fired("all"))
        await crew.tick(clock)


async def test_one_that_is_added_while_running_fires(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(clock=clock) as running:
        await running.add(crew.keys, crew.uid, beat())
        await running.add(crew.keys, crew.uid, beat())
        await crew.tick(clock)
        await crew.tick(clock)
    await crew.assert_complete()


async def test_a_clock_that_is_set_forward_is_noticed(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        assert await crew.fired() == []
        clock.advance(3600)
        assert await until(crew.fired) == ["1795266000"]
        clock.advance(3605)
        assert await until(lambda: at_least(crew, 2)) == ["1795266000", "1795269600"]
    assert await crew.told() == []


async def test_the_lateness_of_each_slot_is_measured(crew: Crew, clock: FakeClock) -> None:
    def late(what: str) -> float:
        return REGISTRY.get_sample_value(f"watchbill_heartbeat_lateness_seconds_{what}") or 0.0

    count, total = late("count"), late("sum")
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        clock.advance(3600)
        await until(lambda: at_least(crew, 1))
        clock.advance(3607)
        await until(lambda: at_least(crew, 2))
        await crew.settled()
        assert late("count") - count == 2
        assert late("sum") - total == pytest.approx(7)


async def test_what_was_counted_of_a_heartbeat_is_exported_until_it_is_removed(crew: Crew, clock: FakeClock) -> None:
    def exported() -> float | None:
        labels = dict(zip(metrics.OF_CREW, metrics.of_crew(crew.keys.crew), strict=True))
        return REGISTRY.get_sample_value("watchbill_heartbeats_fired_total", labels | {"heartbeat": "hb"})

    async with crew.scheduled(beat(), clock=clock) as running:
        await crew.tick(clock)
        await until(lambda: as_awaitable(exported() == 1))
        await running.remove(crew.keys, crew.uid, "hb")
        assert exported() is None


async def test_after_stop_nothing_fires_and_nothing_is_left_running(
    crew: Crew, crew_name: str, clock: FakeClock
) -> None:
    other = await make_crew(crew.client, f"{crew_name}-other")
    async with crew.scheduled(beat(), clock=clock) as running, other.scheduled(beat(), clock=clock):
        await crew.tick(clock)
        await running.stop()
        assert [task for task in asyncio.all_tasks() if task in running._tasks] == []
        before = await crew.fired()
        await other.tick(clock)  # so ours would have been fired, too
        await other.tick(clock)
        assert await crew.fired() == before
        await running.start()
        await crew.tick(clock)
    await crew.assert_complete()


# ------------------------------------------------------------------ changes


async def test_a_changed_spec_takes_the_place_of_the_former(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(prompt="old"), clock=clock) as running:
        await crew.tick(clock)
        await running.add(crew.keys, crew.uid, beat(prompt="new"))
        await crew.tick(clock)
        fired = await crew.fired()
    payload = await crew.client.hget(crew.keys.task(f"hb-hb-{fired[-1]}"), "payload")
    assert '"prompt":"new"' in str(payload)
    await crew.assert_complete()


async def test_a_removed_heartbeat_fires_no_more_in_any_scheduler(
    crew: Crew, redis_url: str, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "watchbill.scheduler")
    async with (
        connection.connected(redis_url) as other,
        crew.scheduled(beat(), clock=clock) as here,
        crew.scheduled(beat(), clock=clock, client=other) as there,
    ):
        await crew.tick(clock)
        await here.remove(crew.keys, crew.uid, "hb")
        await here.remove(crew.keys, crew.uid, "hb")
        before = await crew.fired()
        clock.advance(1)
        await until(lambda: as_awaitable("no longer fires it" in caplog.text))
        assert there._timed == {}
        assert await crew.fired() == before


async def test_nothing_is_kept_of_a_crew_whose_heartbeats_are_removed(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(), beat("other"), clock=clock) as running:
        await crew.tick(clock)
        assert list(running._definitions) == [crew.keys.crew]
        await running.remove(crew.keys, crew.uid, "hb")
        await crew.tick(clock, "other")
        await running.remove(crew.keys, crew.uid, "other")
        await crew.settled()
        assert (running._definitions, running._timed) == ({}, {})


async def test_a_definition_that_is_read_while_its_crew_goes_is_not_kept(
    crew: Crew, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked, go_on = definitions.current, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> definitions.Current:
        found = await read(*arguments)
        asked.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(definitions, "current", slow)
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock) as running:
        clock.advance(3595)  # the call of the next slot is made ahead
        await asyncio.wait_for(asked.wait(), 60)
        await running.remove(crew.keys, crew.uid, "hb")
        go_on.set()
        await crew.settled()
        assert running._definitions == {}


async def test_the_times_of_removed_heartbeats_are_not_kept_until_they_come(
    crew: Crew, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "HEAP_LEAST", 20)
    async with crew.scheduled(beat("stays"), clock=clock) as running:
        for _ in range(50):
            await running.add(crew.keys, crew.uid, beat(schedule="0 0 1 1 *"))
            await running.remove(crew.keys, crew.uid, "hb")
        assert len(running._heap) <= 22
        await crew.tick(clock, "stays")


async def test_the_times_of_heartbeats_that_live_are_seldom_searched(
    crew: Crew, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each second has some thirty, one for each look at the clock that is yet to come."""
    searched: list[int] = []
    really = heapq.heapify

    def heapify(heap: list[Any]) -> None:
        searched.append(len(heap))
        really(heap)

    monkeypatch.setattr(heapq, "heapify", heapify)
    async with crew.scheduled(beat("stays"), clock=clock) as running:
        (timed,) = running._timed.values()
        for number in range(16 * scheduler.HEAP_LEAST):
            running._push(clock.now() + timedelta(days=1, seconds=number), timed)
    assert len(searched) in (3, 4, 5)


async def test_a_scheduler_leaves_a_crew_that_was_replaced(
    crew: Crew, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "watchbill.scheduler")
    async with crew.scheduled(beat(), clock=clock) as running:
        await crew.tick(clock)
        await crew.client.hset(crew.keys.meta, "uid", "another")
        clock.advance(1)
        await until(lambda: as_awaitable("the crew was deleted or replaced" in caplog.text))
        with pytest.raises(CrewGone):
            await running.add(crew.keys, crew.uid, beat())


async def test_an_unexpected_error_is_logged_and_the_heartbeat_goes_on(
    crew: Crew, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        key = crew.keys.heartbeat("hb")
        await crew.client.rename(key, key + ":aside")
        await crew.client.set(key, "not a hash")
        clock.advance(3600)
        await until(lambda: as_awaitable("WRONGTYPE" in caplog.text))
        await crew.client.rename(key + ":aside", key)
        clock.advance(scheduler.CHECK_CLOCK.total_seconds())
        assert await until(crew.fired) == ["1795266000"]


async def test_a_heartbeat_that_can_never_fire_is_refused(crew: Crew) -> None:
    with pytest.raises(InvalidInput, match=r"spec\.schedule"):
        await Scheduler(crew.client).add(crew.keys, crew.uid, beat(schedule="0 0 31 2 *"))
    assert await heartbeats.all_of(crew.client, crew.keys) == []


# ------------------------------------------------------------------ within


def _slot_ms(task_id: str) -> int:
    return int(task_id.rpartition("-")[2]) * 1000
