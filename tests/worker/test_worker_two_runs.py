"""Two runs of one crew at the same time, which ask for the same approval and keep steps of the same name: neither hears
of the other's, whichever worker dies."""

from __future__ import annotations

from typing import Any

import pytest
from workshop import Crew, Make, agent

from waiting import until
from watchbill.tasks import RunState, TaskState

RUNS = ("r1", "r2")


async def _both(crew: Crew, state: TaskState, step: str) -> None:
    async def are() -> bool:
        return {await crew.client.state(crew.name, f"{run}/{step}") for run in RUNS} == {state}

    await until(are, what=f"{step} is {state.value} in both runs")


@pytest.mark.parametrize("begins", [True, False])
async def test_what_is_decided_of_one_run_is_not_of_the_other(make_crew: Make, begins: bool) -> None:
    crew = await make_crew({"send": "Brief" if begins else "Pays"}, requires_approval=["send"] if begins else [])
    first = await crew.worker()
    for run in RUNS:
        await crew.submit(run, prompt="rent")
    await _both(crew, TaskState.APPROVAL, "send")
    first.kill()
    assert await crew.client.approve(crew.name, "r1/send", reason="it is due")
    (other,) = (await crew.client.approvals(crew.name, "r2"))["r2/send"]
    assert (other.state, other.reason) == ("waiting", "")
    async with crew.in_process():
        done = await crew.run_result("r1")
        assert (done.status, done.output) == (RunState.COMPLETED, "rent" if begins else ["it is due"])
        assert await crew.client.state(crew.name, "r2/send") is TaskState.APPROVAL
        assert await crew.client.reject(crew.name, "r2/send", reason="no money")
        refused = await crew.run_result("r2")
    assert refused.status is RunState.FAILED
    assert "rejected: no money" in str(refused.error)
    assert (await crew.run_result("r1")).status is RunState.COMPLETED


async def test_steps_of_the_same_name_are_done_in_each_run(make_crew: Make) -> None:
    crew = await make_crew([agent("a", "Stepper", prompt="x !y z"), agent("b", "Stepper", prompt="x y")])
    first = await crew.worker()
    for run in RUNS:
        await crew.submit(run)

    def did() -> list[Any]:
        return sorted((note["task"], note["step"]) for note in crew.notes("did"))

    await until(lambda: len(did()) == 4, what="each is in its second step")
    names = await crew.incarnations(first)
    first.kill()
    await crew.queue.declare_dead(sorted(names))
    async with crew.in_process():
        results = [await crew.run_result(run) for run in RUNS]
    for result in results:
        assert result.status is RunState.COMPLETED
        assert result.steps["a"].output == [["x", 1], ["!y", 2], ["z", 2]]
        assert result.output == [["x", 1], ["y", 1]]
    in_each = [("a", "!y"), ("a", "!y"), ("a", "x"), ("a", "z"), ("b", "x"), ("b", "y")]
    assert did() == [(f"{run}/{name}", step) for run in RUNS for name, step in in_each]
