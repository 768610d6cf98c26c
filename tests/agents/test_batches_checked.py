"""Agents whose requests can't go by batches are told so before they begin."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai.usage import RequestUsage

from watchbill.agents import AgentLoader, prices
from watchbill.agents.llm import LLMAgent
from watchbill.api.batches import Batch
from watchbill.api.budgets import Price
from watchbill.errors import Problem
from watchbill.plan import budget
from watchbill.records import AgentDefinition, CrewDefinition

BATCH = Batch.model_validate({"maxWaitSeconds": 60})


class Apart(LLMAgent):
    runs_in = "process"


def problems(**fields: Any) -> list[Problem]:
    agent = AgentDefinition(agent_id="a", batch=BATCH, **fields)
    return AgentLoader().check(CrewDefinition(name="crew", agents=[agent]))


@pytest.mark.parametrize("model", ["openai:gpt-5-mini", "openai-responses:any", "anthropic:claude-sonnet-5-5"])
def test_models_with_batches(model: str) -> None:
    assert problems(model=model) == []


@pytest.mark.parametrize(
    ("fields", "reason", "fix"),
    [
        ({"model": "test"}, "has no batches", "Remove batch"),
        ({"model": "openai-chat:gpt-5-mini"}, "has no batches", "OpenAI's Responses API"),
        ({"model": "openai:any", "base_url": "http://127.0.0.1:1/v1"}, "chat completions", "openai-responses:any"),
        ({"agent_class": "EchoAgent"}, "doesn't use batch", "LLMAgent"),
    ],
)
def test_others_are_refused(fields: dict[str, Any], reason: str, fix: str) -> None:
    [problem] = problems(**fields)
    assert problem.path == "spec.agents[0].batch"
    assert reason in problem.reason
    assert fix in problem.fix


def test_a_process_of_its_own_has_no_way_to_batches() -> None:
    agent = AgentDefinition(agent_id="a", model="openai:gpt-5-mini", batch=BATCH)
    [problem] = Apart.check(agent, {})
    assert problem.path == "batch"
    assert "a process of its own" in problem.reason


@pytest.mark.parametrize(("percent", "in_batch"), [(None, 18), (100, 35), (33, 12), (0, 0)])
def test_a_price_of_the_crews_own_says_what_a_request_in_a_batch_costs(percent: int | None, in_batch: int) -> None:
    known = {"model": "openai:own", "inputUSDPerMillion": "0.003", "outputUSDPerMillion": "0.01"}
    own = budget.prices([Price.model_validate(known if percent is None else {**known, "batchPercent": percent})])
    assert [prices.most("openai:own", 5, 2, own, in_batch=batch) for batch in (False, True)] == [35, in_batch]
    usage = RequestUsage(input_tokens=5, output_tokens=2)
    assert [prices.cost("openai:own", usage, own, in_batch=batch) for batch in (False, True)] == [35, in_batch]
