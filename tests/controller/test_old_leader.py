"""An operator that no longer leads, or sees old resources, does the store no harm; one that follows fires beats."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio

from waiting import until
from watchbill import connection
from watchbill.controller import beats_now
from watchbill.controller.cache import Key
from watchbill.controller.memory import CrewMemory
from watchbill.controller.stored import Stored
from watchbill.errors import CrewGone, NotLeader, StaleObject
from watchbill.names import CrewKeys
from watchbill.plan.heartbeat import RUN_NOW_ANNOTATION
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.scheduler import Scheduler
from watchbill.store import definitions, heartbeats
from watchbill.store.crews import CrewRedis
from watchbill.testing import FakeClock

KEY: Key = ("team", "echo")
KEYS = CrewKeys(*KEY)


def crew_of(agent: str) -> CrewDefinition:
    return CrewDefinition(name="echo", agents=[AgentDefinition(agent_id=agent, agent_class="EchoAgent")])


class Replica:
    """The part of an operator that writes to the store, and what the API server answers it."""

    def __init__(self, client: redis.asyncio.Redis, clock: FakeClock) -> None:
        self.living: tuple[str, int] | None = ("u", 1)
        self.leads = True
        self.leads_for: int | None = None
        """So often it is told that it leads, and then that it doesn't."""
        self.memory = CrewMemory()
        self.scheduler = Scheduler(client, clock)
        self.stored = Stored(client, self.scheduler, "me", self._living, check=self._check, clock=clock)

    async def _living(self, _: Key) -> tuple[str, int] | None:
        return self.living

    def _check(self) -> None:
        if self.leads_for is not None:
            self.leads, self.leads_for = self.leads_for > 0, self.leads_for - 1
        if not self.leads:
            raise NotLeader("another leads")

    async def sync(self, agent: str, *beats: dict[str, Any], uid: str = "u", generation: int = 1) -> None:
        """Stores the crew as this replica sees it; `agent` is its only one."""
        seen = {"metadata": {"uid": uid, "generation": generation}}
        assert await self.stored.sync(KEY, seen, crew_of(agent), beats, self.memory)


@pytest.fixture
async def client(private_redis: Callable[[], Awaitable[Any]]) -> AsyncIterator[redis.asyncio.Redis]:
    async with connection.connected((await private_redis()).url) as client:
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def agents(client: redis.asyncio.Redis) -> tuple[str, str]:
    """The agent of the definition that workers run, and of the record that people read."""
    record = await CrewRedis(client=client, tenant="team").load_crew("echo")
    assert record is not None
    return (await definitions.current(client, KEYS)).definition.agents[0].agent_id, record.agents[0].agent_id


def beat(seconds: int, generation: int = 1, *, name: str = "beat", run_now: str = "") -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "team", "uid": name, "generation": generation}
    metadata |= {"annotations": {RUN_NOW_ANNOTATION: run_now}} if run_now else {}
    spec = {"crewRef": {"name": "echo"}, "intervalSeconds": seconds, "agent": "a", "prompt": "look"}
    return {"apiVersion": "watchbill.dev/v1alpha1", "kind": "Heartbeat", "metadata": metadata, "spec": spec}


async def test_a_definition_is_not_replaced_by_an_older_generation_unless_that_is_what_the_api_server_has(
    client: redis.asyncio.Redis, clock: FakeClock
) -> None:
    old, new = Replica(client, clock), Replica(client, clock)
    await old.sync("first")
    new.living = old.living = ("u", 3)
    await new.sync("third", generation=3)
    with pytest.raises(StaleObject, match="generation 3 is stored"):
        await old.sync("second", generation=2)
    assert await agents(client) == ("third", "third")
    with pytest.raises(StaleObject, match="older"):  # one that had looked before the new leader wrote
        await definitions.apply(client, KEYS, crew_of("second"), uid="u", owner="me", generation=2)
    old.living = ("u", 2)  # somebody restored a backup of the API server
    await old.sync("second", generation=2)
    assert await agents(client) == ("second", "second")
    await new.sync("fourth", generation=4)
    assert await agents(client) == ("fourth", "fourth")


async def test_nothing_of_a_crew_that_the_api_server_has_is_removed_by_one_that_saw_it_gone(
    client: redis.asyncio.Redis, clock: FakeClock
) -> None:
    old, new = Replica(client, clock), Replica(client, clock)
    await old.sync("former", uid="former")
    new.living = ("latter", 1)
    await new.sync("latter", beat(60), uid="latter")
    kept = {key async for key in client.scan_iter()}
    old.living = ("latter", 1)
    for uid in (None, "latter"):
        with pytest.raises(StaleObject, match="alive"):
            await old.stored.remove(KEY, uid, CrewMemory())
    await old.stored.remove(KEY, "former", CrewMemory())
    with pytest.raises(StaleObject, match="alive"):  # it still sees the former crew, and takes the latter for older
        await old.sync("former", uid="former")
    assert {key async for key in client.scan_iter()} == kept
    assert await agents(client) == ("latter", "latter")
    new.living = None
    await new.stored.remove(KEY, None, new.memory)
    assert not [key async for key in client.scan_iter() if "echo" in str(key)]


