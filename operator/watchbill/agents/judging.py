"""Judges the answer of a model by what it is for, while the model can correct it: a review must be a verdict, a manager
must have delegated, and what decides on the steps behind must be there.

An answer that ends its step is stored, and nobody asks for it again. Only what LLMAgent itself returns is judged here:
of a class that is built on it, what that returns counts, which is judged when its step has ended.
"""

from __future__ import annotations

from typing import Any, Final

from watchbill.agents import structured
from watchbill.agents.context import Context
from watchbill.api.models import LLM_AGENT
from watchbill.errors import needed

with needed("LLMAgent", "llm"):
    from pydantic_ai import ModelRetry

_FIX: Final = "Say in its systemPrompt what it must answer"


class Judge:
    """Judges the answers of one attempt."""

    def __init__(self, context: Context) -> None:
        is_plain = context.agent.agent_class in (*LLM_AGENT, "BasicAgent")
        self._team = context.team if is_plain else None
        self._demands = context.demands if is_plain else None
        self._own_schema = context.agent.output_schema
        self._said = ""
        self.schema = self._own_schema or (self._team.schema if self._team is not None else None)
        """The schema of the answer; None: it is text."""

    async def fitting(self, output: Any) -> Any:
        """Returns the answer. Raises ModelRetry, which tells the model why it can't be one."""
        try:
            if self._team is not None:
                self._team.judged(output)
            if self._demands is not None:
                self._demands.check(output)
        except ValueError as error:
            self._said = str(error)
            raise ModelRetry(self._said) from error
        return output

    def misfit(self, error: Exception) -> str | None:
        """The reason why the model has given no answer of use, after all its corrections; None for another error."""
        if self._said and self._said in str(error.__cause__):
            return structured.misfit(error, "is of no use", _FIX)
        if self._own_schema:
            return structured.misfit(error)
        return structured.misfit(error, "is no verdict", _FIX) if self.schema else None
