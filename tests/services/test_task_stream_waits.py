"""Entries of the task stream whose crew takes no work now: they wait, and hold up no other."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis
from runtimes import Runtime

from waiting import until
from watchbill import background
from watchbill.client import Client
from watchbill.connection import connected
from watchbill.errors import StoreUnavailable
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.services import AgentServiceClient, ingress
from watchbill.services.config import definition, keys_of
from watchbill.services.ingress import Listener
from watchbill.store import definitions, suspension
from watchbill.store.ingress import Entry, Source

STATES = ("closed", "over its quota", "full", "defined by a newer version")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "IDLE_MS", 200)
    monkeypatch.setattr(ingress, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(ingress, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(ingress, "BLOCK_MS", 100)


class Scene:
    """A task stream, its crew and another one, in a store; no service runs their tasks."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.redis = runtime.redis
        self.own = keys_of(runtime.tasks)
        self.other = CrewKeys("default", f"other-{self.own.crew.rpartition('-')[2]}")
        self.letters: list[str] = []
        self._uids: dict[str, str] = {}
        self._texts: dict[str, str] = {}

    async def make(self) -> None:
        agents = [AgentDefinition(agent_id="Bot", agent_class="EchoAgent")]
        for keys, made in (
            (self.own, definition(self.runtime.tasks)),
            (self.other, CrewDefinition(name=self.other.crew.partition("/")[2], agents=agents)),
        ):
            small = made.model_copy(update={"tasks": made.tasks.model_copy(update={"max_queued": 500})})
            self._uids[keys.crew] = await definitions.apply(self.redis, keys, small)
            self._texts[keys.crew] = keys.definition(small.digest())

    async def shut(self, keys: CrewKeys, state: str) -> Callable[[], Awaitable[object]]:
        """Has the crew take no work, and returns what opens it."""
        uid = self._uids[keys.crew]
        match state:
            case "closed":
                await suspension.close(self.redis, keys, uid, on=True)
                return lambda: suspension.close(self.redis, keys, uid, on=False)
            case "over its quota":
                await suspension.suspend(self.redis, keys, uid, on=True, hold="no room")
                return lambda: suspension.suspend(self.redis, keys, uid, on=False)
            case "full":
                return await self._fill(keys)
            case _:
                key = self._texts[keys.crew]
                text = await self.redis.getset(key, '{"execution_mode": "hovering"}')
                return lambda: self.redis.set(key, text)

    async def _fill(self, keys: CrewKeys) -> Callable[[], Awaitable[object]]:
        async with Client(self.runtime.url) as client:
            ids = await client.submit_many(keys.crew, "Bot", ["fill"] * 500)

        async def empty() -> None:
            async with Client(self.runtime.url) as client:
                for one in ids:
                    await client.cancel(keys.crew, one)

        return empty

    async def add(self, *ids: str, other: bool = False) -> None:
        crew = {"crew_name": self.other.crew} if other else {}
        for one in ids:
            payload = json.dumps({"task_id": one, "agent_name": "Bot", "prompt": one, **crew})
            await self.redis.xadd(self.runtime.tasks, {"payload": payload})

    @asynccontextmanager
    async def listening(self, name: str = "one") -> AsyncIterator[Listener]:
        """A listener at work, as a service has it."""

        async def refuse(_: Entry, why: str) -> None:
            self.letters.append(why)

        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                AgentServiceClient(self.runtime.url, task_stream=self.runtime.tasks)
            )
            redis_client = await stack.enter_async_context(connected(self.runtime.url))
            listener = Listener(Source(redis_client, self.runtime.tasks, "group", name), client, refuse)
            running = background.start("task stream", listener.run)
            try:
                yield listener
            finally:
                await background.end(running)

    async def taken(self, keys: CrewKeys, *ids: str) -> None:
        """Returns once the tasks of `ids` are on the crew's queue."""

        async def there() -> bool:
            return int(await self.redis.exists(*map(keys.task, ids))) == len(ids)

        await until(there, what=f"all of {ids} on the queue of {keys.crew}")

    async def left(self, count: int) -> None:
        """Returns once the stream has so many entries."""

        async def there() -> bool:
            return int(await self.redis.xlen(self.runtime.tasks)) == count

        await until(there, what=f"{count} entries on the stream")

    async def queued(self, keys: CrewKeys) -> list[str]:
        """The tasks on the crew's queue, in order, each as often as it is there."""
        return [fields["id"] for stream in keys.streams for _, fields in await self.redis.xrange(stream)]

    async def waiting(self, count: int) -> None:
        """Returns once so many entries wait for the other crew."""

        async def there() -> bool:
            try:
                consumers = await self.redis.xinfo_consumers(self.runtime.tasks, "group")
            except redis.exceptions.ResponseError:  # the group is yet to be made
                return False
            return sum(one["pending"] for one in consumers if self.other.crew in one["name"]) == count

        await until(there, what=f"{count} entries that wait")


