"""Agents that a worker doesn't have, and crews that go."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
from workshop import AGENTS, Crew, Make, agent

from waiting import until
from watchbill.agents.loading import AgentLoader
from watchbill.errors import CrewGone
from watchbill.records import AgentDefinition
from watchbill.store import definitions, help_requests
from watchbill.tasks import TaskState
from watchbill.testing import FakeClock
from watchbill.worker import parked
from watchbill.worker.execution import executor
from watchbill.worker.state import WorkerState

# ---------------------------------------------------------------- agents that aren't here


async def test_a_step_whose_agent_a_worker_does_not_have_waits_for_one_that_has_it(make_crew: Make) -> None:
    crew = await make_crew(
        [
            AgentDefinition(agent_id="everyone", agent_class="EchoAgent"),
            agent("here", "Brief"),
        ]
    )
    poor = await crew.worker(folders=(), unpark_seconds=0.1)
    await crew.submit("r")
    await crew.submit("t", "here")

    async def states() -> dict[str, str]:
        return {step.name: step.status for step in (await crew.client.status(crew.name, "r")).steps}

    async def is_parked() -> bool:
        return (await crew.client.figures(crew.name)).parked == 2

    await until(is_parked)
    assert await states() == {"everyone": TaskState.COMPLETED, "here": TaskState.PARKED}
    figures = await crew.client.figures(crew.name)
    assert (figures.waiting, figures.running) == (0, 0)
    told = [event.message for event in await crew.events(run="r") if event.event_type == "mission_event"]
    assert len(told) == 1
    assert told[0].startswith("AgentUnavailable: ")
    assert "hands" in told[0]
    await until(lambda: "AgentUnavailable" in poor.log)
    assert poor.lives

    rich = await crew.worker(unpark_seconds=0.1)
    run, task = await crew.run_result("r"), await crew.result("t")
    assert run.success
    assert task.success
    assert (run.steps["here"].attempt, task.attempt) == (1, 1), "it was nobody's fault"
    assert crew.started_by(rich) == {"r/here", "t"}
    assert await crew.is_idle()


async def test_a_worker_that_lacks_the_agent_of_parked_work_asks_for_help(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(help_requests, "INTERVALS_SECONDS", (0.0, 3600.0))
    monkeypatch.setattr(parked, "UNPARK_AGAIN_SECONDS", 0.01)
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="nowhere:Nobody")])

    async def told() -> list[tuple[str, str]]:
        found = [event for event in await crew.events(run="r") if event.event_type == "mission_help_needed"]
        return [(event.task_id, event.message.rpartition(": ")[2]) for event in found]

    async with crew.in_process():
        await crew.submit("r")
        await until(told, what="it asks for help")
        assert await told() == [("r/a", "no worker can run agent a")]


async def test_parked_tasks_are_brought_back_though_the_crew_was_missing_for_a_moment(make_crew: Make) -> None:
    """The store had lost it, or was behind after a failover: whoever looked just then must look again."""
    crew = await make_crew({"a": "Brief"})
    await crew.submit("t", "a")
    claimed = (await crew.queue.claim("w", 1, 1, lease_ms=60_000, take_over=False)).tasks
    await crew.queue.park("w", claimed, "nobody has it")
    digest = await crew.redis.hget(crew.keys.meta, "def")
    await crew.redis.hdel(crew.keys.meta, "def")
    clock = FakeClock()
    state = WorkerState(0.0, clock)
    bringing = asyncio.create_task(parked.bring_back(state, crew.queue, AgentLoader([AGENTS]), asyncio.Event()))
    await until(lambda: clock.sleepers, what="a pause after a search that found no crew")
    await crew.redis.hset(crew.keys.meta, "def", str(digest))
    clock.advance(parked.UNPARK_SECONDS)
    await until(partial(crew.waits, 1), what="its return")
    bringing.cancel()


async def test_more_definitions_at_once_than_a_worker_keeps_cost_no_task(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is read for a task may be put away for others' sake before the rest that the task needs is there."""
    monkeypatch.setattr(executor, "_DEFINITIONS_KEPT", 1)
    crew = await make_crew({"a": "Brief"}, concurrency=8)
    for number in range(8):
        changed = crew.definition.model_copy(update={"max_parallel_tasks": number + 1})
        await definitions.apply(crew.redis, crew.keys, changed)
        await crew.submit(f"r{number}", inputs={"log": "x" * 2_000_000})
    async with crew.in_process(concurrency=8):
        results = await crew.results([f"r{number}" for number in range(8)])
    assert [result.error for result in results] == [None] * 8


