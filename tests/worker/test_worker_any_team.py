"""Hierarchies of any kind, each in two runs at once with programs of their own, with workers that are taken for dead:
each run comes to what its program says, and to nothing of the other's."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict

import pytest
from test_worker_any_crew import at_once, die
from workshop import Crew, Make, agent

from hierarchy_scenes import MEMBERS, RUNS, Expected, Scene, hierarchy, program
from watchbill.records import ExecutionMode


async def _scene(make_crew: Make, rng: random.Random) -> tuple[Crew, Scene]:
    above = hierarchy(rng)
    programs = {run: program(rng, sure=True) for run in RUNS}  # else its manager would be tried again and again
    config = {"programs": {run: asdict(one) for run, one in programs.items()}}
    agents = [
        agent(
            name,
            "Delegates",
            config=config | {"hopes": rng.choice([0, 0, 1])},
            max_concurrent=rng.choice([None, None, 1]),
        )
        for name in ("lead", *MEMBERS, *([above.reviewer] if above.reviewer else []))
    ]
    crew = await make_crew(
        agents,
        mode=ExecutionMode.HIERARCHICAL,
        hierarchy=above,
        max_parallel_tasks=rng.choice([1, 2, 100]),
        tasks={"max_attempts": 100, "backoff_seconds": 0},
    )
    return crew, Scene(crew.definition, programs, crew.definition.max_parallel_tasks, 0, 0)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_two_runs_delegate_and_whoever_dies_each_comes_to_its_own(make_crew: Make, seed: int) -> None:
    rng = random.Random(seed)
    crew, scene = await _scene(make_crew, rng)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(crew.in_process(concurrency=3))
        for run in RUNS:
            await crew.submit(run)
        ending = asyncio.gather(*map(crew.run_result, RUNS))
        await die(crew, rng, ending.done)
        await ending
    assert set((await crew.ends()).values()) == {1}
    for run in RUNS:
        await _check(crew, scene, run)
    for one in crew.definition.agents:
        assert at_once(crew, agent=one.agent_id) <= (one.max_concurrent or 100)
    assert await crew.is_idle()


async def _check(crew: Crew, scene: Scene, run: str) -> None:
    expected = Expected(scene, run)
    expected.tell()
    result = await crew.run_result(run)
    status = await crew.client.status(crew.name, run)
    assert {step.name: step.status.value for step in status.steps} == expected.states
    outputs = {name: one.output for name, one in result.steps.items() if one.success and ":review" not in name}
    assert outputs == expected.outputs
    assert result.output == expected.outputs["lead"]
    assert {name for name, _ in await crew.ends() if name.startswith(f"{run}/")} == {
        f"{run}/{name}" for name in expected.states
    }
    kinds = Counter(event.event_type.value for event in await crew.events(run=run))
    reviews = sum("review" in name.rpartition(":")[2] for name in expected.states)
    assert kinds["task_delegated"] == len(expected.states) - 1 - reviews
    assert (kinds["reviewer_handoff"], kinds["reviewer_approval"]) == (reviews, expected.approved)
    assert at_once(crew, run) <= scene.parallel
