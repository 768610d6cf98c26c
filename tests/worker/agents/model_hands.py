"""A language model in a process of its own."""

from __future__ import annotations

from watchbill.agents.llm import LLMAgent


class ModelApart(LLMAgent):
    """Asks its model from there."""

    runs_in = "process"
