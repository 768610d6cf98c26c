"""Hundreds of heartbeats of every minute, and schedulers that are killed while they fire: each slot is fired once."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from scheduled import NOON, Crew, beat, definition, make_crew

from waiting import until
from watchbill import connection
from watchbill.scheduler import Scheduler
from watchbill.store import definitions, heartbeats
from watchbill.testing import FakeClock

BEATS, MINUTES = 400, 3
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    async with connection.connected(redis_url) as client:
        found = await make_crew(client, crew_name)
        await definitions.apply(client, found.keys, definition(max_queued=10_000))
        await asyncio.gather(
            *(
                heartbeats.apply(client, found.keys, found.uid, beat(f"hb{i}", schedule="* * * * *"), now=NOON)
                for i in range(BEATS)
            )
        )
        yield found


class Replica:
    """A scheduler with connections of its own, which can be killed."""

    def __init__(self, url: str, clock: FakeClock) -> None:
        self.client = connection.connect(url)
        self.scheduler = Scheduler(self.client, clock)

    async def start(self, crew: Crew) -> None:
        for state in await heartbeats.all_of(crew.client, crew.keys):
            await self.scheduler.follow(crew.keys, state)
        await self.scheduler.start()

    async def kill(self) -> None:
        """Nothing more is sent, nothing more is heard: calls that are under way may have been made or not."""
        await self.scheduler.stop()
        await self.client.aclose()


async def test_each_slot_of_400_heartbeats_is_fired_once_though_schedulers_are_killed(
    crew: Crew, redis_url: str
) -> None:
    chance, clock = random.Random(crew.uid), FakeClock(NOON)
    replicas = [Replica(redis_url, clock) for _ in range(2)]
    for replica in replicas:
        await replica.start(crew)

    async def fired() -> int:
        return int(await crew.client.xlen(crew.keys.streams[3]))

    for minute in range(1, MINUTES + 1):
        clock.advance((NOON + timedelta(minutes=minute) - clock.now()).total_seconds())
        moment = (minute - 1) * BEATS + chance.randrange(1, BEATS)
        while await fired() < moment:
            await asyncio.sleep(0)
        await replicas.pop(0).kill()
        if minute % 2 == 0:  # no one is left for a while
            await replicas.pop(0).kill()
            clock.advance(chance.randrange(1, 25))
        while len(replicas) < 2:
            replicas.append(Replica(redis_url, clock))
            await replicas[-1].start(crew)

        async def all_fired(wanted: int = minute * BEATS) -> bool:
            return await fired() == wanted

        await until(all_fired, what="every slot is fired")
    for replica in replicas:
        await replica.kill()
    entries = await crew.client.xrange(crew.keys.streams[3])
    slots = [NOON + timedelta(minutes=minute) for minute in range(1, MINUTES + 1)]
    wanted = sorted(heartbeats.task_id(f"hb{i}", slot) for i in range(BEATS) for slot in slots)
    assert sorted(fields["id"] for _, fields in entries) == wanted, "each slot once"
    assert await crew.told() == [], "none is missed"


def test_each_slot_is_fired_once_by_processes_that_are_killed_shortly_before() -> None:
    command = [sys.executable, "-m", "bench.heartbeats", "--kills", "--due=50", "--period=2", "--rounds=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["doubled"], found["missed"]) == (0, 0)
    assert found["slots"] >= 150
