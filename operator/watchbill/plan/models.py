"""The model that a person chooses for a whole crew, by `--model`. Pure."""

from __future__ import annotations

from typing import Any, Final

from watchbill.api import Crew
from watchbill.records import DEFAULT_CLASS

_BY_THE_CREW: Final[dict[str, Any]] = {"agent_class": DEFAULT_CLASS, "model": "", "config": {}}


def with_model(crew: Crew, model: str) -> Crew:
    """The crew with `model` as its default; agents that carry a systemPrompt become LLMAgents, and so does its
    synthesis."""
    agents = [agent.model_copy(update=_BY_THE_CREW) if agent.system_prompt else agent for agent in crew.spec.agents]
    synthesis = crew.spec.synthesis
    if synthesis is not None and synthesis.system_prompt:
        synthesis = synthesis.model_copy(update=_BY_THE_CREW)
    changed = {"agents": agents, "model": model, "synthesis": synthesis}
    return crew.model_copy(update={"spec": crew.spec.model_copy(update=changed)})
