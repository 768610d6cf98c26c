"""The work of a deleted crew has the time of its pods, and the crew is removed then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from watchbill import connection
from watchbill.controller.farewell import AGAIN_SECONDS, FORGET_SECONDS, READ_SECONDS, Farewell, policy_of
from watchbill.errors import CrewGone
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import definitions, submissions
from watchbill.store.queue import Finished, Queue
from watchbill.store.submissions import Submission
from watchbill.testing import FakeClock

OF_CREW = CrewDefinition(name="crew", agents=[AgentDefinition(agent_id="a")])
LEASE_MS = 60_000


class Going:
    """A crew with tasks that wait and one that runs, and the operator that removes it."""

    def __init__(self, client: Any, keys: CrewKeys, uid: str) -> None:
        self.client, self.keys, self.uid = client, keys, uid
        self.clock = FakeClock()
        self.farewell = Farewell(client, self.clock)
        self.queue = Queue(client, keys, uid)

    async def submit(self, *ids: str) -> None:
        tasks = [Submission(task_id, "a", "{}") for task_id in ids]
        await submissions.submit(self.client, self.keys, self.uid, tasks, max_queued=100)

    async def begin(self) -> Any:
        (task,) = (await self.queue.claim("w", 1, 1, begin=1, lease_ms=LEASE_MS, take_over=True)).tasks
        return task

    async def end(self, task: Any) -> list[str]:
        done = Finished(task, "completed", '{"success": true}', definition=OF_CREW.digest())
        return list((await self.queue.finish("w", [done]))[0])

    async def pause(self) -> float | None:
        return await self.farewell.pause(self.keys, self.uid)

    async def state(self, task_id: str) -> str:
        return str(await self.client.hget(self.keys.task(task_id), "state"))


@asynccontextmanager
async def going(url: str, name: str, **spec: Any) -> AsyncIterator[Going]:
    async with connection.connected(url) as client:
        keys = CrewKeys("team", name)
        uid = await definitions.apply(client, keys, OF_CREW, owner="we", deletion=policy_of(spec))
        yield Going(client, keys, uid)


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Going]:
    async with going(redis_url, crew_name) as made:
        yield made


async def test_without_running_work_the_crew_goes_at_once_whatever_waits(crew: Going) -> None:
    await crew.submit("waits")
    assert await crew.pause() is None


async def test_what_runs_may_end_while_nothing_else_begins_and_clients_have_time_to_read(crew: Going) -> None:
    await crew.submit("runs", "waits")
    task = await crew.begin()
    assert await crew.pause() == AGAIN_SECONDS
    with pytest.raises(CrewGone):
        await crew.submit("late")
    assert (await crew.queue.claim("w", 2, 5, lease_ms=LEASE_MS, take_over=True)).tasks == ()
    crew.clock.advance(30)
    assert await crew.pause() == AGAIN_SECONDS, "it still runs"
    assert await crew.end(task) == ["applied"]
    assert await crew.pause() == AGAIN_SECONDS
    assert (await crew.state("runs"), await crew.state("waits")) == ("completed", "waiting")
    crew.clock.advance(READ_SECONDS)
    assert await crew.pause() is None


async def test_work_that_never_ends_holds_the_crew_no_longer_than_its_pods_have(redis_url: str, crew_name: str) -> None:
    spec = {"workers": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}}
    async with going(redis_url, crew_name, **spec) as crew:
        await crew.submit("runs")
        await crew.begin()
        assert await crew.pause() == AGAIN_SECONDS
        closed = int(await crew.client.hget(crew.keys.meta, "closed"))
        await crew.client.hset(crew.keys.meta, "closed", closed - 11_000)
        assert await crew.pause() is None


async def test_cancel_ends_all_work_at_once_and_tells_so_before_the_crew_goes(redis_url: str, crew_name: str) -> None:
    async with going(redis_url, crew_name, deletionPolicy="Cancel") as crew:
        await crew.submit("runs", "waits", "too")
        task = await crew.begin()
        assert await crew.pause() == AGAIN_SECONDS
        assert [await crew.state(name) for name in ("runs", "waits", "too")] == ["cancelling", "cancelled", "cancelled"]
        told = [fields["event_type"] for _, fields in await crew.client.xrange(crew.keys.events)]
        assert told.count("task_cancelled") == 2
        await crew.end(task)
        crew.clock.advance(READ_SECONDS)
        assert await crew.pause() is None


async def test_a_crew_whose_resource_is_there_after_all_is_open_again(crew: Going) -> None:
    await crew.submit("runs")
    await crew.begin()
    assert await crew.pause() == AGAIN_SECONDS
    changed = OF_CREW.model_copy(update={"description": "another"})
    await definitions.apply(crew.client, crew.keys, changed, owner="we", suspended=False, deletion=policy_of({}))
    await crew.submit("taken")


async def test_what_was_remembered_of_a_crew_is_forgotten_if_it_goes_another_way(
    crew: Going, redis_url: str, crew_name: str
) -> None:
    await crew.submit("runs")
    await crew.begin()
    assert await crew.pause() == AGAIN_SECONDS
    await definitions.delete(crew.client, crew.keys, crew.uid)  # by hand, or by another replica
    crew.clock.advance(FORGET_SECONDS)
    async with going(redis_url, f"{crew_name}-other") as other:
        assert await crew.farewell.pause(other.keys, other.uid) is None
    assert crew.farewell._ended == {}


@pytest.mark.pure
def test_the_grace_of_pods_is_that_of_the_template() -> None:
    assert policy_of({}) == "Drain 60"
    assert policy_of({"deletionPolicy": "Cancel", "workers": {"template": {"spec": None}}}) == "Cancel 60"
