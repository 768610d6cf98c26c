"""Agents that ask a fake model."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill import testing
from watchbill.agents import AgentLoader
from watchbill.errors import WatchbillError
from watchbill.records import AgentDefinition, CrewDefinition

BOTH = pytest.mark.parametrize("prefix", ["openai-chat", "openai-responses"])


def crew_of(model: str | None = "openai:any", **agent: Any) -> CrewDefinition:
    return CrewDefinition(name="crew", agents=[AgentDefinition(agent_id="guide", model=model, **agent)])


async def ask(
    prompt: str = "hi", *, context: testing.RecordingContext | None = None, model: str = "openai:any", **agent: Any
) -> Any:
    """What the agent answers, its definition having been found good."""
    crew = crew_of(model, **agent)
    loader = AgentLoader()
    assert loader.check(crew) == []
    return await loader.load(crew, crew.agents[0]).run(context or testing.context(prompt=prompt))


async def failure(**arguments: Any) -> WatchbillError:
    with pytest.raises(WatchbillError) as raised:
        await ask(**arguments)
    return raised.value
