"""The same id is the same work, or a Conflict."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
from support import Crew, library

from waiting import until
from watchbill.client import Client
from watchbill.errors import Conflict
from watchbill.plan import flow, given
from watchbill.records import CrewDefinition, TaskPolicy
from watchbill.store import definitions
from watchbill.tasks import AgentTask, Priority

OTHER: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "two"},
    "agent": {"agent": "b"},
    "inputs": {"inputs": {"log": "other lines"}},
    "no inputs": {"inputs": {}},
}


@pytest.mark.parametrize("what", OTHER)
@pytest.mark.parametrize("agent", ["a", None])
async def test_the_same_id_for_other_work_is_a_conflict(
    crew: Crew, client: Client, agent: str | None, what: str
) -> None:
    same: dict[str, Any] = {"prompt": "one", "agent": agent, "inputs": {"log": "lines"}, "id": "same"}
    give = functools.partial(client.submit, crew.keys.crew)
    assert await give(**same) == "same"
    with pytest.raises(Conflict, match="'same' is the id of"):
        await give(**{**same, **OTHER[what]})
    # how it is done, and for whom, is not what is done
    assert await give(**same, metadata={"trace": "2"}, user_id="u", priority=Priority.HIGH) == "same"
    assert await client.unfinished(crew.keys.crew) == ["same"]


async def test_runs_of_a_crew_that_stays_the_same_are_planned_once(
    crew: Crew, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[CrewDefinition] = []
    really = given.steps

    def counted(definition: CrewDefinition, *known: Any) -> tuple[flow.Step, ...]:
        planned.append(definition)
        return really(definition, *known)

    monkeypatch.setattr(given, "steps", counted)
    for number in range(3):
        await client.submit(crew.keys.crew, "one", id=f"r{number}")
    assert len(planned) == 1


async def test_an_id_stands_for_its_work_after_the_end_and_across_a_replay(crew: Crew, client: Client) -> None:
    """Also when nothing is left of the task but its dead letter."""
    name = crew.keys.crew
    for outcome in ("completed", "dead", "dead"):
        await client.submit(name, "one", agent="a", id=outcome)
        worker = f"w-{asyncio.get_running_loop().time()}"
        tasks = await crew.take(worker)
        if tasks:
            await crew.finish(worker, tasks, outcome)
        with pytest.raises(Conflict):
            await client.submit(name, "two", agent="a", id=outcome)
    await crew.client.delete(crew.keys.task("dead"))
    await crew.client.zrem(crew.keys.ids, "dead")
    assert [one.outcome for one in await client.replay(name, "dead")] == ["replayed"]
    with pytest.raises(Conflict):
        await client.submit(name, "two", agent="a", id="dead")
    assert await client.submit(name, "one", agent="a", id="dead") == "dead"


async def test_an_id_is_free_again_when_its_record_has_expired(crew: Crew, client: Client) -> None:
    name = crew.keys.crew
    await definitions.apply(crew.client, crew.keys, library("a", tasks=TaskPolicy(result_ttl_seconds=1)))
    await client.submit(name, "one", agent="a", id="same")
    await client.cancel(name, "same")

    async def has_gone() -> bool:
        return not await crew.client.exists(crew.keys.task("same"))

    await until(has_gone)
    assert await client.submit(name, "two", agent="a", id="same") == "same"


@pytest.mark.parametrize("there", [True, False])
async def test_of_many_tasks_none_is_stored_when_one_has_the_id_of_other_work(
    crew: Crew, client: Client, there: bool
) -> None:
    """That it is in the store already, or stands twice in the call."""

    def task(prompt: str, task_id: str = "same") -> AgentTask:
        return AgentTask(task_id=task_id, agent_name="a", prompt=prompt)

    first = [] if there else [task("one")]
    if there:
        await client.submit_many(crew.keys.crew, "a", [task("one")])
    before = await crew.queued()
    with pytest.raises(Conflict, match="'same' is the id of other work"):
        await client.submit_many(crew.keys.crew, "a", [*first, task("fine", "new"), task("two")])
    assert await crew.queued() == before
    assert await client.submit_many(crew.keys.crew, "a", [task("one"), task("one")]) == ["same", "same"]


async def test_a_large_run_is_begun_and_completed_under_its_id(crew: Crew, client: Client) -> None:
    """One that comes in several calls, of which a client made only the first."""
    big = library(*(f"a{n}" for n in range(600)))
    await definitions.apply(crew.client, crew.keys, big)
    assert await client.submit(crew.keys.crew, "one", id="r") == "r"
    with pytest.raises(Conflict, match="other work"):
        await client.submit(crew.keys.crew, "two", id="r")
    assert await client.submit(crew.keys.crew, "one", id="r") == "r"
