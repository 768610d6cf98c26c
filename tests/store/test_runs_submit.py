"""Submitting runs, and the definitions that they keep."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from run_checks import run_ended
from support import MANY, Crew, flow_of, library, payload, run_submission

from watchbill.errors import CrewGone, NotFound, QueueFull, WatchbillError
from watchbill.plan import flow
from watchbill.records import CrewDefinition, ExecutionMode
from watchbill.store import definitions, runs
from watchbill.tasks import RunResult, RunState, TaskState, Usage

# ---------------------------------------------------------------- definitions


async def test_a_definition_stays_while_a_run_refers_to_it_and_goes_with_the_last(crew: Crew) -> None:
    old = library("a", "b")
    await crew.run("r1", old)
    await crew.run("r2")
    stored = crew.keys.definition(old.digest())
    new = library("a", "b", "c")
    await definitions.apply(crew.client, crew.keys, new)
    assert (await definitions.current(crew.client, crew.keys)).digest == new.digest()
    tasks = await crew.take("w")
    assert {s.definition for s in await crew.queue.start("w", tasks)} == {old.digest()}
    for i, run_id in enumerate(("r1", "r2")):
        assert await crew.client.exists(stored)
        assert len(await crew.finish("w", [t for t in tasks if t.run_id == run_id])) == 2
        assert await crew.client.exists(stored) == (i == 0)
    assert (await definitions.load(crew.client, crew.keys, new.digest())).digest() == new.digest()
    with pytest.raises(NotFound):
        await definitions.load(crew.client, crew.keys, old.digest())
    await crew.assert_idle()


async def test_a_definition_without_runs_goes_when_it_is_replaced(crew: Crew) -> None:
    old = crew.keys.definition(crew.definition.digest())
    assert await crew.client.exists(old)
    await definitions.apply(crew.client, crew.keys, crew.definition)
    assert await crew.client.exists(old)
    await definitions.apply(crew.client, crew.keys, library("z"))
    assert not await crew.client.exists(old)


async def test_a_definition_that_is_current_again_stays_when_its_run_ends(crew: Crew) -> None:
    first = library("a")
    await crew.run("r1", first)
    await definitions.apply(crew.client, crew.keys, library("z"))
    await definitions.apply(crew.client, crew.keys, first)
    await crew.finish("w", await crew.take("w"))
    assert (await definitions.current(crew.client, crew.keys)).definition.agents == first.agents
    assert len(await crew.client.keys(crew.keys.prefix + "def:*")) == 1


async def test_definitions_applied_at_once_leave_one(crew: Crew) -> None:
    choices = [library(f"agent-{i}") for i in range(12)]
    uids = await asyncio.gather(*(definitions.apply(crew.client, crew.keys, d) for d in choices))
    assert set(uids) == {crew.uid}
    current = await definitions.current(crew.client, crew.keys)
    assert await crew.client.keys(crew.keys.prefix + "def:*") == [crew.keys.definition(current.digest)]


# A client may have read the definition just before it was replaced.
async def test_a_run_never_refers_to_a_definition_that_is_not_there(crew: Crew) -> None:
    late = run_submission("r1", crew.definition)
    await definitions.apply(crew.client, crew.keys, library("new"))
    try:
        await runs.submit(crew.client, crew.keys, crew.uid, late, max_queued=MANY)
    except WatchbillError:
        assert not await crew.client.exists(crew.keys.run("r1"))
    else:
        assert (await definitions.load(crew.client, crew.keys, late.digest)).digest() == late.digest


async def test_a_crew_that_is_not_there_has_no_definition(crew: Crew) -> None:
    await crew.client.delete(*await crew.client.keys(crew.keys.prefix + "*"))
    with pytest.raises(NotFound, match="no crew"):
        await definitions.current(crew.client, crew.keys)


# ---------------------------------------------------------------- submitting


async def test_a_run_submitted_again_is_the_same_run(crew: Crew) -> None:
    await crew.run("r1")
    before = await crew.dump()
    await crew.run("r1", priority=1, inputs={"x": "y"})
    assert await crew.dump() == before
    await crew.finish("w", await crew.take("w"))
    before = await crew.dump()
    await crew.run("r1")
    assert await crew.dump() == before


async def test_a_full_queue_takes_nothing_of_a_run(crew: Crew) -> None:
    definition = library("a", "b", "c")
    await definitions.apply(crew.client, crew.keys, definition)
    await crew.submit("t1")
    before = await crew.dump()
    submission = run_submission("r1", definition)
    with pytest.raises(QueueFull):
        await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=3)
    assert await crew.client.hget(crew.keys.meta, "refused") == "1"
    await crew.client.hdel(crew.keys.meta, "refused")
    assert await crew.dump() == before, "but for that it is counted"
    await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=4)
    await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=1)  # it is there already
    assert await crew.queued() == 4


async def test_a_dedupe_key_names_one_run_within_its_window(crew: Crew) -> None:
    options: dict[str, Any] = {"dedupe_key": "daily", "dedupe_ms": 60_000}
    assert await crew.run("r1", **options) == "r1"
    assert await crew.run("r1", **options) == "r1"
    assert await crew.run("r2", **options) == "r1"
    assert not await crew.client.exists(crew.keys.run("r2"), crew.keys.run_steps("r2"))
    assert await crew.queued() == 2
    await crew.finish("w", await crew.take("w"), ttl_ms=0)
    assert not await crew.client.exists(crew.keys.run("r1"))
    assert await crew.run("r1", **options) == "r1", "its record has expired, its window is not over"
    assert await crew.queued() == 0


# An agent reports what it likes. An error in the middle of the script would leave the run without an end.
@pytest.mark.parametrize("tokens", [2**63 - 1, 2**63, -(2**70)])
async def test_a_run_ends_whatever_its_steps_say_they_cost(crew: Crew, tokens: int) -> None:
    await crew.run("r1", library("a", "b", mode=ExecutionMode.SEQUENTIAL))
    for number in (1, 2):
        assert await crew.finish("w", await crew.take("w", number), usage=Usage(input_tokens=tokens)) == ["applied"]
    status = await runs.status(crew.client, crew.keys, "r1")
    assert (status.status, [s.tokens for s in status.steps]) == (RunState.COMPLETED, [tokens] * 2)
    await crew.assert_idle()


async def test_a_run_of_a_replaced_crew_is_refused(crew: Crew) -> None:
    await crew.client.hset(crew.keys.meta, "uid", "another")
    before = await crew.dump()
    with pytest.raises(CrewGone):
        await crew.run("r1")
    assert await crew.dump() == before


async def test_inputs_and_prompt_of_a_run_can_be_read_by_its_steps(crew: Crew) -> None:
    await crew.run("r1", inputs={"log": "ä\n\x00b", "x": "1"})
    tasks = await crew.claim("w")
    started = await crew.queue.start("w", tasks)
    assert {(s.payload, s.inputs) for s in started} == {(payload("r1"), ("log", "x"))}
    assert await runs.inputs(crew.client, crew.keys, "r1/a", ["log", "none"]) == {"log": "ä\n\x00b"}


async def test_inputs_of_a_run_can_be_read_by_its_id(crew: Crew) -> None:
    await crew.run("r1", inputs={"x": "1"})
    assert await runs.inputs(crew.client, crew.keys, "r1", ["x"]) == {"x": "1"}


AWKWARD = (
    "a b",
    'say "hi"',
    "back\\slash",
    "ünï-çødé 船",
    "a/b",
    "{x}:*?[y]",
    "0",
    "'",
    "a,b;c",
    "x" * 200,
    "%d%s",
)


@pytest.mark.parametrize("mode", [ExecutionMode.SEQUENTIAL, ExecutionMode.PARALLEL, ExecutionMode.FLOW])
async def test_agents_may_have_awkward_names(crew: Crew, mode: ExecutionMode) -> None:
    names = AWKWARD
    edges = [(names[0], n) for n in names[1:]] if mode is ExecutionMode.FLOW else []
    definition = flow_of(edges, names) if edges else library(*names, mode=mode)
    await _runs_to_the_end(crew, definition)
    # every stream can be read, and tells of the agent by its name
    for name in names:
        told = await crew.events(crew.keys.agent_events(name))
        assert {e["agent_id"] for e in told} == {name}
        assert {"task_assigned", "task_completed"} <= {e["event_type"] for e in told}


# Names from YAML can't be so, names in a library's definition can.
async def test_an_agent_called_dash_is_reached(crew: Crew) -> None:
    await _runs_to_the_end(crew, library("a", "-", "b", mode=ExecutionMode.SEQUENTIAL))


# The claim would take their entries for malformed ones, and the run would wait for ever.
@pytest.mark.parametrize("name", ["", "line\nbreak", "x" * 600, "sep\x1farator"])
async def test_a_name_that_cannot_be_run_is_refused_before_a_run_hangs(crew: Crew, name: str) -> None:
    try:
        definition = library("a", name)
        await crew.run("r1", definition)
    except (ValueError, WatchbillError):
        return
    await _runs_to_the_end(crew, definition)


async def _runs_to_the_end(crew: Crew, definition: CrewDefinition) -> None:
    await crew.run("r1", definition)
    for number in range(1, 4 + 2 * len(definition.agents)):
        if await run_ended(crew, "r1"):
            break
        await crew.finish("w", await crew.take("w", number, 100))
    status = await runs.status(crew.client, crew.keys, "r1")
    assert status.status is RunState.COMPLETED
    assert {s.name for s in status.steps} == {a.agent_id for a in definition.agents}
    assert {s.status for s in status.steps} == {TaskState.COMPLETED}
    result = await runs.result(crew.client, crew.keys, "r1")
    assert isinstance(result, RunResult)
    assert list(result.steps) == [s.name for s in flow.steps(definition)]
    await crew.assert_idle()
