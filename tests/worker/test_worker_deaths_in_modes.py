"""Workers that are killed (kill -9) in the middle of what each mode has: the run ends as it would have, each step ends
once, and has one effect that stands, in a system that refuses older fences.

Whoever was killed is taken for dead by the test, as others do when its lease has ended: so no worker is that is only
slow.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from workshop import Crew, Make, Process, agent

from waiting import until
from watchbill.api.hierarchy import Hierarchy
from watchbill.api.modes import Synthesis
from watchbill.records import AgentDefinition, ExecutionMode
from watchbill.tasks import RunResult, RunState, TaskState

LOOP = {"maxIterations": 5, "until": {"agent": "critic", "field": "done"}}
WORKERS = 3


def effect(name: str, **fields: Any) -> AgentDefinition:
    return agent(name, "Effect", **fields)


async def _workers(crew: Crew) -> None:
    await asyncio.gather(*(crew.worker(concurrency=1) for _ in range(WORKERS)))


async def _buried(crew: Crew, process: Process | None = None) -> None:
    """Until this worker, or one, has been killed, and has been taken for dead."""

    async def killed() -> list[str]:
        dead = [one for one in crew.processes if not one.lives and process in (None, one)]
        return [name for one in dead for name in await crew.incarnations(one)]

    await crew.queue.declare_dead(await until(killed, what="the death of a worker"))


async def _run_through(crew: Crew, dies: str) -> RunResult:
    """Runs the crew while the step kills its worker before its effect, and the next one after it."""
    for one in crew.definition.agents:
        one.config["dies"] = dies
    await crew.define()
    await _workers(crew)
    await crew.submit("r", inputs={"list": '["a", "b", "c"]'})
    for _ in range(2):
        await _buried(crew)
    return await crew.run_result("r")


async def _check(crew: Crew, run: RunResult, dies: str, *steps: str) -> None:
    """`steps`: those of agents, in any order."""
    assert (run.status, run.error) == (RunState.COMPLETED, None)
    assert crew.executions() == {f"r/{step}": 3 if step == dies else 1 for step in steps}
    assert run.steps[dies].attempt == 3
    await _check_effects(crew, run, *steps)


async def _check_effects(crew: Crew, run: RunResult, *steps: str) -> None:
    """`steps`: those of agents that were to have an effect."""
    standing: dict[str, int] = {}
    for line in crew.notes("effect"):
        if line["fence"] > standing.get(line["task"], 0):
            standing[line["task"]] = line["fence"]
    told = {f"r/{step}": run.steps[step].output["fence"] for step in steps}
    assert standing == told, "one effect of each stands, of the attempt that was told"
    assert set((await crew.ends()).values()) == {1}
    told_as = {"r": "completed"} | {f"r/{step}": "completed" for step in run.steps}
    told_as |= {f"r/{step}": "skipped" for step in run.passed_over}
    assert set(await crew.ends()) == set(told_as.items())
    ended = await crew.ended_events()
    assert {step: ended[f"r/{step}"] for step in run.steps} == dict.fromkeys(run.steps, 1)
    await until(crew.is_idle, what="nothing is left")


@pytest.mark.parametrize("dies", ["reader@3", "writer"])
async def test_in_the_middle_of_a_list(make_crew: Make, dies: str) -> None:
    reader = effect("reader", for_each="{steps.finder.list}")
    crew = await make_crew([effect("finder"), reader, effect("writer")], max_parallel_tasks=2)
    run = await _run_through(crew, dies)
    items = [f"reader@{number}" for number in range(1, 6)]
    await _check(crew, run, dies, "finder", *items, "writer")
    assert run.steps["reader"].output == [run.steps[item].output for item in items]
    assert run.steps["reader@each"].output == 5
    assert run.steps["writer"].output["given"] == ["finder", "reader"]


async def test_in_a_synthesis(make_crew: Make) -> None:
    crew = await make_crew([effect("a"), effect("b")], mode=ExecutionMode.PARALLEL)
    config = {"folder": str(crew.folder), "dies": "synthesis"}
    await crew.define(synthesis=Synthesis.model_validate({"class": "effect_hands:Effect", "config": config}))
    run = await _run_through(crew, "")
    await _check(crew, run, "synthesis", "a", "b", "synthesis")
    assert run.output == run.steps["synthesis"].output
    assert run.output["given"] == ["a", "b"]


async def test_in_a_branch(make_crew: Make) -> None:
    def branch(name: str, eq: str) -> AgentDefinition:
        return effect(name, when={"step": "a", "field": "flag", "eq": eq})

    crew = await make_crew([effect("a"), branch("no", "false"), branch("yes", "true"), effect("last")])
    run = await _run_through(crew, "yes")
    assert run.passed_over == ("no",)
    assert run.steps["last"].output["given"] == ["a", "yes"]
    await _check(crew, run, "yes", "a", "yes", "last")


@pytest.mark.parametrize("dies", ["writer@2", "critic@2"])
async def test_in_an_iteration(make_crew: Make, dies: str) -> None:
    crew = await make_crew([effect("writer"), effect("critic")], mode=ExecutionMode.LOOP, loop=LOOP)
    run = await _run_through(crew, dies)
    await _check(crew, run, dies, *(f"{name}@{number}" for number in (1, 2, 3) for name in ("writer", "critic")))
    assert [run.steps[f"until@{number}"].output for number in (1, 2, 3)] == [False, False, True]
    assert len(run.steps) == 9


async def test_in_delegated_work(make_crew: Make) -> None:
    agents = [agent("lead", "Lead"), effect("coder"), effect("tester")]
    crew = await make_crew(agents, mode=ExecutionMode.HIERARCHICAL, hierarchy=Hierarchy(manager="lead"))
    for one in agents[1:]:
        one.config["dies"] = "lead:1"
    await crew.define()
    await _workers(crew)
    await crew.submit("r", prompt="coder: a; tester: b; coder: c")
    for _ in range(2):
        await _buried(crew)
    run = await crew.run_result("r")
    items = ("lead:1", "lead:2", "lead:3")
    assert run.output == [run.steps[item].output for item in items]
    found = crew.executions()
    assert found.pop("r/lead") >= 2
    assert found == {"r/lead:1": 3, "r/lead:2": 1, "r/lead:3": 1}
    assert {run.steps[step].attempt for step in ("lead", "lead:2", "lead:3")} == {1}
    await _check_effects(crew, run, *items)


# ---------------------------------------------------------------- approvals


async def _asks(crew: Crew, task_id: str) -> None:
    async def waits() -> bool:
        return await crew.client.state(crew.name, task_id) is TaskState.APPROVAL

    await until(waits, what=f"{task_id} waits for approval")


@pytest.mark.parametrize("asks", [False, True])
async def test_when_an_approval_was_just_given(make_crew: Make, asks: bool) -> None:
    """One worker is killed at that moment, and another one in what was approved: nobody is asked again."""
    config = {"dies": "send", "deaths": ["after"], "asks": asks}
    agents = [effect("draft"), effect("send", config=config), effect("last")]
    crew = await make_crew(agents, requires_approval=[] if asks else ["send"])
    await _workers(crew)
    await crew.submit("r")
    await _asks(crew, "r/send")
    assert await crew.client.approve(crew.name, "r/send", reason="well said")
    crew.processes[0].process.kill()  # it may be dead by now: it may have got what was approved
    crew.processes[0].process.wait()
    await _buried(crew, crew.processes[0])
    await until(lambda: (crew.folder / "died.after").exists(), what="the effect")
    run = await _ended_in_spite_of_deaths(crew)
    assert (run.status, run.error) == (RunState.COMPLETED, None)
    (known,) = (await crew.client.approvals(crew.name, "r"))["r/send"]
    assert (known.state, known.reason) == ("approved", "well said")
    told = [event for event in await crew.events(run="r") if event.event_type == "mission_help_needed"]
    assert [event.task_id for event in told] == ["r/send"]
    executions = crew.executions()
    assert (executions["r/draft"], executions["r/last"]) == (1, 1)
    await _check_effects(crew, run, "draft", "send", "last")


async def _ended_in_spite_of_deaths(crew: Crew) -> RunResult:
    """The result of the run. Whoever has died is taken for dead."""
    waiting = asyncio.create_task(crew.run_result("r"))
    try:
        while not waiting.done():
            names = [name for one in crew.processes if not one.lives for name in await crew.incarnations(one)]
            if names:
                await crew.queue.declare_dead(names)
            await asyncio.wait([waiting], timeout=0.05)
        return waiting.result()
    finally:
        waiting.cancel()
