"""Real schedulers over a real store: each slot is fired once or told once, whatever happens around them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio

from watchbill import connection, metrics, scheduler
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.clock import SYSTEM, Clock
from watchbill.errors import CrewGone, InvalidInput, NewerRecord
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition, TaskPolicy
from watchbill.scheduler import Scheduler
from watchbill.store import definitions, events, heartbeats, submissions
from watchbill.store.submissions import Submission
from watchbill.testing import FakeClock

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def beat(name: str = "hb", **spec: Any) -> Heartbeat:
    spec = {"agent": "a", "prompt": "look", **spec}
    if "schedule" not in spec:
        spec.setdefault("intervalSeconds", 1)
    return Heartbeat(metadata=ObjectMeta(name=name), spec=HeartbeatSpec(crewRef=CrewRef(name="crew"), **spec))


def definition(max_queued: int = 1000) -> CrewDefinition:
    agents = [AgentDefinition(agent_id=agent) for agent in ("a", "b")]
    return CrewDefinition(crew_id="id", name="crew", agents=agents, tasks=TaskPolicy(max_queued=max_queued))


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 60) -> Any:
    """Waits until the condition holds, and returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := await condition()):
        assert time.monotonic() < deadline, "it never came about"
        await asyncio.sleep(0.02)
    return value


@dataclass
class Crew:
    """A crew, and ways to look at it."""

    client: Any  # redis-py types each answer as bytes or str, whatever the connection decodes
    keys: CrewKeys
    uid: str

    async def fired(self, name: str = "hb") -> list[str]:
        """The labels of the slots on the queue, in its order."""
        entries = [e for stream in self.keys.streams for e in await self.client.xrange(stream)]
        return [f["id"].removeprefix(f"hb-{name}-") for _, f in entries if f["id"].startswith(f"hb-{name}-")]

    async def told(self) -> list[str]:
        feed = await events.recent(self.client, self.keys.events, 100)
        return [event.message for _, event in feed if event.event_type == "mission_event"]

    async def state(self, name: str = "hb") -> heartbeats.HeartbeatState:
        state = await heartbeats.get(self.client, self.keys, name)
        assert state is not None
        return state

    def counted(self, counter: Any, name: str = "hb") -> float:
        return float(counter.labels(self.keys.crew, name)._value.get())

    async def tick(self, clock: FakeClock, name: str = "hb") -> None:
        """Moves the clock by a second, to a slot, and returns when that is fired."""
        slot = str(int(clock.advance(1).timestamp()))

        async def is_fired() -> bool:
            return slot in await self.fired(name)

        await until(is_fired)

    async def settled(self) -> None:
        """Returns when this process has nothing left to fire or to report."""
        prefix = f"heartbeat {self.keys.crew}/"
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name().startswith(prefix)))

    async def assert_complete(self) -> None:
        """Every slot since the first that was fired was fired once, or is counted as missed."""
        async with self.client.pipeline(transaction=True) as pipe:
            pipe.xrange(self.keys.streams[3])
            pipe.hget(self.keys.heartbeat("hb"), "missed")
            entries, missed = await pipe.execute()
        slots = [int(fields["id"].removeprefix("hb-hb-")) for _, fields in entries]
        assert slots == sorted(set(slots)), "one task for each slot, in order"
        assert slots[-1] - slots[0] + 1 == len(slots) + int(missed or 0)

    @asynccontextmanager
    async def scheduled(
        self, *beats: Heartbeat, clock: Clock = SYSTEM, client: redis.asyncio.Redis | None = None
    ) -> AsyncIterator[Scheduler]:
        running = Scheduler(client or self.client, clock)
        for heartbeat in beats:
            await running.add(self.keys, self.uid, heartbeat)
        await running.start()
        try:
            yield running
        finally:
            await running.stop()


async def make_crew(client: redis.asyncio.Redis, name: str) -> Crew:
    keys = CrewKeys("team", name)
    return Crew(client, keys, await definitions.apply(client, keys, definition()))


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    async with connection.connected(redis_url) as client:
        yield await make_crew(client, crew_name)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads the clock all the time, so that a fake one can be moved."""
    monkeypatch.setattr(scheduler, "CHECK_CLOCK", timedelta(milliseconds=20))


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


PROCESS = """
import asyncio, sys
from watchbill import connection
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.names import CrewKeys
from watchbill.scheduler import Scheduler