async def test_one_that_does_not_lead_writes_nothing(client: redis.asyncio.Redis, clock: FakeClock) -> None:
    one = Replica(client, clock)
    one.leads = False
    with pytest.raises(NotLeader):
        await one.sync("a")
    assert not [key async for key in client.scan_iter()]
    one.leads = True
    await one.sync("a")
    one.leads, one.living = False, None
    with pytest.raises(NotLeader):
        await one.stored.remove(KEY, None, one.memory)
    assert await agents(client) == ("a", "a")


async def test_one_that_leads_no_more_fires_nothing_that_it_was_asked_for_and_the_next_leader_does_once(
    client: redis.asyncio.Redis, clock: FakeClock
) -> None:
    old, new = Replica(client, clock), Replica(client, clock)
    names = [f"beat{number}" for number in range(3)]
    await old.sync("a", *(beat(3600, name=name) for name in names))
    asked = [beat(3600, name=name, run_now="now") for name in names]

    old.leads_for = 1
    with pytest.raises(NotLeader):
        await old.sync("a", *asked)
    made = [heartbeats.run_now_id(name, "now") for name in names]
    assert [await client.exists(KEYS.task(task)) for task in made] == [1, 0, 0]

    await new.sync("a", *asked)
    assert [await client.exists(KEYS.task(task)) for task in made] == [1, 1, 1]
    assert new.memory.run_now == {name: ("now", f"fired {task}") for name, task in zip(names, made, strict=True)}
    assert await client.zcard(KEYS.ids) == 3, "one was fired twice"


async def test_what_was_asked_of_a_former_crew_is_not_fired_in_the_one_that_took_its_place(
    client: redis.asyncio.Redis, clock: FakeClock
) -> None:
    old, new = Replica(client, clock), Replica(client, clock)
    await old.sync("a", beat(3600), uid="former")
    new.living = old.living = ("latter", 1)
    await new.sync("a", beat(3600), uid="latter")
    with pytest.raises(CrewGone):  # it has looked before, and stood still until now
        await beats_now.fire(client, KEYS, "former", {"beat": "now"}, old.memory, check=old._check, now=clock.now())
    assert await client.zcard(KEYS.ids) == 0
    assert not await beats_now.fire(
        client, KEYS, "latter", {"beat": "now"}, new.memory, check=new._check, now=clock.now()
    )
    assert await client.zcard(KEYS.ids) == 1


async def test_a_replica_that_follows_fires_what_the_leader_stored_each_slot_once(
    client: redis.asyncio.Redis, clock: FakeClock
) -> None:
    leader, follower = Replica(client, clock), Replica(client, clock)
    follower.leads = False
    for one in (leader, follower):
        await one.scheduler.start()
    assert not await follower.stored.follow(KEY, [beat(60)]), "nothing is stored yet"
    await leader.sync("a", beat(60))
    assert await follower.stored.follow(KEY, [beat(60)])
    reads = (await client.info("commandstats"))["cmdstat_hgetall"]["calls"]
    assert await follower.stored.follow(KEY, [beat(60)])
    assert (await client.info("commandstats"))["cmdstat_hgetall"]["calls"] == reads, "nothing new is to be read"
    assert not await follower.stored.follow(KEY, [beat(30, 2)]), "it waits for what the leader has not stored yet"

    async def fired(slots: int) -> None:
        async def so_many() -> bool:
            return await client.zcard(KEYS.ids) >= slots

        await until(so_many)

    async def tick(seconds: int) -> None:
        """Both find what is due."""
        clock.advance(seconds)

    for slot in range(1, 6):
        await tick(60)
        await fired(slot)
    assert await client.zcard(KEYS.ids) == 5, "a slot was fired twice"

    await leader.scheduler.stop()  # it is gone
    leader.scheduler._timed.clear()
    for slot in range(6, 9):
        await tick(60)
        await fired(slot)
    (state,) = await heartbeats.all_of(client, KEYS)
    assert state.missed == 0
    assert state.next is not None
    assert state.next - clock.now() <= timedelta(seconds=60)

    # a spec that another leader stores ends the old one here, and the new one is followed
    other = Replica(client, clock)
    await other.sync("a", beat(30, 2), generation=2)
    assert await follower.stored.follow(KEY, [beat(30, 2)])
    before = int(await client.zcard(KEYS.ids))
    await tick(30)
    await fired(before + 1)
    await follower.scheduler.stop()
