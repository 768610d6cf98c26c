"""Runs of a whole crew, on a real server: how steps follow each other, how a run ends, and what is told of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from support import (
    MANY,
    Crew,
    Feed,
    Watch,
    counted,
    expected_run,
    finished,
    flow_of,
    library,
    next_millisecond,
    payload,
    random_flow,
    run_submission,
    until,
    workers,
)

from watchbill.connection import scripts
from watchbill.errors import CrewGone, NotFound, QueueFull, WatchbillError
from watchbill.plan import flow
from watchbill.records import CrewDefinition, ExecutionMode
from watchbill.store import definitions, runs, unfinished
from watchbill.store.queue import BATCH, Outcome
from watchbill.tasks import RunResult, RunState, TaskResult, TaskState, Usage


async def _ended(crew: Crew, run_id: str) -> bool:
    state: Any = await crew.client.hget(crew.keys.run(run_id), "state")
    return state in ("completed", "partial", "failed")


async def _enqueued(crew: Crew) -> int:
    """Entries that were ever put on the task streams."""
    return sum([int((await crew.client.xinfo_stream(s))["entries-added"]) for s in await crew.streams()])


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
    while not await _ended(crew, "r1"):
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
        await until(lambda: _ended(crew, "r1"))
        await until(lambda: _ended(crew, "r10"))
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
    while not await _ended(crew, "r1"):
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


@pytest.mark.parametrize("seed", range(24))
async def test_a_random_run_ends_as_the_plan_says(crew: Crew, seed: int) -> None:
    rng = random.Random(seed)
    definition = random_flow(rng, rng.randint(1, 25))
    steps = flow.steps(definition)
    failing = {s.name for s in steps if rng.random() < rng.choice((0.0, 0.1, 0.4))}
    parallel = rng.choice((1, 2, 5, 100))
    await crew.run("r1", definition, parallel=parallel)
    watch = Watch(crew)
    held: list[Any] = []
    number, incarnation, generation = 0, "w0", 0
    while not await _ended(crew, "r1"):
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
        done = [
            finished(t, rng.choice(bad) if t.step in failing else "completed", definition=digest, message="given up")
            for t in ending
        ]
        outcomes, _ = await crew.queue.finish(incarnation, done)
        assert outcomes == ["applied"] * len(done)
        held = held[len(ending) :]
        await watch.look(run_ids=["r1"])
    state, expected = expected_run(steps, failing)
    status = await runs.status(crew.client, crew.keys, "r1")
    assert status.status is state
    assert flow.outcome(status.steps) is state
    assert {s.name: s.status.value.replace("dead", "failed") for s in status.steps} == expected
    assert [s.name for s in status.steps] == [s.name for s in steps]
    assert {s.name: set(s.after) for s in status.steps} == {s.name: set(s.after) for s in steps}
    reached = {name for name, is_now in expected.items() if is_now != "skipped"}
    assert await _enqueued(crew) == len(reached)
    assert counted(await crew.results()) == Counter(["r1", *(f"r1/{name}" for name in reached)])
    told = [e for e in await crew.events() if e.get("new_state") in ("completed", "partial", "failed")]
    assert [(e["mission_id"], e["old_state"], e["new_state"]) for e in told] == [("r1", "running", state.value)]
    result = await runs.result(crew.client, crew.keys, "r1")
    assert isinstance(result, RunResult)
    assert set(result.steps) == reached
    assert set(result.skipped) == set(expected) - reached
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
        await until(lambda: _ended(crew, "r1"))
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
            await until(lambda: _ended(crew, "r1"))
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
        await until(lambda: _ended(crew, "r1"))
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


# ---------------------------------------------------------------- the end of a run


async def test_finished_steps_are_not_put_on_the_queue_again_when_workers_die(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]))
    names = iter(f"w{i}" for i in range(20))
    begun: list[str] = []
    while not await _ended(crew, "r1"):
        dying, living = next(names), next(names)
        lost = await crew.take(dying)
        await crew.queue.declare_dead([dying])
        tasks = await crew.take(living)
        assert [t.id for t in tasks] == [t.id for t in lost]
        assert {t.attempt for t in tasks} == {2}
        begun += [str(t.step) for t in tasks]
        await crew.finish(living, tasks)
        await crew.queue.leave(living)
    assert sorted(begun) == ["a", "b", "c", "d"]
    assert await _enqueued(crew) == 4
    status = await runs.status(crew.client, crew.keys, "r1")
    assert {s.name: s.attempt for s in status.steps} == dict.fromkeys("abcd", 2)
    await crew.assert_idle()


async def test_a_run_ends_once_and_tells_its_clients_once(crew: Crew) -> None:
    channel = crew.keys.reply("me")
    async with crew.client.pubsub() as listener:
        await listener.subscribe(channel)
        assert await listener.get_message(timeout=5)
        submission = run_submission("r1", crew.definition)
        for _ in range(2):
            await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=MANY, reply_to=channel)
        tasks = await crew.take("w")
        for _ in range(2):
            await crew.finish("w", tasks)
        await crew.client.publish(channel, "the end")
        heard: list[Any] = []
        while not heard or heard[-1] != "the end":
            message = await listener.get_message(timeout=5)
            assert message is not None
            heard.append(message["data"])
    assert heard == ["r1", "the end"]
    assert counted(await crew.results()) == {"r1": 1, "r1/a": 1, "r1/b": 1}
    changes = [e for e in await crew.events() if e["event_type"] == "mission_state_changed"]
    assert [(e["old_state"], e["new_state"]) for e in changes] == [("creating", "running"), ("running", "completed")]


async def test_nothing_of_a_run_expires_before_its_end_and_then_all_of_it(crew: Crew) -> None:
    await crew.run("r1", library("a", "b", mode=ExecutionMode.SEQUENTIAL))
    keys = [crew.keys.run("r1"), crew.keys.run_steps("r1"), crew.keys.run_results("r1")]
    await crew.finish("w", await crew.take("w", 1), ttl_ms=60_000)
    assert [await crew.client.ttl(key) for key in keys] == [-1, -1, -1]
    assert await unfinished.newest(crew.client, crew.keys) == ["r1"]
    await crew.finish("w", await crew.take("w", 2), ttl_ms=300)
    assert await unfinished.newest(crew.client, crew.keys) == []
    assert all([await crew.client.pttl(key) in (-2, *range(1, 301)) for key in keys]), "-2: it has gone by now"

    async def gone() -> bool:
        return not await crew.client.exists(*keys)

    await until(gone)
    for read in (runs.result, runs.status):
        with pytest.raises(NotFound, match="'r1'"):
            await read(crew.client, crew.keys, "r1")
    with pytest.raises(NotFound, match="'r1"):
        await runs.result(crew.client, crew.keys, "r1/a")
    await crew.submit("other")
    await crew.finish("w", await crew.take("w", 3))
    assert await crew.client.zrange(crew.keys.ids, 0, -1) == ["other"]


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


@pytest.mark.parametrize("mode", list(ExecutionMode))
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
        if await _ended(crew, "r1"):
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


# ---------------------------------------------------------------- looking


async def test_the_status_of_a_run_tells_of_each_step(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("a", "c"), ("c", "b")]))
    await crew.queue.finish(
        "w",
        [
            finished(t, usage=Usage(input_tokens=5), definition=crew.definition.digest())
            for t in await crew.take("w", 1)
        ],
    )
    await crew.take("w", 2)
    status = await runs.status(crew.client, crew.keys, "r1")
    assert (status.run_id, status.crew, status.status) == ("r1", crew.keys.crew, RunState.RUNNING)
    assert status.finished_at is None
    steps = {s.name: s for s in status.steps}
    assert [(s.name, s.status.value, s.after, s.attempt, s.tokens) for s in status.steps] == [
        ("a", "completed", (), 1, 5),
        ("c", "running", ("a",), 1, 0),
        ("b", "waiting", ("a", "c"), 0, 0),
    ]
    assert steps["a"].started_at is not None
    assert steps["a"].finished_at is not None
    assert status.submitted_at <= steps["a"].started_at <= steps["a"].finished_at
    assert steps["c"].finished_at is None


async def test_results_of_tasks_runs_and_steps_are_none_until_they_are_there(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.run("r1")
    for task_id in ("t1", "r1", "r1/a"):
        assert await runs.result(crew.client, crew.keys, task_id) is None
    await crew.finish("w", await crew.take("w"))
    task = await runs.result(crew.client, crew.keys, "t1")
    step = await runs.result(crew.client, crew.keys, "r1/a")
    assert isinstance(task, TaskResult)
    assert isinstance(step, TaskResult)
    assert (task.output, step.output) == ("t1", "r1/a")
    run = await runs.result(crew.client, crew.keys, "r1")
    assert isinstance(run, RunResult)
    assert run.success
    assert run.steps["a"] == step
    assert run.finished_at is not None
    assert run.execution_time_ms >= 0


@pytest.mark.parametrize("unknown", ["nothing", "r1/nothing", "nothing/a", "r1/", "/"])
async def test_what_is_not_there_is_not_found(crew: Crew, unknown: str) -> None:
    await crew.run("r1")
    with pytest.raises(NotFound, match=crew.keys.crew):
        await runs.result(crew.client, crew.keys, unknown)
    with pytest.raises(NotFound):
        await runs.status(crew.client, crew.keys, unknown)


async def test_whoever_waits_for_a_step_that_was_skipped_is_not_left_waiting(crew: Crew) -> None:
    await crew.run("r1", library("a", "b", mode=ExecutionMode.SEQUENTIAL))
    await crew.finish("w", await crew.take("w"), "failed")
    assert await _ended(crew, "r1")
    result = await runs.result(crew.client, crew.keys, "r1/b")
    assert isinstance(result, TaskResult)
    assert not result.success


# ---------------------------------------------------------------- all that is unfinished


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("at_once", [1, 7, 3000])
async def test_every_unfinished_id_is_told_once_however_many_came_at_the_same_time(
    crew: Crew, at_once: int, ends: bool
) -> None:
    """`ends`: what was told has ended when the next page is read."""
    far = 1.1e13
    wanted = [f"t{n:04}" for n in range(2600)]
    await crew.client.zadd(crew.keys.ids, {task_id: far + n // at_once for n, task_id in enumerate(wanted)})
    await crew.client.zadd(crew.keys.ids, {"ended": 1e12})
    pages = []
    async for page in unfinished.pages(crew.client, crew.keys):
        pages.append(page)
        if ends:
            await crew.client.zadd(crew.keys.ids, dict.fromkeys(page, 1e12))
    assert [task_id for page in pages for task_id in page] == wanted
    assert max(map(len, pages)) == BATCH


async def test_what_comes_while_all_that_is_unfinished_is_read_is_not_among_it(crew: Crew) -> None:
    before = [f"t{n}" for n in range(BATCH + 1)]
    await crew.submit(*before)
    await next_millisecond(crew)
    pages = unfinished.pages(crew.client, crew.keys)
    found = await anext(pages)
    await crew.submit("a-later", "z-later")
    found += [task_id async for page in pages for task_id in page]
    assert sorted(found) == sorted(before)
