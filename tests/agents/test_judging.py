"""Answers that are judged while their model can correct them: of LLMAgent, and not of classes that are built on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from watchbill.agents import aclose_clients
from watchbill.agents.llm import LLMAgent, LLMConfig
from watchbill.agents.team import Team
from watchbill.plan.demands import Demands
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.testing import Answer, FakeModel, ToolCall, context


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await aclose_clients()


async def answered(agent_class: str, *answers: Answer, team: bool = False, reviews: str = "") -> tuple[Any, int]:
    """What LLMAgent returns to an agent of that class, and how many requests it took."""
    crew = CrewDefinition.model_validate(
        {
            "name": "c",
            "execution_mode": "hierarchical",
            "hierarchy": {"manager": "lead", "reviewer": "critic"},
            "agents": [{"agent_id": "lead"}, {"agent_id": "critic"}, {"agent_id": "worker"}],
        }
    )
    async with FakeModel([*answers]) as model:
        agent = AgentDefinition(agent_id="lead", agent_class=agent_class, model="openai:any", base_url=model.base_url)
        given = context(agent=agent)
        if team:
            assert crew.hierarchy is not None
            step = "lead:1:review" if reviews else "lead"
            nobody: Any = None  # nothing is delegated
            given.team = Team(crew, crew.hierarchy, "lead", step, nobody, reviews=reviews)
        else:
            given.demands = Demands("lead", "done")
        output = await LLMAgent(LLMConfig(output_retries=1)).run(given)
        return output, len(model.requests)


@pytest.mark.parametrize("agent_class", ["LLMAgent", "watchbill.agents.llm:LLMAgent", "BasicAgent"])
async def test_what_a_model_itself_answers_is_judged(agent_class: str) -> None:
    assert await answered(agent_class, "Yes.", '{"done": true}') == ('{"done": true}', 2)
    verdict = ToolCall("final_result", {"approved": True})
    assert await answered(agent_class, "OK", verdict, team=True, reviews="worker") == ({"approved": True}, 2)


async def test_what_a_class_makes_of_the_answer_of_its_model_is_its_own_affair() -> None:
    """A critic may make its verdict of a text, and a manager delegate by its model's plan."""
    assert await answered("mine:Agent", "Yes.") == ("Yes.", 1)
    assert await answered("mine:Agent", "OK, well done", team=True, reviews="worker") == ("OK, well done", 1)
    assert await answered("mine:Agent", "do a\ndo b", team=True) == ("do a\ndo b", 1)
