"""Outputs of LLMAgent that must fit a JSON Schema, against a real HTTP server, by both of OpenAI's APIs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asking import BOTH, ask, crew_of, failure
from loading_support import Write

from watchbill import testing
from watchbill.agents import AgentLoader, aclose_clients
from watchbill.agents.calculator import calculator
from watchbill.errors import TaskFailed, UserActionRequired
from watchbill.local import run_file
from watchbill.tasks import RunResult, Usage
from watchbill.testing import CutOff, FakeModel, ToolCall

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "total": {"type": "integer", "minimum": 0},
        "day": {"type": "string", "format": "date"},
        "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}},
    },
    "required": ["total"],
    "additionalProperties": False,
    "$defs": {"row": {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}},
}
GOOD = {"total": 3, "day": "2026-01-31", "rows": [{"price": 1.5}]}


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


def final(value: dict[str, Any]) -> ToolCall:
    return ToolCall("final_result", value)


@BOTH
async def test_the_output_is_the_validated_object_and_the_model_is_shown_the_schema(prefix: str) -> None:
    async with FakeModel([ToolCall("calculator", {"expression": "1 + 2"}), final(GOOD)]) as model:
        context = testing.context(tools={"calculator": calculator})
        output = await ask(
            context=context, model=f"{prefix}:any", base_url=model.base_url, output_schema=SCHEMA, tools=["calculator"]
        )
    assert output == GOOD
    assert sorted(model.requests[0].tools) == ["calculator", "final_result"]
    [shown] = [tool for tool in model.requests[0].body["tools"] if "final_result" in str(tool)]
    parameters = shown.get("function", shown)["parameters"]
    assert parameters["properties"]["total"] == {"type": "integer", "minimum": 0}


@BOTH
async def test_what_does_not_fit_is_told_to_the_model_which_may_mend_it(prefix: str) -> None:
    wrong: list[dict[str, Any]] = [{"total": "three", "rows": [{"price": 1}, {}]}, {"total": 3, "day": "tomorrow"}]
    async with FakeModel([final(wrong[0]), final(wrong[1]), final(GOOD)]) as model:
        context = testing.context()
        output = await ask(context=context, model=f"{prefix}:any", base_url=model.base_url, output_schema=SCHEMA)
    assert output == GOOD
    first, second = model.requests[2].tool_results
    assert "output.total: 'three' is not of type 'integer'" in first
    assert "output.rows[1]: 'price' is a required property" in first
    assert "output.day: 'tomorrow' is not a 'date'" in second
    assert context.usage == Usage(input_tokens=30, output_tokens=15, requests=3)


@BOTH
async def test_text_in_place_of_the_object_is_asked_for_again(prefix: str) -> None:
    async with FakeModel(["It is three.", final(GOOD)]) as model:
        assert await ask(model=f"{prefix}:any", base_url=model.base_url, output_schema=SCHEMA) == GOOD


@BOTH
@pytest.mark.parametrize(("answer", "said"), [(final({"total": -1}), "output.total: -1 is less than"), ("three", "")])
async def test_a_model_that_never_fits_the_schema_fails_the_task_by_name(
    prefix: str, answer: ToolCall | str, said: str
) -> None:
    async with FakeModel(lambda _: answer) as model:
        error = await failure(
            model=f"{prefix}:any", base_url=model.base_url, output_schema=SCHEMA, config={"output_retries": 1}
        )
    assert type(error) is TaskFailed
    assert (
        f"model '{prefix}:any' at {model.base_url}: its answer doesn't fit the agent's outputSchema, 2 times: "
        in str(error)
    )
    assert said in str(error)
    assert "output_retries" in str(error)
    assert len(model.requests) == 2


async def test_an_object_that_is_cut_off_is_told_as_such() -> None:
    async with FakeModel([CutOff("")]) as model:
        error = await failure(base_url=model.base_url, output_schema=SCHEMA)
    assert type(error) is UserActionRequired
    assert "max_tokens" in str(error)


@pytest.mark.pure
def test_a_class_that_asks_no_model_takes_no_schema(write: Write) -> None:
    folder = write("team", plain="class Plain:\n    def run(self, context): return 1\n")
    crew = crew_of(None, agent_class="plain:Plain", output_schema=SCHEMA)
    [problem] = AgentLoader([folder]).check(crew)
    assert (problem.path, problem.fix) == ("spec.agents[0].outputSchema", "Remove it, or use the class LLMAgent.")


async def test_the_next_step_gets_the_object(tmp_path: Path) -> None:
    async with FakeModel([final({"total": 7}), "seven"]) as model:
        (tmp_path / "crew.yaml").write_text(
            "apiVersion: watchbill.dev/v1alpha1\nkind: Crew\nmetadata: {name: c}\nspec:\n"
            f"  baseURL: {model.base_url}\n  model: openai:any\n  agents:\n"
            "    - name: count\n      outputSchema:\n        type: object\n"
            "        properties: {total: {type: integer}}\n        required: [total]\n"
            "    - {name: say, prompt: 'Say {steps.count} in words.'}\n"
        )
        result = await run_file(tmp_path / "crew.yaml", "hi")
    assert isinstance(result, RunResult)
    assert model.requests[1].prompt == 'Say {\n  "total": 7\n} in words.'
    assert result.output == "seven"
    assert result.steps["count"].output == {"total": 7}
