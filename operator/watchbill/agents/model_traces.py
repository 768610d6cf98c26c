"""Spans of requests to models and of the tools that these call, by pydantic-ai, while tracing is on."""

from __future__ import annotations

import functools
from typing import Any

from watchbill import tracing
from watchbill.errors import needed

with needed("LLMAgent", "llm"):
    from pydantic_ai.capabilities import AbstractCapability, Instrumentation
    from pydantic_ai.models.instrumented import InstrumentationSettings


class _Spans(Instrumentation):
    """Below the conversation's checkpoints, so that a turn which an attempt before has made is no request again."""

    def get_ordering(self) -> Any:
        """Returns none: as they are listed, and not outermost."""
        return None


def capabilities() -> list[AbstractCapability[Any]]:
    """Returns what makes the spans of one run of an agent; nothing while tracing is off."""
    traces = tracing.active
    return [] if traces is None else [_Spans(_settings(traces.provider, traces.content))]


@functools.lru_cache(2)
def _settings(provider: Any, content: bool) -> InstrumentationSettings:
    return InstrumentationSettings(
        tracer_provider=provider,
        include_content=content,
        include_binary_content=False,
        include_model_request_parameters=False,  # instructions are among them
        version=5,
    )
