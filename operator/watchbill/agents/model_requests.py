"""Counts the requests to models: how they ended, how long they took, and the tokens that they cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from watchbill import metrics
from watchbill.agents import model_errors
from watchbill.clock import SYSTEM, Clock
from watchbill.errors import needed

with needed("LLMAgent", "llm"):
    from pydantic_ai.exceptions import (
        ModelAPIError,
        ModelQuotaExceededError,
        ModelRequestRejectedError,
        ModelRequestTimeout,
    )
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, parse_model_id
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import RunContext

_BUSY: Final = frozenset({408, 409})
_RETRIES: Final = "max_retries"
_GRACE_SECONDS: Final = 1.0
"""The time behind `timeout` for the provider's library, which knows whether the request was sent, to tell of it."""


def labels(crew: str, name: str) -> tuple[str, str, str, str]:
    """Returns the labels of a crew's model: namespace, crew, provider, model. `name`: `provider:name`, as the crew has
    it."""
    of_crew = metrics.of_crew(crew)
    provider, model = parse_model_id(metrics.MODELS.shown(of_crew, name))
    return (*of_crew, provider or model, model)


class Counted(WrapperModel):
    """A model each of whose requests is counted, also of those that another model is asked instead."""

    def __init__(self, wrapped: Model, crew: str, name: str, clock: Clock = SYSTEM) -> None:
        """`crew`: `namespace/name`. `name`: `provider:name`, as the crew has it."""
        super().__init__(wrapped)
        self._labels = labels(crew, name)
        self._clock = clock
        self._began = 0.0

    def prepare_request(
        self, model_settings: ModelSettings | None, model_request_parameters: ModelRequestParameters
    ) -> tuple[ModelSettings | None, ModelRequestParameters]:
        if model_settings and _RETRIES in model_settings and _RETRIES in self.wrapped.unsupported_settings:
            model_settings = {k: v for k, v in model_settings.items() if k != _RETRIES}  # type: ignore[assignment]
        return super().prepare_request(model_settings, model_request_parameters)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        async with self._counted() as answers:
            async with self._within_timeout(model_settings):
                response = await super().request(messages, model_settings, model_request_parameters)
            answers.append(response)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        async with self._counted() as answers:
            self._began = self._clock.monotonic()
            stream = super().request_stream(messages, model_settings, model_request_parameters, run_context)
            async with self._within_timeout(model_settings), stream as streamed:
                yield streamed
            answers.append(streamed.get())

    @asynccontextmanager
    async def _within_timeout(self, settings: ModelSettings | None) -> AsyncGenerator[None]:
        """Ends the whole request by `timeout` of the config: libraries bound each wait for bytes by that, so an answer
        that dribbles would never end. What pydantic-ai offers for it, it counts from before a budget's wait."""
        seconds = (settings or {}).get("timeout")
        if not isinstance(seconds, int | float):
            yield
            return
        try:
            async with asyncio.timeout(seconds + _GRACE_SECONDS) as whole:
                yield
        except TimeoutError:
            if not whole.expired():
                raise
            raise ModelRequestTimeout(self.model_name, seconds) from None

    def note_first(self) -> None:
        """Observes the time to the first part of the answer that is being streamed."""
        metrics.MODEL_FIRST_TIME.labels(*self._labels).observe(self._clock.monotonic() - self._began)

    @asynccontextmanager
    async def _counted(self) -> AsyncGenerator[list[ModelResponse]]:
        """Counts one request; its block adds the whole answer to what it is given."""
        began, outcome = self._clock.monotonic(), "cancelled"
        answers: list[ModelResponse] = []
        try:
            yield answers
            outcome = "completed"
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            metrics.MODEL_REQUESTS.labels(*self._labels, outcome).inc()
        metrics.MODEL_TIME.labels(*self._labels).observe(self._clock.monotonic() - began)
        for response in answers:
            metrics.MODEL_TOKENS.labels(*self._labels, "input").inc(response.usage.input_tokens)
            metrics.MODEL_TOKENS.labels(*self._labels, "output").inc(response.usage.output_tokens)


def _outcome(error: Exception) -> str:
    """Returns why a request failed. docs/metrics.md lists the words."""
    status = model_errors.status(error)
    if isinstance(error, ModelQuotaExceededError | ModelRequestRejectedError):
        return "refused"
    if status is None:
        return "unreachable" if isinstance(error, ModelAPIError) else "unusable"
    if status == 429:
        return "rate-limited"
    return "unavailable" if status >= 500 or status in _BUSY else "refused"
