"""How often one reconciliation asks the store, and that one answer says what several would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from test_figures_shown import NoHeartbeats, PrivateRedis, no_crew

from watchbill import connection
from watchbill.connection import client as lean
from watchbill.connection import scripts
from watchbill.controller import fleet
from watchbill.controller.memory import CrewMemory
from watchbill.controller.stored import Stored, StoreState
from watchbill.errors import CrewGone
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import definitions, figures, submissions, sweep, workers
from watchbill.store.queue import Queue
from watchbill.store.submissions import Submission
from watchbill.testing import FakeClock

KEYS = CrewKeys("team", "c")


class Room:
    """An operator's part of one crew."""

    def __init__(self, client: redis.asyncio.Redis, keys: CrewKeys = KEYS) -> None:
        self.client = client
        self.keys = keys
        self.uid = f"uid-of-{keys.crew}"
        self.memory = CrewMemory()
        self.stored = Stored(client, NoHeartbeats(), "me", no_crew, clock=FakeClock())
        self.queue = Queue(client, keys, self.uid)

    async def sync(self, *agents: str, generation: int = 1, observed: int = -1) -> StoreState:
        status = {"observedGeneration": observed, **({"waiting": 0} if observed >= 0 else {})}
        seen = {"metadata": {"uid": self.uid, "generation": generation}, "status": status}
        made = [AgentDefinition(agent_id=name, agent_class="EchoAgent") for name in agents or ("a",)]
        namespace, _, name = self.keys.crew.partition("/")
        definition = CrewDefinition(name=name, agents=made)
        state = await self.stored.sync((namespace, name), seen, definition, [], self.memory)
        assert state is not None
        return state

    async def work(self) -> None:
        """One task runs, two wait, and one of two workers is to leave."""
        for name in ("pod-1.aaaa", "pod-2.aaaa"):
            await self.queue.enter(name, ["a"], lease_ms=60_000)
        tasks = [Submission(f"t{i}", "a", "{}") for i in range(3)]
        await submissions.submit(self.client, self.keys, self.uid, tasks, max_queued=100)
        await self.queue.claim("pod-1.aaaa", 2, 1, lease_ms=60_000, take_over=False)
        await self.stored.drain(("team", "c"), self.uid, ["pod-2"], on=True)


@pytest.fixture
async def room(private_redis: PrivateRedis) -> AsyncIterator[Room]:
    async with connection.connected((await private_redis()).url) as client:
        await Room(client, CrewKeys("team", "other")).sync()  # so that the server has the scripts
        yield Room(client)


async def test_a_crew_is_read_in_one_trip_and_stored_in_few(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def count(what: Any) -> Any:
        def counted(*given: Any, **named: Any) -> Any:
            made.append(what)
            return what(*given, **named)

        return counted

    async def trips(*agents: str, **seen: int) -> int:
        made.clear()
        await room.sync(*agents, **seen)
        return len(made)

    monkeypatch.setattr(lean.LeanClient, "_trip", count(lean.LeanClient._trip))
    monkeypatch.setattr(lean._Pipeline, "execute", count(lean._Pipeline.execute))
    assert await trips() == 8, "who has it: 1, its record: 4, its place in the queue: 2, how it stands: 1"
    assert await trips(observed=1) == 1, "nothing is to be stored"
    await room.work()
    assert await trips(observed=1) == 1, "its workers come with it"
    assert await trips("a", "b", generation=2, observed=1) == 7, "who has it: 1, its record: 2, its place: 3, and 1"
    room.memory = CrewMemory()
    assert await trips("a", "b", generation=2, observed=2) == 8, "after a restart also its heartbeats"


async def test_one_answer_says_what_the_scripts_of_the_crew_say(room: Room) -> None:
    await room.sync()
    await room.work()
    state = await room.sync(observed=1)
    asked = await figures.figures(room.client, KEYS)
    assert (state.load.waiting, state.load.running) == (asked.waiting, asked.running) == (2, 1)
    found = fleet.of(await workers.workers(room.client, KEYS, room.uid), room.memory, FakeClock())
    assert state.fleet is not None
    assert [(one.name, one.holds, one.draining) for one in state.fleet.workers] == [
        ("pod-1", 1, ""),
        ("pod-2", 0, "scaling"),
    ]
    assert [one.name for one in found.workers] == ["pod-1", "pod-2"]
    assert (state.agents_loaded, state.is_swept) == (False, False)
    digest = (await definitions.identity(room.client, KEYS)).definition
    await definitions.record_loaded(room.client, KEYS, room.uid, digest)
    assert (await room.sync(observed=1)).agents_loaded
    assert not (await room.sync("a", "b", generation=2, observed=1)).agents_loaded


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_crew_that_cant_be_read_at_once_is_read_by_its_own_scripts(
    room: Room, monkeypatch: pytest.MonkeyPatch, is_refused: bool
) -> None:
    await room.sync()
    await room.work()
    known = (await room.sync(observed=1)).fleet

    run = scripts.run

    async def nothing(client: Any, name: str, *given: Any, **options: Any) -> Any:
        """The slot moves: the answer is not there. Or a proxy wants scripts to name keys."""
        if name != "sweep":
            return await run(client, name, *given, **options)
        if is_refused:
            raise redis.exceptions.ResponseError("ERR a script must name its keys")
        return [""]

    monkeypatch.setattr(scripts, "run", nothing)
    state = await room.sync(observed=1)
    assert (state.load.waiting, state.load.running) == (2, 1)
    assert state.fleet is not None
    assert known is not None
    assert [one.name for one in state.fleet.workers] == [one.name for one in known.workers]
    assert room.memory.swept is None, "so the next look reconciles it"


async def test_a_crew_that_is_replaced_while_it_is_stored_is_not_taken_for_ours(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sweep.one

    async def other(client: redis.asyncio.Redis, keys: CrewKeys) -> Any:
        await client.hset(keys.meta, "uid", "another")
        return await one(client, keys)

    monkeypatch.setattr(sweep, "one", other)
    with pytest.raises(CrewGone):
        await room.sync()


async def test_tasks_that_no_worker_could_run_are_tried_again_once_the_crew_has_changed(room: Room) -> None:
    await room.sync()
    await submissions.submit(room.client, KEYS, room.uid, [Submission("t", "b", "{}")], max_queued=100)
    claimed = (await room.queue.claim("w", 1, 1, lease_ms=60_000, take_over=False)).tasks
    await room.queue.park("w", claimed, "nobody has it")
    state = await room.sync(observed=1)
    assert (state.load.waiting, state.unavailable) == (0, ["b"])
    state = await room.sync("a", "b", generation=2, observed=1)
    assert (state.load.waiting, list(state.unavailable)) == (1, [])