async def main(url, crew, uid):
    async with connection.connected(url) as client:
        spec = HeartbeatSpec(crewRef=CrewRef(name="crew"), intervalSeconds=1, agent="a", prompt="look")
        scheduler = Scheduler(client)
        await scheduler.add(CrewKeys("team", crew), uid, Heartbeat(metadata=ObjectMeta(name="hb"), spec=spec))
        await scheduler.start()
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the test closes it, or ends
        await scheduler.stop()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_of_three_processes_over_one_store_one_fires_each_slot(crew: Crew, redis_url: str) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROCESS,
            redis_url,
            crew.keys.crew.removeprefix("team/"),
            crew.uid,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        await until(lambda: _at_least(crew, 6), 40)
        processes[0].kill()  # the others go on
        await until(lambda: _at_least(crew, 9), 20)
        for process in processes[1:]:
            assert process.stdin is not None
            process.stdin.close()
            assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
    await crew.assert_complete()


@pytest.mark.usefixtures("restless")
async def test_a_slot_of_a_crew_that_a_newer_version_defined_is_fired_once_it_can_be_read(
    crew: Crew, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    key = crew.keys.definition((await definitions.current(crew.client, crew.keys)).digest)
    readable = str(await crew.client.get(key))
    await crew.client.set(key, readable.replace("sequential", "loop"))
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        clock.advance(3600)
        for _ in range(2):
            await until(lambda: _is(clock.sleepers == [scheduler.UNREADABLE_AGAIN_SECONDS]))
            clock.advance(scheduler.UNREADABLE_AGAIN_SECONDS)
        await until(lambda: _is(clock.sleepers == [scheduler.UNREADABLE_AGAIN_SECONDS]))
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


@pytest.mark.usefixtures("restless")
async def test_two_heartbeats_of_one_crew_fire_beside_each_other(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(), beat("all", agent=None), clock=clock):
        await crew.tick(clock)
        assert await until(lambda: crew.fired("all"))
        await crew.tick(clock)


@pytest.mark.usefixtures("restless")
async def test_one_that_is_added_while_running_fires(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(clock=clock) as running:
        await running.add(crew.keys, crew.uid, beat())
        await running.add(crew.keys, crew.uid, beat())
        await crew.tick(clock)
        await crew.tick(clock)
    await crew.assert_complete()


@pytest.mark.usefixtures("restless")
async def test_a_clock_that_is_set_forward_is_noticed(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        assert await crew.fired() == []
        clock.advance(3600)
        assert await until(crew.fired) == ["1795266000"]
        clock.advance(3605)
        assert await until(lambda: _at_least(crew, 2)) == ["1795266000", "1795269600"]
    assert await crew.told() == []


@pytest.mark.usefixtures("restless")
async def test_after_stop_nothing_fires_and_nothing_is_left_running(
    crew: Crew, crew_name: str, clock: FakeClock
) -> None:
    other = await make_crew(crew.client, f"{crew_name}-other")
    async with crew.scheduled(beat(), clock=clock) as running, other.scheduled(beat(), clock=clock):
        await crew.tick(clock)
        await running.stop()
        assert [task for task in asyncio.all_tasks() if f"heartbeat {crew.keys.crew}/" in task.get_name()] == []
        before = await crew.fired()
        await other.tick(clock)  # so ours would have been fired, too
        await other.tick(clock)
        assert await crew.fired() == before
        await running.start()
        await crew.tick(clock)
    await crew.assert_complete()


# ------------------------------------------------------------------ what is missed


async def test_slots_that_passed_while_nobody_was_there_are_told_and_not_fired(
    crew: Crew, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew.scheduled(beat(schedule="*/10 * * * *"), clock=clock):
        pass
    clock.advance(3600 + 45)
    caplog.set_level(logging.WARNING, "watchbill.scheduler")
    async with crew.scheduled(beat(schedule="*/10 * * * *"), clock=clock):
        told = await until(crew.told)
        await crew.settled()
    message = "heartbeat 'hb' missed 6 slots, 2026-11-21T12:10:00Z to 2026-11-21T13:00:00Z: no scheduler was running"
    assert told == [message]
    assert message in caplog.text
    assert await crew.fired() == []
    assert (await crew.state()).next == NOON + timedelta(hours=1, minutes=10)
    assert (await crew.state()).missed == crew.counted(metrics.HEARTBEATS_MISSED) == 6


async def test_a_long_absence_is_told_in_one_event(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(), clock=clock):
        pass
    clock.advance(86_400 * 30)
    async with crew.scheduled(beat(), clock=clock):
        await until(crew.fired)
        await crew.settled()
    assert await crew.told() == [
        "heartbeat 'hb' missed more than 100 slots, from 2026-11-21T12:00:01Z on: no scheduler was running"
    ]
    assert await crew.fired() == [str(int(clock.now().timestamp()))], "the newest slot is not too late"


async def test_a_restart_over_a_slot_loses_nothing(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        clock.advance(3590)
    clock.advance(30)  # twenty seconds past one
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        assert await until(crew.fired) == ["1795266000"]
        await crew.settled()
    assert await crew.told() == []


async def test_schedulers_that_start_together_tell_of_missed_slots_once(
    crew: Crew, redis_url: str, clock: FakeClock
) -> None:
    async with crew.scheduled(beat(schedule="* * * * *"), clock=clock):
        pass
    clock.advance(600)
    schedulers = [Scheduler(connection.connect(redis_url), clock) for _ in range(5)]
    await asyncio.gather(*(s.add(crew.keys, crew.uid, beat(schedule="* * * * *")) for s in schedulers))
    await asyncio.gather(*(s.start() for s in schedulers))
    try:
        await until(crew.fired)
        await crew.settled()
    finally:
        for s in schedulers:
            await s.stop()
            await s._client.aclose()
    assert len(await crew.told()) == 1
    assert await crew.fired() == [str(int(clock.now().timestamp()))]
    assert (await crew.state()).missed == 9


@pytest.mark.usefixtures("restless")
async def test_a_suspended_heartbeat_neither_fires_nor_misses(crew: Crew, clock: FakeClock) -> None:
    awake = beat("awake", schedule="0 * * * *")
    async with crew.scheduled(beat(suspend=True), awake, clock=clock):
        clock.advance(3600)
        await until(lambda: crew.fired("awake"))
    async with crew.scheduled(beat(suspend=True), clock=clock):
        await crew.settled()
    async with crew.scheduled(beat(), awake, clock=clock) as running:
        assert (await crew.state()).next == clock.now() + timedelta(seconds=1)
        await running.add(crew.keys, crew.uid, beat(suspend=True))
        clock.advance(3600)
        await until(lambda: _at_least(crew, 2, "awake"))
    assert await crew.fired() == []
    assert await crew.told() == []


@pytest.mark.parametrize("change", [{"prompt": "other"}, {"suspend": True}, {"schedule": "0 0 1 1 *"}])
async def test_what_was_missed_under_a_spec_is_told_when_another_comes(
    crew: Crew, clock: FakeClock, change: dict[str, Any]
) -> None:
    before = {"schedule": "*/10 * * * *"}
    async with crew.scheduled(beat(**before), clock=clock):
        pass
    clock.advance(1805)
    async with crew.scheduled(beat(**{**before, **change}), clock=clock):
        assert len(await crew.told()) == 1
        assert "missed 3 slots, 2026-11-21T12:10:00Z to 2026-11-21T12:30:00Z" in (await crew.told())[0]


async def test_a_slot_whose_id_is_taken_is_told(crew: Crew, clock: FakeClock) -> None:
    taken = heartbeats.task_id("hb", NOON)
    await submissions.submit(crew.client, crew.keys, crew.uid, [Submission(taken, "a", "{}")], max_queued=9)
    clock = FakeClock(NOON - timedelta(seconds=1))
    async with crew.scheduled(beat(agent=None), clock=clock):
        pass
    clock.advance(1)
    async with crew.scheduled(beat(agent=None), clock=clock):
        [told] = await until(crew.told)
    assert "the slot 2026-11-21T12:00:00Z" in told
    assert repr(taken) in told


@pytest.mark.usefixtures("restless")
async def test_a_full_queue_misses_slots_and_says_so_until_there_is_room(crew: Crew, clock: FakeClock) -> None:
    await definitions.apply(crew.client, crew.keys, definition(max_queued=1))
    await submissions.submit(crew.client, crew.keys, crew.uid, [Submission("x", "a", "{}")], max_queued=1)
    async with crew.scheduled(beat(), clock=clock):
        for _ in range(2):
            clock.advance(1)
            await until(lambda: _is(clock.sleepers == [scheduler.FULL_AGAIN_SECONDS]))
        assert await crew.told() == ["heartbeat 'hb' missed the slot 2026-11-21T12:00:01Z: the crew's queue was full"]
        assert await crew.fired() == []
        await definitions.apply(crew.client, crew.keys, definition(max_queued=1000))
        clock.advance(scheduler.FULL_AGAIN_SECONDS)
        assert await until(crew.fired) == [str(int(NOON.timestamp()) + 2)], "the slot is not too late yet"
    assert (await crew.state()).missed == crew.counted(metrics.HEARTBEATS_MISSED) == 1


@pytest.mark.usefixtures("restless")
async def test_each_slot_of_a_store_outage_is_fired_late_or_told(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, clock: FakeClock
) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        crew = await make_crew(client, crew_name)
        async with crew.scheduled(beat(), clock=clock) as running:
            await crew.tick(clock)
            await server.kill()
            clock.advance(1)
            [timed] = running._timed.values()
            await until(lambda: _is(timed.reason == "the store was away"))
            clock.advance(3)
            await server.restart()
            told = await until(crew.told)
            await crew.tick(clock)
        assert re.search("missed 3 slots, .*: the store was away", told[0])
        await crew.assert_complete()


async def test_a_slot_is_fired_late_when_the_store_returns_before_the_next_one(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    monkeypatch.setattr(scheduler, "CHECK_CLOCK", timedelta(milliseconds=20))
    server = await private_redis()
    async with connection.connected(server.url) as client:
        crew = await make_crew(client, crew_name)
        async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock) as running:
            await server.kill()
            clock.advance(3600)
            [timed] = running._timed.values()
            await until(lambda: _is(timed.reason != "no scheduler was running"))  # it has been tried
            clock.advance(1800)  # far beyond the grace
            await server.restart()
            assert await until(crew.fired) == ["1795266000"]
        assert await crew.told() == []


# ------------------------------------------------------------------ changes


@pytest.mark.usefixtures("restless")
async def test_a_changed_spec_takes_the_place_of_the_former(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(prompt="old"), clock=clock) as running:
        await crew.tick(clock)
        await running.add(crew.keys, crew.uid, beat(prompt="new"))
        await crew.tick(clock)
        fired = await crew.fired()
    payload = await crew.client.hget(crew.keys.task(f"hb-hb-{fired[-1]}"), "payload")
    assert '"prompt":"new"' in str(payload)
    await crew.assert_complete()


@pytest.mark.usefixtures("restless")
async def test_a_removed_heartbeat_fires_no_more_in_any_scheduler(
    crew: Crew, redis_url: str, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "watchbill.scheduler")
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
        await until(lambda: _is("no longer fires it" in caplog.text))
        assert there._timed == {}
        assert await crew.fired() == before


@pytest.mark.usefixtures("restless")
async def test_a_scheduler_leaves_a_crew_that_was_replaced(
    crew: Crew, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "watchbill.scheduler")
    async with crew.scheduled(beat(), clock=clock) as running:
        await crew.tick(clock)
        await crew.client.hset(crew.keys.meta, "uid", "another")
        clock.advance(1)
        await until(lambda: _is("the crew was deleted or replaced" in caplog.text))
        with pytest.raises(CrewGone):
            await running.add(crew.keys, crew.uid, beat())


@pytest.mark.usefixtures("restless")
async def test_an_unexpected_error_is_logged_and_the_heartbeat_goes_on(
    crew: Crew, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        key = crew.keys.heartbeat("hb")
        await crew.client.rename(key, key + ":aside")
        await crew.client.set(key, "not a hash")
        clock.advance(3600)
        await until(lambda: _is("WRONGTYPE" in caplog.text))
        await crew.client.rename(key + ":aside", key)
        assert await until(crew.fired) == ["1795266000"]


async def test_a_heartbeat_that_can_never_fire_is_refused(crew: Crew) -> None:
    with pytest.raises(InvalidInput, match=r"spec\.schedule"):
        await Scheduler(crew.client).add(crew.keys, crew.uid, beat(schedule="0 0 31 2 *"))
    assert await heartbeats.all_of(crew.client, crew.keys) == []


# ------------------------------------------------------------------ within


async def _at_least(crew: Crew, count: int, name: str = "hb") -> list[str]:
    fired = await crew.fired(name)
    return fired if len(fired) >= count else []


async def _is(condition: bool) -> bool:
    return condition


def _slot_ms(task_id: str) -> int:
    return int(task_id.rpartition("-")[2]) * 1000
