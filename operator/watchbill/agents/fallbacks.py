"""Models that stand in for each other: the next one is asked when one is out, or refuses to answer.

No model is asked twice for one step of a conversation, and none again in the same attempt after it has failed. What
all of them can't do now, the queue has done again later, beginning with the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from watchbill.agents import model_errors, providers
from watchbill.agents.context import Context
from watchbill.errors import Postponed, WatchbillError, needed

with needed("LLMAgent", "llm"):
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.exceptions import (
        ContentFilterError,
        ModelContextWindowExceededError,
        ModelRequestRejectedError,
        RetryModelRequest,
        UsageLimitExceeded,
    )
    from pydantic_ai.messages import ModelResponse
    from pydantic_ai.models import Model, ModelRequestContext
    from pydantic_ai.tools import RunContext

_REFUSAL: Final = "content_filter"
_BAD_REQUEST: Final = frozenset({400, 405, 406, 411, 413, 414, 415, 422})
"""Statuses of a request that is wrong in itself. Others, such as 401 and 404, are of this model or its server."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be asked."""

    name: str
    """As the crew has it: `provider:name`."""
    base_url: str | None
    """As the crew has it."""
    model: Model


@dataclass(frozen=True, slots=True)
class Failed:
    """A model that was asked and did not answer."""

    candidate: Candidate
    error: Exception


def may_help(error: Exception) -> bool:
    """Returns whether another model may answer what this one did not: not if the request itself is wrong."""
    if isinstance(
        error, WatchbillError
    ):  # it was not asked: for want of a budget, or its provider has asked for a pause
        return isinstance(error, Postponed) and error.of_model
    if isinstance(error, UsageLimitExceeded):
        return False
    if isinstance(error, ModelContextWindowExceededError):
        return True  # another's may be larger
    status = model_errors.status(error)
    if status is not None:
        return status not in _BAD_REQUEST
    return not isinstance(error, ModelRequestRejectedError)


class Fallbacks(AbstractCapability[None]):
    """Asks the models of one run, one after the other. Belongs to this run."""

    def __init__(self, context: Context, candidates: Sequence[Candidate]) -> None:
        self._context = context
        self._candidates = candidates
        self._at = 0
        self.failed: list[Failed] = []
        """The failures so far, in order; the last one may be what ends the run."""
        self.refused = 0
        """Answers that were refused and asked of another model: they cost what they cost."""

    @property
    def current(self) -> Candidate:
        """The model that is asked now."""
        return self._candidates[self._at]

    async def before_model_request(
        self, ctx: RunContext[None], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        request_context.model = self.current.model  # one that has failed is not asked at the next step either
        return request_context

    async def on_model_request_error(
        self, ctx: RunContext[None], *, request_context: ModelRequestContext, error: Exception
    ) -> ModelResponse:
        self.failed.append(Failed(self.current, error))
        if self._at + 1 < len(self._candidates) and may_help(error):
            raise await self._next()
        raise error

    async def after_model_request(
        self, ctx: RunContext[None], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        # A streamed answer has been told already.
        if response.finish_reason == _REFUSAL and not request_context.streaming:
            self.failed.append(Failed(self.current, ContentFilterError("the provider's content filter stopped it")))
            if self._at + 1 < len(self._candidates):
                self.refused += 1
                raise await self._next()
        return response

    async def _next(self) -> RetryModelRequest:
        was, self._at = self.failed[-1], self._at + 1
        why = model_errors.brief(was.error)
        text = f"model {was.candidate.name!r} did not answer ({why}): asking {self.current.name!r}"
        self._context.logger.warning("%s", text)
        await self._context.emit(text)
        return RetryModelRequest(self.current.model)

    @property
    def said(self) -> str:
        """The model that is asked now, as errors name it."""
        return model_errors.shown(self.current.name, providers.server(self.current.name, self.current.base_url))

    def explain(self, error: Exception, request_limit: int, now: datetime) -> WatchbillError:
        """The error to raise instead of what ended the run. It tells of all models that were asked in vain."""
        asked = [Failed(self.current, error)]
        if self.failed and (error is self.failed[-1].error or isinstance(error, ContentFilterError)):
            asked = [*self.failed[:-1], *asked]
        return model_errors.together([_explained(each, request_limit, now) for each in asked])

    def tell(self) -> None:
        """Adds to the result which models have failed, and which one answered last."""
        if self._at == 0:
            return
        tried = {each.candidate.name: model_errors.brief(each.error) for each in self.failed}
        try:
            self._context.annotate("models_failed", tried)
        except ValueError:  # too long for a note: the feed has the reasons
            self._context.annotate("models_failed", len(tried))
        self._context.annotate("model", self.current.name)


def _explained(failed: Failed, request_limit: int, now: datetime) -> WatchbillError:
    name, base_url = failed.candidate.name, failed.candidate.base_url
    without_key = providers.without_key(name, base_url)
    return model_errors.explain(failed.error, name, providers.server(name, base_url), request_limit, now, without_key)
