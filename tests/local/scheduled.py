"""A crew whose heartbeats a scheduler fires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis.asyncio

from waiting import until
from watchbill import metrics
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.clock import SYSTEM, Clock
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition, TaskPolicy
from watchbill.scheduler import Scheduler, scheduler
from watchbill.store import definitions, events, heartbeats
from watchbill.testing import FakeClock

BACK = scheduler.STAND_BACK_SECONDS[1]
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def beat(name: str = "hb", **spec: Any) -> Heartbeat:
    spec = {"agent": "a", "prompt": "look", **spec}
    if "schedule" not in spec:
        spec.setdefault("intervalSeconds", 1)
    return Heartbeat(metadata=ObjectMeta(name=name), spec=HeartbeatSpec(crewRef=CrewRef(name="crew"), **spec))


def definition(max_queued: int = 1000) -> CrewDefinition:
    agents = [AgentDefinition(agent_id=agent) for agent in ("a", "b")]
    return CrewDefinition(crew_id="id", name="crew", agents=agents, tasks=TaskPolicy(max_queued=max_queued))


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
        return float(counter.labels(*metrics.of_crew(self.keys.crew), name)._value.get())

    async def tick(self, clock: FakeClock, name: str = "hb") -> None:
        """Moves the clock to the next full second, to a slot, and returns when that is fired."""
        slot = str(int(clock.advance(1 - clock.now().microsecond / 1e6).timestamp()))

        async def is_fired() -> bool:
            if slot in await self.fired(name):
                return True
            if clock.now().microsecond < 600_000 and any(seconds <= BACK for seconds in clock.sleepers):
                clock.advance(BACK)  # each of two may have found a slot fired by the other, and stands back
            return False

        await until(is_fired)

    async def settled(self) -> None:
        """Returns when this process has nothing left to fire or to report."""
        await settled()

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


def works() -> list[asyncio.Task[Any]]:
    """What schedulers of this process do just now, beside waiting for the clock."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("heartbeat ")]


async def looked() -> None:
    """Returns when each scheduler whose clock was turned has seen that, and has done what takes no answer."""
    for _ in range(20):
        await asyncio.sleep(0)


async def settled() -> None:
    """Returns when no scheduler of this process has anything left to fire or to report."""
    while True:
        await looked()
        if not (found := works()):
            return
        await asyncio.wait(found)


async def at_least(crew: Crew, count: int, name: str = "hb") -> list[str]:
    fired = await crew.fired(name)
    return fired if len(fired) >= count else []


async def as_awaitable(condition: bool) -> bool:
    return condition