async def test_an_agent_that_was_taken_out_of_its_crew_fails_its_tasks(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief", "old": "Brief"})
    await crew.submit("t", "old")
    await crew.submit("r")
    smaller = crew.definition.model_copy(update={"agents": crew.definition.agents[:1]})
    await definitions.apply(crew.redis, crew.keys, smaller)
    async with crew.in_process():
        task, run = await crew.result("t"), await crew.run_result("r")
    assert task.error == f"agent 'old' is not in crew {crew.name!r}"
    assert run.success, "a run goes on with the definition that it started with"


async def test_code_that_breaks_when_it_is_loaded_costs_its_task_and_no_slot(make_crew: Make, tmp_path: Path) -> None:
    """Also by what no `except Exception` catches, and what can't say what it is."""
    odd = "class Odd(BaseException):\n    def __str__(self): raise self\n"
    (tmp_path / "odd_module.py").write_text(f"{odd}raise Odd")
    (tmp_path / "odd_config.py").write_text(
        f"from pydantic import BaseModel, field_validator\n{odd}"
        "class Agent:\n"
        "    class Config(BaseModel):\n"
        "        number: int = 1\n"
        "        @field_validator('number')\n"
        "        def check(cls, value): raise Odd\n"
        "    def run(self, context): ...\n"
    )
    crew = await make_crew(
        [
            AgentDefinition(agent_id="module", agent_class="odd_module:run"),
            AgentDefinition(agent_id="config", agent_class="odd_config:Agent", config={"number": 2}),
            agent("good", "Brief"),
        ],
        concurrency=1,
    )
    await crew.worker(folders=(tmp_path, AGENTS))
    for name in ("module", "config", "good"):
        await crew.submit(name, name)
    assert (await crew.result("good")).success
    assert (await crew.result("config")).error == "Odd, which can't say what it is: Odd"
    assert (await crew.client.state(crew.name, "module")) is TaskState.PARKED
    (reason,) = [event.message for event in await crew.events(agent="module") if event.event_type == "mission_event"]
    assert "importing 'odd_module' fails with Odd" in reason


# ---------------------------------------------------------------- a crew that goes


async def gone(crew: Crew, how: str) -> None:
    if how == "replaced":
        await crew.redis.hset(crew.keys.meta, "uid", "another")
    else:
        await definitions.delete(crew.redis, crew.keys, crew.uid)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.parametrize("when", ["idle", "running"])
async def test_a_worker_whose_crew_is_gone_ends_and_writes_nothing_more(make_crew: Make, how: str, when: str) -> None:
    crew = await make_crew({"a": "SayingGate"}, lease_seconds=1)
    worker = await crew.worker()
    if when == "running":
        await crew.submit("t", "a")
        await crew.started("t")
    await gone(crew, how)
    crew.open()
    before = await crew.stored("bell")
    assert await worker.ended() != 0
    assert CrewGone.__name__ in worker.log
    assert f"crew {crew.name!r} was deleted, or replaced" in worker.log
    assert await crew.stored("bell") == before


async def test_a_crew_that_is_not_there_is_not_found(make_crew: Make) -> None:
    crew = await make_crew({"a": "Brief"})
    await gone(crew, "deleted")
    worker = await crew.worker(doomed=True)
    assert await worker.ended() != 0
    assert f"the store has no crew {crew.name!r}" in worker.log
    assert await crew.stored() == {}