@pytest.fixture
async def scene(runtime: Runtime) -> Scene:
    made = Scene(runtime)
    await made.make()
    return made


def names(of: str, count: int) -> list[str]:
    return [f"{of}{n:03}" for n in range(count)]


@pytest.mark.parametrize("state", STATES)
async def test_entries_for_another_crew_that_takes_no_work_wait_and_hold_up_no_others(scene: Scene, state: str) -> None:
    theirs, ours = names("other", 5), names("own", 20)
    opens = await scene.shut(scene.other, state)
    async with scene.listening():
        await scene.add(*theirs[:2], other=True)
        await scene.add(*ours[:5])
        await scene.taken(scene.own, *ours[:5])
        await scene.add(theirs[2], other=True)
        for n, one in enumerate(ours[5:]):  # at several attempts of theirs
            await scene.add(one)
            await scene.taken(scene.own, one)
            if n < 2:
                await scene.add(theirs[3 + n], other=True)
        await scene.left(len(theirs))
        assert not await scene.redis.exists(*map(scene.other.task, theirs))
        await opens()
        await scene.taken(scene.other, *theirs)
        await scene.left(0)
    assert await scene.queued(scene.other) == theirs
    assert await scene.queued(scene.own) == ours
    assert scene.letters == []


@pytest.mark.parametrize("state", STATES)
async def test_entries_for_the_services_own_crew_wait_in_order_while_it_takes_no_work(
    scene: Scene, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = names("own", 150), names("other", 3)
    opens = await scene.shut(scene.own, state)
    async with scene.listening():
        await scene.add(*ours[:1])
        await until(lambda: f"wait for crew {scene.own.crew}: " in caplog.text)
        await scene.add(*ours[1:])
        await scene.add(*theirs, other=True)
        assert await scene.redis.xlen(scene.runtime.tasks) == len(ours) + len(theirs)
        await opens()
        await scene.left(0)
    assert await scene.queued(scene.own) == ours
    assert await scene.queued(scene.other) == theirs
    assert scene.letters == []
    assert "begins anew" not in caplog.text


async def test_entries_for_other_crews_that_wait_already_go_on_while_the_own_crew_takes_no_work(scene: Scene) -> None:
    opens = await scene.shut(scene.other, "closed")
    async with scene.listening():
        await scene.add("theirs", other=True)
        await scene.waiting(1)
        await scene.shut(scene.own, "closed")
        await scene.add("ours")
        await opens()
        await scene.taken(scene.other, "theirs")
        await scene.left(1)


async def test_many_entries_that_wait_starve_no_others_and_are_seldom_tried(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Counter[str]()
    submit = AgentServiceClient._submit

    async def counted(client: AgentServiceClient, crew: str, tasks: Any, deliver: Any) -> None:
        calls[crew] += 1
        await submit(client, crew, tasks, deliver)

    monkeypatch.setattr(AgentServiceClient, "_submit", counted)
    theirs = names("other", 450)
    opens = await scene.shut(scene.other, "closed")
    async with connected(scene.runtime.url) as redis_client:
        dead = Source(redis_client, scene.runtime.tasks, "group", "dead")
        assert await dead.read(1, 1) == [], "it makes the group"
        await scene.add(*theirs, other=True)
        assert len(await dead.read(450, 1)) == 450
        await scene.add("left")
        assert len(await dead.read(1, 1)) == 1
    async with scene.listening("one"), scene.listening("two"):
        await scene.taken(scene.own, "left")
        await scene.waiting(len(theirs))
        calls.clear()
        began = time.monotonic()
        for one in names("own", 20):
            await scene.add(one)
            await scene.taken(scene.own, one)
        await until(lambda: calls[scene.other.crew] >= 6, what="more attempts")
        # each attempt is at a batch, and then at its first; both services make it
        assert calls[scene.other.crew] <= 4 * ((time.monotonic() - began) / ingress.POLL_SECONDS + 2)
        await opens()
        await scene.left(0)
    assert sorted(await scene.queued(scene.other)) == theirs
    assert scene.letters == []


async def test_a_crew_that_is_open_again_gets_its_entries_at_once_however_many_services_there_are(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_aside, aside = Source.put_aside, Counter[str]()

    async def counted(source: Source, crew: str, entries: Any) -> None:
        aside[crew] += 1
        await put_aside(source, crew, entries)

    monkeypatch.setattr(Source, "put_aside", counted)
    monkeypatch.setattr(ingress, "IDLE_MS", 60_000)
    opens = await scene.shut(scene.other, "closed")
    async with scene.listening("one"), scene.listening("two"):
        await scene.add("first", other=True)
        await scene.waiting(1)
        await opens()
        at_once = 0
        for one in names("more", 450):  # a steady flow, for as long as several searches
            before = aside.total()
            await scene.add(one, other=True)
            await asyncio.sleep(0.01)
            at_once = at_once + 1 if aside.total() == before else 0
            if at_once == 60:
                break
        assert at_once == 60
        await scene.left(0)


async def test_entries_that_wait_survive_their_service_and_are_taken_once_in_order(scene: Scene) -> None:
    theirs = names("other", 120)
    opens = await scene.shut(scene.other, "full")
    async with scene.listening("one"):
        await scene.add(*theirs[:60], other=True)
        await scene.waiting(60)
    async with scene.listening("two"):
        await scene.add(*theirs[60:], other=True)
        await scene.waiting(120)
        await opens()
        await scene.left(0)
    assert await scene.queued(scene.other) == theirs
    assert await scene.redis.xpending(scene.runtime.tasks, "group") == {
        "pending": 0,
        "min": None,
        "max": None,
        "consumers": [],
    }


async def test_entries_that_somebody_removes_wait_no_longer(scene: Scene) -> None:
    await scene.shut(scene.other, "closed")
    async with scene.listening():
        await scene.add(*names("other", 3), other=True)
        await scene.waiting(3)
        await scene.redis.xtrim(scene.runtime.tasks, maxlen=0)
        await scene.waiting(0)
        await scene.add("ours")
        await scene.taken(scene.own, "ours")


@pytest.mark.parametrize("fault", [StoreUnavailable("its server is away"), RuntimeError("odd")], ids=["away", "odd"])
async def test_what_fails_for_another_crew_holds_up_no_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    submit = AgentServiceClient._submit
    faults = {"other000": fault, "odd": RuntimeError("odd")}

    async def fails(client: AgentServiceClient, crew: str, tasks: Any, deliver: Any) -> None:
        for one in tasks:
            if one.prompt in faults:
                raise faults[one.prompt]
        await submit(client, crew, tasks, deliver)

    monkeypatch.setattr(AgentServiceClient, "_submit", fails)
    async with scene.listening():
        await scene.add(*names("other", 3), other=True)
        await scene.add("odd", *names("own", 3))
        await scene.taken(scene.own, *names("own", 3))
        await scene.add("later")
        await scene.taken(scene.own, "later")
        assert not await scene.redis.exists(scene.own.task("odd"), scene.other.task("other000"))
        faults.clear()
        await scene.left(0)
    assert sorted(await scene.queued(scene.other)) == names("other", 3)
    assert scene.letters == []
