"""Loops: what each iteration is given, who judges it, and what becomes of the run where that can't be judged."""

from __future__ import annotations

from typing import Any

import pytest
from workshop import AGENTS, Crew, Make, agent

from watchbill.agents.loading import AgentLoader
from watchbill.records import CrewDefinition, ExecutionMode
from watchbill.store import dead
from watchbill.tasks import RunState, TaskState


async def looping(make_crew: Make, until: dict[str, str] | None, rounds: int = 3, most: int = 5, **fields: Any) -> Crew:
    """A writer and a critic, who is done in the given iteration."""
    agents = [
        agent("writer", "Tells", prompt="{input}<{steps.critic.number}>"),
        agent("critic", "DoneAt", config={"output": rounds}),
    ]
    bounds = {"maxIterations": most, **({"until": until} if until else {})}
    return await make_crew(agents, mode=ExecutionMode.LOOP, loop=bounds, **fields)


FIELD = {"agent": "critic", "field": "done"}


@pytest.mark.parametrize(
    ("until", "most", "iterations"),
    [
        (FIELD, 5, 3),
        (FIELD, 2, 2),
        ({"predicate": "mode_hands:is_third"}, 5, 3),
        ({"predicate": "mode_hands:is_second"}, 5, 2),
        (None, 4, 4),
    ],
)
async def test_a_loop_ends_with_its_condition_or_its_bound(
    make_crew: Make, until: dict[str, str] | None, most: int, iterations: int
) -> None:
    crew = await looping(make_crew, until, most=most)
    async with crew.in_process():
        await crew.submit("r")
        run = await crew.run_result("r")
    assert run.status is RunState.COMPLETED
    assert run.output["number"] == iterations
    numbers = range(1, iterations + 1)
    judged = [n for n in numbers if until or n < most]
    assert list(run.steps) == [
        f"{a}@{n}" for n in numbers for a in ("writer", "critic", "until") if a != "until" or n in judged
    ]
    verdicts = [run.steps[f"until@{n}"].output for n in judged]
    is_met = until is not None and iterations < most
    assert verdicts == [False] * (len(judged) - is_met) + [True] * is_met
    assert crew.executions() == {f"r/{a}@{n}": 1 for n in numbers for a in ("writer", "critic")}
    asked = [line["prompt"] for line in crew.notes() if line["agent"] == "writer"]
    assert asked == ["do it<>", *(f"do it<{n}>" for n in numbers[:-1])]
    given = [line["outputs"] for line in crew.notes() if line["agent"] == "critic"]
    assert [list(outputs) for outputs in given] == [["writer"], *[["critic", "writer"]] * (iterations - 1)]


@pytest.mark.parametrize(
    ("until", "why"),
    [
        ({"predicate": "mode_hands:raises_until_mended"}, "raised LookupError: not mended yet"),
        ({"predicate": "mode_hands:says_yes"}, "returned 'yes, it is done', and neither True nor False"),
        ({"agent": "critic", "field": "finished"}, "the output of 'critic' has no field 'finished'"),
        ({"agent": "critic", "field": "number"}, "is the number 1, and neither true nor false"),
        ({"agent": "writer", "field": "done"}, "the output of 'writer' has no field 'done': it is the text 'do it<>'"),
    ],
)
async def test_a_condition_that_can_not_be_judged_fails_the_run_there(
    make_crew: Make, until: dict[str, str], why: str
) -> None:
    crew = await looping(make_crew, until)
    async with crew.in_process():
        await crew.submit("r")
        run = await crew.run_result("r")
    assert run.status is RunState.FAILED
    assert "until@1: InvalidInput: loop.until: " in (run.error or "")
    assert why in (run.error or "")
    assert (run.steps["critic@1"].output["number"], run.steps["until@1"].attempt) == (1, 1)
    assert [letter["id"] for letter in await crew.dead()] == ["r/until@1"]


async def test_a_loop_goes_on_where_its_condition_was_mended_and_replayed(make_crew: Make) -> None:
    crew = await looping(make_crew, {"predicate": "mode_hands:raises_until_mended"})
    async with crew.in_process():
        await crew.submit("r")
        assert (await crew.run_result("r")).status is RunState.FAILED
        (crew.folder / "mended").touch()
        letters = [letter async for letter in dead.letters(crew.redis, crew.keys)]
        (replayed,) = await dead.replay(crew.redis, crew.keys, crew.uid, letters, max_queued=10)
        assert replayed.outcome == "replayed"
        run = await crew.run_result("r")
    assert run.status is RunState.COMPLETED
    assert crew.executions() == {"r/writer@1": 1, "r/critic@1": 1}


async def test_a_worker_that_dies_while_it_judges_costs_no_iteration(make_crew: Make) -> None:
    crew = await looping(make_crew, {"predicate": "mode_hands:kills_its_worker_once"}, most=3, lease_seconds=1)
    first = await crew.worker()
    await crew.submit("r")
    assert await first.ended() == 66
    await crew.worker()
    run = await crew.run_result("r")
    assert run.status is RunState.COMPLETED
    assert run.output["number"] == 3
    assert crew.executions() == {f"r/{a}@{n}": 1 for n in (1, 2, 3) for a in ("writer", "critic")}
    assert run.steps["until@2"].attempt == 2


async def test_in_a_loop_a_skipped_agent_has_no_output_of_an_earlier_iteration_and_is_no_verdict(
    make_crew: Make,
) -> None:
    def only(**comparison: int) -> dict[str, Any]:
        return {"step": "writer", "field": "number", **comparison}

    agents = [
        agent("writer", "DoneAt", config={"output": 9}),
        agent("first", "DoneAt", config={"output": 9}, when=only(lt=2)),
        agent("reader", "Tells", prompt="<{steps.first.number}>"),
        agent("critic", "DoneAt", config={"output": 1}, when=only(gt=1)),
    ]
    crew = await make_crew(agents, mode=ExecutionMode.LOOP, loop={"maxIterations": 5, "until": FIELD})
    async with crew.in_process():
        await crew.submit("r")
        run = await crew.run_result("r")
    assert (run.status, run.passed_over) == (RunState.COMPLETED, ("critic@1", "first@2"))
    assert [run.steps[f"until@{n}"].output for n in (1, 2)] == [False, True]
    assert [run.steps[f"reader@{n}"].output for n in (1, 2)] == ["<1>", "<>"]


async def test_a_cancelled_loop_begins_no_further_iteration(make_crew: Make) -> None:
    agents = [agent("gate", "Gate")]
    crew = await make_crew(agents, mode=ExecutionMode.LOOP, loop={"maxIterations": 9})
    async with crew.in_process():
        await crew.submit("r")
        await crew.started("r/gate@1")
        await crew.client.cancel(crew.name, "r")
        run = await crew.run_result("r")
    assert run.status is RunState.CANCELLED
    states = {step.name: step.status for step in (await crew.client.status(crew.name, "r")).steps}
    assert states == {"gate@1": TaskState.CANCELLED, "until@1": TaskState.SKIPPED}


def test_a_predicate_that_can_not_be_loaded_is_told_with_its_place() -> None:
    fields = {"loop": {"maxIterations": 2, "until": {"predicate": "mode_hands:is_thrd"}}}
    crew = CrewDefinition.model_validate(
        {"name": "c", "execution_mode": "loop", "agents": [{"agent_id": "a"}], **fields}
    )
    found = {problem.path: problem.reason for problem in AgentLoader([AGENTS]).check(crew)}
    assert "did you mean 'is_third'?" in found["spec.loop.until.predicate"]
