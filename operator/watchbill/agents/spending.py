"""The one place where a request to a model goes out: `Metered` asks the crew's budgets before it, and tells the cost
after it.

Each model that an agent may ask is wrapped by itself, so those that stand in for another count like the first. A worker
gives the `Spending`; an agent without one, as in a test, asks its model as it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Protocol, cast

from pydantic_core import to_json

from watchbill import metrics
from watchbill.agents import model_errors, model_requests, prices
from watchbill.agents.context import Context
from watchbill.agents.prices import Prices
from watchbill.errors import needed
from watchbill.plan.budget import NANO, Amount

with needed("LLMAgent", "llm"):
    from pydantic_ai.exceptions import ModelHTTPError, ModelQuotaExceededError
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import RunContext
    from pydantic_ai.usage import RequestUsage

MAX_TOKENS: Final = 4096
"""Bound of an answer where a budget binds the agent and its config has no `max_tokens`."""
_READ: Final = ("content", "tool_name", "tool_call_id", "args", "signature", "id")
"""The fields of a part that a model reads."""
PAUSE_SECONDS: Final = 1.0
"""The pause after an answer with status 429 that names none."""
_TOO_MANY: Final = 429
_PER_PART: Final = 32
_PER_FILE: Final = 20_000
"""Tokens of an image, or of a file that is named by its URL."""


Estimate = Callable[[Prices], tuple[Amount, bool]]
"""Returns what a request may cost at most by these prices, and whether the price of its model is known."""


class Reserved(Protocol):
    """A request that may be made."""

    @property
    def call(self) -> str:
        """An id that no other request of the crew has."""
        ...

    @property
    def is_bounded(self) -> bool:
        """Budgets bind it, by the estimate of its cost."""
        ...

    @property
    def prices(self) -> Prices:
        """The crew's own."""
        ...

    def settle(self, cost: Amount | None) -> None:
        """The request has ended. None: what it did cost is not known, so what was reserved counts."""
        ...

    def pause(self, seconds: float) -> None:
        """The provider has asked not to be asked for so long: no worker of the crew asks this model meanwhile."""
        ...


class Spending(Protocol):
    """The budgets that bind one attempt of a task."""

    async def reserve(self, model: str, estimate: Estimate, *, in_batch: bool = False) -> Reserved:
        """Waits until the request may be made, for a while. Raises Postponed when its task is to wait for longer,
        BudgetExhausted when it fails. `in_batch`: it goes by a batch, and may be under way for a day."""
        ...


def metered(model: Model, name: str, context: Context) -> Model:
    """The model, whose requests observe the budgets that bind the agent. `name`: as the crew has it."""
    return model if context.spending is None else Metered(model, name, context.spending, context.crew)


class Metered(WrapperModel):
    """A model whose requests are reserved, made and settled one by one."""

    def __init__(self, wrapped: Model, name: str, spending: Spending, crew: str) -> None:
        super().__init__(wrapped)
        self._name = name
        self._spending = spending
        self._labels = model_requests.labels(crew, name)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        async with self._reserved(messages, model_settings, model_request_parameters) as made:
            response = await self.wrapped.request(messages, made.settings, model_request_parameters)
            made.usage = response.usage
            return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        async with (
            self._reserved(messages, model_settings, model_request_parameters) as made,
            self.wrapped.request_stream(messages, made.settings, model_request_parameters, run_context) as stream,
        ):
            yield stream
            if stream.get().finish_reason is not None:  # else it broke off, before the provider counted all of it
                made.usage = stream.usage

    @asynccontextmanager
    async def _reserved(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> AsyncIterator[_Made]:
        writes, estimate = estimated(self._name, messages, settings, parameters)
        reserved = await self._spending.reserve(self._name, estimate)
        if reserved.is_bounded:
            settings = cast("ModelSettings", {**(settings or {}), "max_tokens": writes})
        made, cost = _Made(settings), None
        try:
            yield made
            cost = self._cost(made.usage, reserved.prices)
        except Exception as error:
            cost = Amount() if _cost_nothing(error) else None
            if model_errors.status(error) == _TOO_MANY and not isinstance(error, ModelQuotaExceededError):
                now = datetime.now(UTC)  # noqa: TID251 - a provider may say until when to wait
                asked = model_errors.wait_of(error, now)
                reserved.pause(PAUSE_SECONDS if asked is None else asked)
            raise
        finally:
            reserved.settle(cost)

    def _cost(self, usage: RequestUsage | None, own: Prices) -> Amount | None:
        """None: the provider has not said what it has counted."""
        if usage is None or not usage.total_tokens:
            return None
        nano = prices.cost(self._name, usage, own)
        if nano is not None and self._name in own:
            usage.cost = Decimal(nano) / NANO  # traces have the crew's price, too
        if nano:
            metrics.MODEL_COST.labels(*self._labels).inc(nano / NANO)
        return Amount(usage.total_tokens, nano or 0)


def estimated(
    name: str,
    messages: list[ModelMessage],
    settings: ModelSettings | None,
    parameters: ModelRequestParameters,
    *,
    in_batch: bool = False,
) -> tuple[int, Estimate]:
    """Returns the tokens that the answer may have at most, and what estimates the cost of the request."""
    writes = (settings or {}).get("max_tokens") or MAX_TOKENS

    def estimate(own: Prices) -> tuple[Amount, bool]:
        reads = _input_bound(messages, parameters)
        nano = prices.most(name, reads, writes, own, in_batch=in_batch)
        return Amount(reads + writes, nano or 0), nano is not None

    return writes, estimate


@dataclass(slots=True)
class _Made:
    """A request, with the settings that it goes out with, and what its answer says of its cost."""

    settings: ModelSettings | None
    usage: RequestUsage | None = None


def _input_bound(messages: list[ModelMessage], parameters: ModelRequestParameters) -> int:
    """As many tokens as a model may count at most when it reads these messages and tools.

    Without its tokenizer, which providers don't publish, each byte counts as a token: tokenizers of models begin with
    bytes, and join them. `_PER_PART` stands for what the provider puts between the parts.
    """
    size = 0
    for message in messages:
        size += _bytes(getattr(message, "instructions", None)) + _PER_PART
        size += sum(_bytes(getattr(part, name, None)) for part in message.parts for name in _READ)
        size += _PER_PART * len(message.parts)
    for tool in (*parameters.function_tools, *parameters.output_tools):
        size += _bytes(tool.name) + _bytes(tool.description) + _bytes(tool.parameters_json_schema) + _PER_PART
    if parameters.output_object is not None:
        size += _bytes(parameters.output_object.json_schema) + _PER_PART
    return size


def _bytes(content: Any) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return len(content.encode("utf-8", "replace"))
    if isinstance(content, list | tuple):  # of texts, images and files
        return sum(_bytes(item) if isinstance(item, str) else max(_bytes(item), _PER_FILE) for item in content)
    return len(to_json(content, bytes_mode="base64", fallback=str))


def _cost_nothing(error: Exception) -> bool:
    """True if the provider has refused the request, or never got it. Else it may have done the work in vain."""
    if isinstance(error, ModelHTTPError):
        return error.status_code < 500 or error.status_code == 503
    return model_errors.never_sent(error)
