"""Models whose answers decide on the steps behind them hear of what these can't use, with real workers."""

from __future__ import annotations

from typing import Any

import pytest
from workshop import Crew, Make, agent

from watchbill.api.modes import Loop
from watchbill.records import AgentDefinition, ExecutionMode
from watchbill.tasks import RunState
from watchbill.testing import FakeModel

GOOD = '{"approved": true, "rows": ["a", "b"]}'


async def made(make_crew: Make, kind: str, model: FakeModel, retries: int = 0) -> Crew:
    """A crew that needs a boolean field, or a list, of the answer of an agent with that model."""
    finder = AgentDefinition(
        agent_id="finder", model="openai:any", base_url=model.base_url, config={"output_retries": retries}
    )
    fields: dict[str, Any] = {"tasks": {"max_attempts": 1}}
    if kind == "loop":
        until = {"agent": "finder", "field": "approved"}
        loop = Loop.model_validate({"maxIterations": 2, "until": until})
        return await make_crew([finder], mode=ExecutionMode.LOOP, loop=loop, **fields)
    each = agent("each", "Works", for_each="{steps.finder.rows}", prompt="{item}")
    return await make_crew([finder, each], **fields)


@pytest.mark.parametrize(
    ("kind", "wrong", "told"),
    [
        ("loop", "Yes, it is good.", "the output of 'finder' has no field 'approved'"),
        ("loop", '{"approved": "true"}', "is the text 'true', and neither true nor false"),
        ("list", f"```json\n{GOOD}\n```", "the output of 'finder' has no field 'rows'"),
        ("list", '{"rows": "a, b"}', "is the text 'a, b', and no list"),
    ],
)
async def test_an_answer_that_the_next_step_can_not_use_goes_back(
    make_crew: Make, kind: str, wrong: str, told: str
) -> None:
    async with FakeModel([wrong, GOOD]) as model:
        crew = await made(make_crew, kind, model, retries=1)
        async with crew.in_process():
            await crew.submit("r")
            run = await crew.run_result("r", timeout=300)
        assert told in model.requests[1].prompt
    assert (run.status, run.error) == (RunState.COMPLETED, None)
    assert run.output == (GOOD if kind == "loop" else ["A", "B"])


@pytest.mark.parametrize(
    ("kind", "step", "why"),
    [
        ("loop", "finder@1", "the output of 'finder' has no field 'approved'"),
        ("list", "finder", "the output of 'finder' has no field 'rows'"),
    ],
)
async def test_an_answer_that_is_not_corrected_fails_its_own_step_and_is_asked_for_again_by_a_replay(
    make_crew: Make, kind: str, step: str, why: str
) -> None:
    async with FakeModel(["no", GOOD]) as model:
        crew = await made(make_crew, kind, model)
        async with crew.in_process():
            await crew.submit("r")
            run = await crew.run_result("r", timeout=300)
            assert run.status is RunState.FAILED
            assert f"its answer is of no use, once: {why}" in (run.error or "")
            await crew.client.replay(crew.name, f"r/{step}")
            run = await crew.run_result("r", timeout=300)
        assert len(model.requests) == 2
    assert (run.status, run.error) == (RunState.COMPLETED, None)
