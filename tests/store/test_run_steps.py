"""Steps that are added to a run while it goes on, on a real server: once, in bounds, and by whoever holds the step."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from run_checks import run_ended
from support import MANY, Crew, counted, expected_run, flow_of, library, random_flow, workers

from waiting import until
from watchbill.errors import Fenced, InvalidInput, QueueFull
from watchbill.plan import flow
from watchbill.records import CrewDefinition, ExecutionMode
from watchbill.store import run_steps, runs
from watchbill.store.queue import Claimed
from watchbill.store.run_steps import Held
from watchbill.store.submissions import Submission
from watchbill.tasks import RunResult, RunState

LIST = flow_of([("list@each", "list"), ("list", "end")])
LOOP = library("a", "b", mode=ExecutionMode.LOOP, loop={"maxIterations": 9})


def held(crew: Crew, task: Claimed) -> Held:
    return Held(crew.keys, crew.uid, task.id, int(task.fence))


async def add(crew: Crew, task: Claimed, number: int, *, lenient: bool = False, room: int = MANY) -> bool:
    items = list(range(number))
    return await run_steps.add_items(crew.client, held(crew, task), "list", "list", items, lenient=lenient, room=room)


async def test_items_are_added_once_whoever_holds_the_step(crew: Crew) -> None:
    await crew.run("r", LIST)
    (task,) = await crew.take("w1")
    assert await add(crew, task, 3)
    assert await add(crew, task, 3), "a reply was lost"
    await crew.queue.declare_dead(["w1"])
    again = {t.step: t for t in await crew.take("w2")}
    assert set(again) == {"list@each", "list@1", "list@2", "list@3"}
    with pytest.raises(Fenced):
        await add(crew, task, 5)
    assert await add(crew, again["list@each"], 5)  # by an attempt that goes on where the first one stood
    await crew.finish("w2", again.values())
    rest = await crew.take("w2", 2)
    assert {t.step for t in rest} == {"list@4", "list@5"}, "the list waits for all of them"
    await crew.finish("w2", rest)
    for number, step in ((3, "list"), (4, "end")):
        (last,) = await crew.take("w2", number)
        assert last.step == step
        await crew.finish("w2", [last])
    status = await runs.status(crew.client, crew.keys, "r")
    assert status.status is RunState.COMPLETED
    assert [s.name for s in status.steps] == ["list@each", "list", "end", *(f"list@{n}" for n in range(1, 6))]
    assert flow.outcome(status.steps) is RunState.COMPLETED
    await crew.assert_idle()


async def test_a_list_that_comes_in_parts_is_gathered_after_the_last_item_within_the_runs_bound(crew: Crew) -> None:
    most = 0

    async def look(_: object) -> None:
        nonlocal most
        most = max(most, await crew.queued())

    await crew.run("r", LIST, parallel=20)
    (task,) = await crew.take("w")
    assert await add(crew, task, 1201)
    await crew.finish("w", [task])
    await crew.queue.leave("w")
    async with workers(2, [crew], slots=15, seen=look):
        await until(lambda: run_ended(crew, "r"))
    steps = ["list@each", *(f"list@{n}" for n in range(1, 1202)), "list", "end"]
    assert counted(await crew.results()) == Counter(["r", *(f"r/{name}" for name in steps)])
    assert 1 < most <= 20
    result = await runs.result(crew.client, crew.keys, "r")
    assert isinstance(result, RunResult)
    ended = {name: step.completed_at for name, step in result.steps.items()}
    assert len(ended) == len(steps)
    outputs = await run_steps.outputs_of_items(crew.client, crew.keys, "r", "list", 1201)
    assert outputs == [f"r/list@{n}" for n in range(1, 1202)]
    await crew.assert_idle()


@pytest.mark.parametrize("lenient", [True, False])
async def test_a_failed_item_holds_a_list_up_unless_it_is_lenient(crew: Crew, lenient: bool) -> None:
    await crew.run("r", LIST)
    (task,) = await crew.take("w")
    assert await add(crew, task, 2, lenient=lenient)
    await crew.finish("w", [task])
    items = await crew.take("w", 2)
    await crew.finish("w", items[:1], "failed")
    await crew.finish("w", items[1:])
    left = [t.step for t in await crew.take("w", 3)]
    assert left == (["list"] if lenient else [])
    assert (await runs.status(crew.client, crew.keys, "r")).status is (RunState.RUNNING if lenient else RunState.FAILED)
    found = await run_steps.outputs_of_items(crew.client, crew.keys, "r", "list", 2)
    assert found[0]["error"] == {"step": "list@1", "agent": "list", "message": "it broke", "attempts": 1}


async def test_what_has_no_room_is_refused_before_any_of_it_is_added(crew: Crew) -> None:
    await crew.run("r", LIST)
    (task,) = await crew.take("w")
    await crew.submit(*(f"t{n}" for n in range(300)))
    with pytest.raises(QueueFull, match=r"tasks.maxQueued = 600"):
        await add(crew, task, 300, room=600)  # beside the step that is held
    assert len((await runs.status(crew.client, crew.keys, "r")).steps) == 3
    assert await add(crew, task, 299, room=600)


async def test_a_list_that_can_never_find_room_is_refused_for_good(crew: Crew) -> None:
    await crew.run("r", LIST)
    (task,) = await crew.take("w")
    with pytest.raises(InvalidInput, match=r"has 600 items, and tasks.maxQueued is 600, which must be more. Raise it"):
        await add(crew, task, 600, room=600)  # beside the step that is held
    assert await add(crew, task, 599, room=600)


async def test_steps_that_wait_for_room_take_it_from_nobody_within_another_maxqueued(crew: Crew) -> None:
    await crew.run("r", LIST)
    (task,) = await crew.take("w")
    soon_ms = ((await crew.client.time())[0] + 3600) * 1000
    later = [Submission(f"t{n}", "a", "{}", due_ms=soon_ms) for n in range(12)]
    await crew.submit_all(later[:10], max_queued=MANY)
    assert await add(crew, task, 9, room=10)
    await crew.submit_all(later[10:], max_queued=MANY)
    await crew.finish("w", [task])
    await crew.run("s", LIST)
    tasks = {one.id: one for one in await crew.take("w", 2, slots=20)}
    await crew.finish("w", [one for name, one in tasks.items() if name.startswith("r/")])
    with pytest.raises(QueueFull):
        await add(crew, tasks["s/list@each"], 9, room=10)  # twelve are delayed, of which ten don't count


async def test_who_has_waited_for_room_for_an_hour_waits_no_longer(crew: Crew) -> None:
    await crew.run("r", LIST)
    (task,) = await crew.take("w")
    await crew.submit("t1")
    for _ in range(2):
        with pytest.raises(QueueFull):
            await add(crew, task, 2, room=3)
    field = "room:list@each"
    since = await crew.client.hget(crew.keys.run("r"), field)
    await crew.client.hset(crew.keys.run("r"), field, str(int(since) - 3_600_000))
    with pytest.raises(InvalidInput, match="for an hour there was no room for the 2 items"):
        await add(crew, task, 2, room=3)
    with pytest.raises(QueueFull):  # who replays it waits anew
        await add(crew, task, 2, room=3)
    assert await add(crew, task, 2, room=4)
    assert not await crew.client.hexists(crew.keys.run("r"), field)


async def iterate(crew: Crew, task: Claimed, definition: CrewDefinition, number: int) -> bool:
    return await run_steps.add_iteration(crew.client, held(crew, task), flow.iteration(definition, number))


async def test_an_iteration_is_added_once_and_begins_when_its_verdict_is_stored(crew: Crew) -> None:
    await crew.run("r", LOOP)
    for number in (1, 2):
        await crew.finish("w", await crew.take("w", number))
    (task,) = await crew.take("w", 3)
    assert not await run_steps.is_followed(crew.client, crew.keys, "r", "until@1")
    assert await iterate(crew, task, LOOP, 2)
    assert await iterate(crew, task, LOOP, 2)
    assert await run_steps.is_followed(crew.client, crew.keys, "r", "until@1")
    assert await crew.claim("w", 4) == ()
    await crew.queue.declare_dead(["w"])
    (again,) = await crew.take("x", 1)
    assert (again.step, again.attempt) == ("until@1", 2)
    with pytest.raises(Fenced):
        await iterate(crew, task, LOOP, 2)
    await crew.finish("x", [again])
    (first,) = await crew.take("x", 2)
    assert first.step == "a@2"
    states = await crew.step_states("r")
    assert list(states) == ["a@1", "b@1", "until@1", "a@2", "b@2", "until@2"]


async def test_a_run_that_is_being_cancelled_gets_no_further_steps(crew: Crew) -> None:
    await crew.run("r", LIST)
    (task,) = await crew.take("w")
    await crew.client.hset(crew.keys.run("r"), "state", "cancelling")
    assert not await add(crew, task, 2)
    assert len((await runs.status(crew.client, crew.keys, "r")).steps) == 3


async def test_a_step_of_a_run_from_before_there_were_marks_is_read(crew: Crew) -> None:
    await crew.run("r", flow_of([("a", "b")]))
    stored: dict[str, Any] = await crew.client.hgetall(crew.keys.run_steps("r"))
    assert {text.count("\x1f") for text in stored.values()} == {10}, "a step without marks is as it always was"


# ---------------------------------------------------------------- any run


def with_items(steps: Sequence[flow.Step], counts: Mapping[str, int]) -> list[flow.Step]:
    """The steps with those of the items, each behind the one that makes it."""
    found: list[flow.Step] = []
    for step in steps:
        items = [flow.item_name(step.name, n + 1) for n in range(counts.get(f"{step.name}@each", 0))]
        found += [flow.Step(name, step.agent, step.after, (step.name,), step.lenient) for name in items]
        found.append(replace(step, after=(*step.after, *items)))
    return found


@pytest.mark.parametrize("seed", range(12))
async def test_a_random_run_with_lists_ends_as_the_plan_says(crew: Crew, seed: int) -> None:
    rng = random.Random(seed)
    definition = random_flow(rng, rng.randint(1, 8))
    agents = [
        one.model_copy(
            update={
                "for_each": rng.choice([None, "{inputs.list}"]),
                "on_error": rng.choice(["Fail", "Continue"]),
            }
        )
        for one in definition.agents
    ]
    definition = definition.model_copy(update={"agents": agents})
    counts = {step.name: rng.choice((0, 1, 2, 7)) for step in flow.steps(definition) if step.name.endswith("@each")}
    planned = with_items(flow.steps(definition), counts)
    failing = {step.name for step in planned if rng.random() < rng.choice((0.0, 0.2))}
    counts = {name: 0 if name in failing else count for name, count in counts.items()}
    planned = with_items(flow.steps(definition), counts)
    parallel = rng.choice((1, 2, 5, 100))
    await crew.run("r", definition, parallel=parallel)
    number, incarnation = 0, 0
    while not await run_ended(crew, "r"):
        number += 1
        tasks = list(await crew.take(f"w{incarnation}", number, rng.randint(1, 5)))
        assert tasks
        assert await crew.queued() <= parallel
        for task in tasks:
            if str(task.step) in counts and str(task.step) not in failing:
                name, few = task.agent, rng.choice((0, counts[str(task.step)]))  # an attempt may die half way
                for count in (few, counts[str(task.step)]):
                    items, lenient = list(range(count)), next(s.lenient for s in planned if s.name == name)
                    await run_steps.add_items(
                        crew.client, held(crew, task), name, name, items, lenient=lenient, room=MANY
                    )
                    assert await crew.queued() <= parallel
                    if rng.random() < 0.2:
                        break
                else:
                    continue
                await crew.queue.declare_dead([f"w{incarnation}"])
                incarnation, number, tasks = incarnation + 1, 0, []
                break
        for task in tasks:
            await crew.finish(f"w{incarnation}", [task], "dead" if task.step in failing else "completed")
    state, expected = expected_run(planned, failing)
    status = await runs.status(crew.client, crew.keys, "r")
    assert (status.status, flow.outcome(status.steps)) == (state, state)
    shown = {s.name: s.status.value.replace("dead", "failed") for s in status.steps}
    unmade = {name for name in expected if name not in shown}
    assert shown == {name: what for name, what in expected.items() if name not in unmade}
    assert {expected[name] for name in unmade} <= {"skipped"}, "whose maker was never reached, or failed"
    reached = Counter(f"r/{name}" for name, what in expected.items() if what != "skipped")
    assert counted(await crew.results()) == reached + Counter(["r"])
    await crew.assert_idle()
