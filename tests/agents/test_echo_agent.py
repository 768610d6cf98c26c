from __future__ import annotations

import asyncio

import pytest

from watchbill import testing
from watchbill.agents import AgentLoader
from watchbill.records import AgentDefinition, CrewDefinition

pytestmark = pytest.mark.pure


def crew_of(**config: object) -> CrewDefinition:
    return CrewDefinition(
        name="crew", agents=[AgentDefinition(agent_id="echo", agent_class="EchoAgent", config=config)]
    )


async def test_the_echo_agent_returns_its_prompt() -> None:
    crew = crew_of()
    assert await AgentLoader().load(crew, crew.agents[0]).run(testing.context(prompt="hello")) == "hello"


async def test_the_echo_agent_takes_as_long_as_it_is_told() -> None:
    crew = crew_of(delay_seconds=3600)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(AgentLoader().load(crew, crew.agents[0]).run(testing.context()), 0.05)


@pytest.mark.parametrize("delay", [-1, "long", float("inf")])
def test_a_delay_that_is_none_is_refused(delay: object) -> None:
    [problem] = AgentLoader().check(crew_of(delay_seconds=delay))
    assert problem.path == "spec.agents[0].config.delay_seconds"
    assert repr(delay) in problem.reason
