"""Runs of a whole crew, on a real server: how steps follow each other, how a run ends, and what is told of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from run_checks import run_ended, steps_enqueued
from support import (
    MANY,
    Crew,
    Feed,
    Watch,
    counted,
    expected_run,
    finished,
    flow_of,
    lenient,
    library,
    random_flow,
    run_submission,
    workers,
)

from waiting import until
from watchbill.connection import scripts
from watchbill.plan import flow
from watchbill.records import ExecutionMode
from watchbill.store import definitions, runs
from watchbill.store.queue import BATCH, Outcome
from watchbill.tasks import RunResult, RunState, StepStatus, TaskState

# ---------------------------------------------------------------- the modes


async def test_sequential_steps_follow_each_other(crew: Crew) -> None:
    await crew.run("r1", library("a", "b", "c", mode=ExecutionMode.SEQUENTIAL))
    for i, name in enumerate("abc"):
        tasks = await crew.take("w", 2 * i + 1)
        assert [(t.id, t.agent, t.run_id, t.step) for t in tasks] == [(f"r1/{name}", name, "r1", name)]
        assert await crew.claim("w", 2 * i + 2) == ()
        await crew.finish("w", tasks, output=name.upper())
    result = await runs.result(crew.client, crew.keys, "r1")
    assert isinstance(result, RunResult)
    assert (result.status, result.output, list(result.steps)) == (RunState.COMPLETED, "C", ["a", "b", "c"])
    assert await runs.outputs(crew.client, crew.keys, "r1", ["b", "a", "none"]) == {"b": "B", "a": "A"}
    await crew.assert_idle()


async def test_parallel_steps_are_on_the_queue_no_more_than_the_run_may_have(crew: Crew) -> None:
    names = [f"s{i}" for i in range(7)]
    await crew.run("r1", library(*names), parallel=3)
    order: list[str] = []
    number = 0
    while not await run_ended(crew, "r1"):
        number += 1
        assert number <= len(names)
        assert await crew.queued() == min(3, len(names) - len(order))
        (task,) = await crew.take("w", number, 1)
        order.append(str(task.step))
        await crew.finish("w", [task])
    assert order == names
    result = await runs.result(crew.client, crew.keys, "r1")
    assert isinstance(result, RunResult)
    assert result.output == {name: f"r1/{name}" for name in names}
    await crew.assert_idle()


async def test_steps_of_two_runs_share_the_queue_each_within_its_own_bound(crew: Crew) -> None:
    definition = library(*(f"s{i}" for i in range(5)))
    await crew.run("r1", definition, parallel=2)
    await crew.run("r10", definition, parallel=3)
    tasks = await crew.take("w")
    assert Counter(t.run_id for t in tasks) == {"r1": 2, "r10": 3}
    await crew.finish("w", [t for t in tasks if t.run_id == "r1"])
    tasks = await crew.take("w", 2)
    assert [t.id for t in tasks] == ["r1/s2", "r1/s3"]  # not one of the other run's parked steps
    async with workers(1, [crew]):
        await crew.queue.hand_back("w", tasks)
        await crew.queue.declare_dead(["w"])
        await until(lambda: run_ended(crew, "r1"))
        await until(lambda: run_ended(crew, "r10"))
    await crew.assert_idle()


async def test_a_step_begins_as_soon_as_its_own_dependencies_are_done(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "c"), ("b", "d"), ("c", "e"), ("d", "e")]))
    first = {t.step: t for t in await crew.take("w", 1)}
    assert set(first) == {"a", "b"}
    await crew.finish("w", [first["a"]])
    (c,) = await crew.take("w", 2)
    assert c.step == "c"
    await crew.finish("w", [c])
    assert await crew.claim("w", 3) == ()  # e still waits for d, which waits for b
    assert await crew.step_states("r1") == {
        "a": "completed",
        "b": "running",
        "c": "completed",
        "d": "waiting",
        "e": "waiting",
    }
    await crew.finish("w", [first["b"]])
    (d,) = await crew.take("w", 4)
    await crew.finish("w", [d])
    (e,) = await crew.take("w", 5)
    assert e.step == "e"
    await crew.finish("w", [e])
    await crew.assert_idle()


async def test_steps_behind_a_failed_one_are_skipped_and_others_go_on(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("b", "c"), ("x", "y"), ("c", "z"), ("y", "z")]))
    number = 0
    while not await run_ended(crew, "r1"):
        number += 1
        for task in await crew.take("w", number):
            await crew.finish("w", [task], "failed" if task.step == "b" else "completed")
    status = await runs.status(crew.client, crew.keys, "r1")
    assert status.status is RunState.FAILED
    states = {s.name: s.status.value for s in status.steps}
    assert states == {
        "a": "completed",
        "b": "failed",
        "c": "skipped",
        "x": "completed",
        "y": "completed",
        "z": "skipped",
    }
    result = await runs.result(crew.client, crew.keys, "r1")
    assert isinstance(result, RunResult)
    assert (result.success, result.output, result.skipped) == (False, None, ("c", "z"))
    assert result.error == "b: it broke"
    await crew.assert_idle()


async def test_a_dead_step_ends_its_run_as_a_failed_one_does(crew: Crew) -> None:
    await crew.run("r1", library("a", "b", mode=ExecutionMode.SEQUENTIAL))
    await crew.finish("w", await crew.take("w"), "dead", message="given up")
    assert await crew.step_states("r1") == {"a": "dead", "b": "skipped"}
    assert [d["id"] for d in await crew.dead()] == ["r1/a"]
    await crew.assert_idle()


# ---------------------------------------------------------------- any graph


def told_as(step: StepStatus) -> str:
    return "passed" if step.is_passed_over else step.status.value.replace("dead", "failed")


@pytest.mark.parametrize("seed", range(8))
async def test_a_random_run_ends_as_the_plan_says(crew: Crew, seed: int) -> None:
    rng = random.Random(seed)
    definition = random_flow(rng, rng.randint(1, 25))
    chosen = [one.agent_id for one in definition.agents if rng.random() < rng.choice((0.0, 0.3, 0.8))]
    definition = lenient(definition, *chosen)
    steps = flow.steps(definition)
    failing = {s.name for s in steps if rng.random() < rng.choice((0.0, 0.1, 0.4))}
    passed = {s.name for s in steps if rng.random() < rng.choice((0.0, 0.0, 0.2))} - failing
    parallel = rng.choice((1, 2, 5, 100))
    await crew.run("r1", definition, parallel=parallel)
    watch = Watch(crew)
    held: list[Any] = []
    number, incarnation, generation = 0, "w0", 0
    while not await run_ended(crew, "r1"):
        number += 1
        held += await crew.claim(incarnation, number, rng.randint(1, 6))
        assert held
        assert await crew.queued() <= parallel
        await watch.look(run_ids=["r1"])
        rng.shuffle(held)
        ending = held[: rng.randint(1, len(held))]
        await crew.queue.start(incarnation, held)
        await watch.look(run_ids=["r1"])
        if rng.random() < 0.15:
            await crew.queue.declare_dead([incarnation])
            generation += 1
            incarnation, held, number = f"w{generation}", [], 0
            continue
        digest = definition.digest()
        bad: list[Outcome] = ["failed", "dead"]
        good: list[Outcome] = ["skipped" if t.step in passed else "completed" for t in ending]
        done = [
            finished(t, rng.choice(bad) if t.step in failing else well, definition=digest, message="given up")
            for t, well in zip(ending, good, strict=True)
        ]
        outcomes, _ = await crew.queue.finish(incarnation, done)
        assert outcomes == ["applied"] * len(done)
        held = held[len(ending) :]
        await watch.look(run_ids=["r1"])
    state, expected = expected_run(steps, failing, passed)
    status = await runs.status(crew.client, crew.keys, "r1")
    assert status.status is state
    assert flow.outcome(status.steps) is state
    assert {s.name: told_as(s) for s in status.steps} == expected
    assert [s.name for s in status.steps] == [s.name for s in steps]
    assert {s.name: set(s.after) for s in status.steps} == {s.name: set(s.after) for s in steps}
    reached = {name for name, is_now in expected.items() if is_now != "skipped"}
    assert await steps_enqueued(crew) == len(reached)
    assert counted(await crew.results()) == Counter(["r1", *(f"r1/{name}" for name in reached)])
    told = [e for e in await crew.events() if e.get("new_state") in ("completed", "partial", "failed")]
    assert [(e["mission_id"], e["old_state"], e["new_state"]) for e in told] == [("r1", "running", state.value)]
    result = await runs.result(crew.client, crew.keys, "r1")
    assert isinstance(result, RunResult)
    assert set(result.steps) == {name for name in reached if expected[name] != "passed"}
    assert set(result.skipped) == set(expected) - set(result.steps)
    assert set(result.passed_over) == {name for name in expected if expected[name] == "passed"}
    assert result.status is state
    await crew.assert_idle()


async def test_a_parallel_run_of_seven_hundred_steps_keeps_to_its_bound(crew: Crew) -> None:
    names = [f"s{i}" for i in range(700)]
    most = 0

    async def look(_: object) -> None:
        nonlocal most
        most = max(most, await crew.queued())

    async with Feed(crew).following() as feed, workers(2, [crew], slots=20, seen=look):
        await crew.run("r1", library(*names), parallel=30)
        await until(lambda: run_ended(crew, "r1"))
    assert 1 < most <= 30
    assert counted(await crew.results()) == Counter(["r1", *(f"r1/{n}" for n in names)])
    assert feed.terminal() == Counter(f"r1/{n}" for n in names)
    assert feed.ended_runs() == {"r1": 1}
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.COMPLETED
    await crew.assert_idle()


async def test_a_random_graph_of_fifteen_hundred_steps_comes_in_parts_and_ends_as_the_plan_says(crew: Crew) -> None:
    rng = random.Random(5)
    definition = random_flow(rng, 1500)
    steps = flow.steps(definition)
    failing = set(rng.sample([s.name for s in steps], 12))
    most = 0

    async def look(_: object) -> None:
        nonlocal most
        most = max(most, await crew.queued())

    async with Feed(crew).following() as feed:
        await crew.run("r1", definition, parallel=40)
        options = {"slots": 25, "seen": look}
        async with workers(2, [crew], outcome=lambda t: "failed" if t.step in failing else "completed", **options):
            await until(lambda: run_ended(crew, "r1"))
    state, expected = expected_run(steps, failing)
    status = await runs.status(crew.client, crew.keys, "r1")
    assert status.status is state
    assert flow.outcome(status.steps) is state
    assert {s.name: s.status.value for s in status.steps} == expected
    reached = Counter(f"r1/{name}" for name, is_now in expected.items() if is_now != "skipped")
    assert feed.terminal() == reached
    assert counted(await crew.results()) == reached + Counter(["r1"])
    assert most <= 40
    await crew.assert_idle()


async def test_a_run_whose_creation_was_interrupted_is_completed_by_submitting_it_again(crew: Crew) -> None:
    definition = random_flow(random.Random(9), 3 * BATCH + 1, 1)
    crew.definition = definition
    await definitions.apply(crew.client, crew.keys, definition)
    submission = run_submission("r1", definition, parallel=50, inputs={"x": "1"})
    calls = runs.script_call(crew.keys, crew.uid, submission, MANY, "")
    assert len(calls) == 4
    for keys, args in (calls[0], calls[0], calls[1]):
        await scripts.run(crew.client, "submit_run", keys, args)
    assert await crew.client.hget(crew.keys.run("r1"), "state") == "creating"
    assert await crew.queued() == 0
    assert await runs.result(crew.client, crew.keys, "r1") is None
    await definitions.apply(crew.client, crew.keys, library("other"))  # nor does it lose its definition
    assert await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=MANY) == "r1"
    assert await crew.client.hget(crew.keys.meta, "ref:" + definition.digest()) == "1"
    before = await crew.dump()
    assert await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=MANY) == "r1"
    assert await crew.dump() == before
    async with workers(2, [crew], slots=25):
        await until(lambda: run_ended(crew, "r1"))
    status = await runs.status(crew.client, crew.keys, "r1")
    assert {s.status for s in status.steps} == {TaskState.COMPLETED}
    assert len(status.steps) == 3 * BATCH + 1
    assert counted(await crew.results()).most_common(1)[0][1] == 1
    assert not await crew.client.exists(crew.keys.definition(definition.digest()))
    await crew.assert_idle()


async def test_a_run_that_a_failover_tears_while_it_is_submitted_is_made_whole(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = library(*(f"s{i}" for i in range(2 * BATCH + 1)))
    await definitions.apply(crew.client, crew.keys, definition)
    submission = run_submission("r1", definition, inputs={"x": "1"})
    before_each: list[dict[str, str]] = []
    run = scripts.run

    async def all_there() -> dict[str, str]:
        return {name: await crew.client.dump(name) for name in await crew.client.keys(crew.keys.prefix + "*")}

    async def submit(client: Any, name: str, keys: Any, args: Any) -> Any:
        before_each.append(await all_there())
        if len(before_each) in (2, 5):  # the call before this one is lost: the first, and one in the middle
            await client.delete(*before_each[-1])
            for key, value in before_each[-2].items():
                await client.restore(key, 0, value)
        return await run(client, name, keys, args)

    monkeypatch.setattr(scripts, "run", submit)
    assert await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=MANY) == "r1"
    assert len(before_each) == 2 + 3 + 3
    monkeypatch.undo()
    assert len((await runs.status(crew.client, crew.keys, "r1")).steps) == 2 * BATCH + 1
    assert await crew.client.hget(crew.keys.run("r1"), "input:x") == "1"


# A step's successors may be in a part that is not there yet.
async def test_the_status_of_a_run_that_is_being_created_can_be_read(crew: Crew) -> None:
    names = [f"s{i}" for i in range(BATCH + 5)]
    definition = library(*names, mode=ExecutionMode.SEQUENTIAL)
    await definitions.apply(crew.client, crew.keys, definition)
    keys, args = runs.script_call(crew.keys, crew.uid, run_submission("r1", definition), MANY, "")[0]
    await scripts.run(crew.client, "submit_run", keys, args)
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.CREATING


async def test_two_clients_that_create_the_same_large_run_at_once_make_one(crew: Crew) -> None:
    definition = library(*(f"s{i}" for i in range(2 * BATCH)))
    await definitions.apply(crew.client, crew.keys, definition)
    submission = run_submission("r1", definition, parallel=5)
    await asyncio.gather(
        *(runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=MANY) for _ in range(4))
    )
    assert await crew.queued() == 5
    assert await crew.client.zcard(crew.keys.parked_concurrency) == 2 * BATCH - 5
    assert await crew.client.hget(crew.keys.meta, "ref:" + definition.digest()) == "1"
    assert len([e for e in await crew.events() if e["event_type"] == "mission_state_changed"]) == 1
