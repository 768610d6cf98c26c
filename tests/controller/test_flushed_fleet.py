"""The store has lost its data: no worker leaves before it is known which of them work."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator

import pytest
from test_figures_shown import NoHeartbeats, PrivateRedis, no_crew

from watchbill import connection
from watchbill.controller.fleet import BACK_SECONDS
from watchbill.controller.memory import CrewMemory
from watchbill.controller.stored import Stored
from watchbill.names import CrewKeys
from watchbill.plan import drain
from watchbill.plan.children import Child
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store.queue import Queue
from watchbill.testing import FakeClock

KEYS, UID = CrewKeys("team", "c"), "u"
PODS = Child("c-1", "d", "5", "abc", UID, "", 3, 3, "", None, "", there=3)
"""Three pods, all of them ready."""


class Room:
    """An operator's part of one crew, whose workers are to leave."""

    def __init__(self, client: object, *, was_stored: bool = True) -> None:
        self.client, self.memory = client, CrewMemory()
        self.stored = Stored(client, NoHeartbeats(), "me", no_crew, clock=FakeClock())  # type: ignore[arg-type]
        self.queue = Queue(client, KEYS, UID)  # type: ignore[arg-type]
        self.status: dict[str, object] = {"observedGeneration": 1, **({"waiting": 0} if was_stored else {})}

    async def fleet(self, *, has_pods: bool = True, ready: int = 3) -> drain.Fleet | None:
        seen = {"metadata": {"uid": UID, "generation": 1}, "status": self.status, "spec": {"suspend": True}}
        definition = CrewDefinition(name="c", agents=[AgentDefinition(agent_id="a", agent_class="EchoAgent")])
        state = await self.stored.sync(("team", "c"), seen, definition, [], self.memory, has_pods, "", ready)
        assert state is not None
        return state.fleet

    async def left(self) -> int:
        """The number of pods that the next step leaves."""
        return drain.step(0, PODS, [], await self.fleet()).size

    async def enter(self, *names: str, revision: str = "abc") -> None:
        for name in names:
            await self.queue.enter(f"{name}.aaaa", ["a"], lease_ms=60_000)
            if revision:
                said = json.dumps({"revision": revision, "since": 1})
                await self.client.hset(KEYS.workers, f"{name}.aaaa", said)  # type: ignore[attr-defined]


@pytest.fixture
async def room(private_redis: PrivateRedis) -> AsyncIterator[Room]:
    async with connection.connected((await private_redis()).url) as client:
        made = Room(client)
        await made.fleet()
        await made.enter("pod-1", "pod-2", "pod-3")
        await client.flushall()
        yield made


async def test_no_pod_goes_before_the_workers_that_the_store_lost_are_back(room: Room) -> None:
    assert await room.left() == 3
    await room.enter("pod-1", "pod-2")
    await room.enter("pod-3", revision="")
    assert await room.left() == 3, "one has not said yet in which pod it is"
    await room.enter("pod-3")
    found = await room.fleet()
    assert found is not None
    assert [worker.name for worker in found.workers] == ["pod-1", "pod-2", "pod-3"]
    assert drain.step(0, PODS, [], found).drain == ("pod-1", "pod-2", "pod-3")


async def test_after_a_minute_pods_whose_workers_do_not_come_back_are_not_waited_for(room: Room) -> None:
    assert await room.left() == 3
    born_us = int(await room.client.hget(KEYS.meta, "born"))  # type: ignore[attr-defined]
    await room.client.hset(KEYS.meta, "born", born_us - int(BACK_SECONDS * 1e6))  # type: ignore[attr-defined]
    assert await room.left() == 0


async def test_an_operator_that_starts_after_the_loss_knows_of_it(room: Room) -> None:
    assert await room.left() == 3
    assert await Room(room.client).left() == 3


async def test_a_new_crew_and_one_without_pods_are_not_held(room: Room) -> None:
    assert await Room(room.client, was_stored=False).left() == 0
    assert await room.fleet(has_pods=False, ready=0) == drain.Fleet()
    starting = dataclasses.replace(PODS, ready=0)
    assert drain.step(0, starting, [], await room.fleet(ready=0)).size == 0
