"""Defaults that an agent has from its crew: the model, and the server of models of OpenAI's protocol."""

from __future__ import annotations

from typing import Any

from watchbill.api.models import OPENAI, ModelChoice
from watchbill.records import AgentDefinition, CrewDefinition


def filled(crew: CrewDefinition, agent: AgentDefinition) -> AgentDefinition:
    """The agent with the crew's defaults filled in."""
    model = agent.model or crew.model
    more: dict[str, Any] = {} if agent.model == model else {"model": model}
    if crew.base_url:
        if not agent.base_url and model and _is_asked_there(model):
            more["base_url"] = crew.base_url
        if agent.fallback_models:
            more["fallback_models"] = [_at(crew.base_url, choice) for choice in agent.fallback_models]
    return agent.model_copy(update=more) if more else agent


def _at(server: str, choice: ModelChoice) -> ModelChoice:
    if choice.base_url or not _is_asked_there(choice.model):
        return choice
    return choice.model_copy(update={"base_url": server})


def _is_asked_there(model: str) -> bool:
    """Returns whether a model that names no server is asked at the crew's."""
    return model.partition(":")[0] in OPENAI


def path(crew: CrewDefinition, agent: AgentDefinition, place: str, path: str) -> str:
    """The place of a problem of the agent at `place`: the crew's own field if the value is from there."""
    if path == "model" and agent.model is None and crew.model is not None:
        return "spec.model"
    if path == "baseURL" and agent.base_url is None and crew.base_url is not None:
        return "spec.baseURL"
    return f"{place}.{path}"
