"""Calls of providers' batch APIs that pydantic-ai has none for: finds a batch that may have been sent, and counts what
an answer did cost."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from watchbill.agents import model_errors, prices
from watchbill.agents.prices import Prices
from watchbill.errors import needed

with needed("LLMAgent", "llm"):
    from pydantic_ai.exceptions import ModelAPIError, UserError
    from pydantic_ai.models import Model
    from pydantic_ai.models.batch import Batch, BatchRequest, BatchResult
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.usage import RequestUsage

HANDLE: Final[TypeAdapter[Batch]] = TypeAdapter(Batch)
_SKEW: Final = timedelta(minutes=10)
"""The difference, at most, between the clocks of the store and of a provider."""
_NOT_NOW: Final = frozenset({408, 409, 425, 429})


async def find(
    model: Model, shared: str, ids: Collection[str], since: datetime, known: Collection[str]
) -> Batch | Literal["unsure"] | None:
    """Returns the batch with these requests that the provider has got, although its answer was lost; None: it has got
    none. `known`: the provider's ids of other batches; `since` (aware): the first time at which it was sent.

    Anthropic tells only of an ended batch which requests it has. While one that may be ours has not ended, this returns
    `unsure`.
    """
    is_openai = isinstance(model, OpenAIResponsesModel)
    client: Any = model.client  # type: ignore[attr-defined]  # of the two providers' models
    listed = client.batches.list(limit=100) if is_openai else client.beta.messages.batches.list(limit=100)
    unsure = False
    async for one in listed:  # the newest first
        created = datetime.fromtimestamp(one.created_at, since.tzinfo) if is_openai else one.created_at
        if created < since - _SKEW:
            break
        counts = one.request_counts.model_dump() if one.request_counts else {}
        total = counts.get("total", 0) if is_openai else sum(counts.values())
        if one.id in known or (total and total != len(ids)):
            continue
        if not is_openai and one.processing_status != "ended":
            unsure = True
            continue
        first = await (_first_of_file(client, one) if is_openai else _first_result(client, one))
        if first in ids:
            return Batch(
                id=one.id,
                model_name=model.model_name,
                provider_name=model.system,
                group=shared,
                status="in_progress",
                created_at=created,
                request_count=len(ids),
            )
    return "unsure" if unsure else None


async def _first_of_file(client: Any, batch: Any) -> str | None:
    """The id of the first request, by the file that was sent; None: it is gone."""
    from openai import NotFoundError

    try:
        text: str = (await client.files.content(batch.input_file_id)).text
        return str(json.loads(text.split("\n", 1)[0]).get("custom_id"))
    except (NotFoundError, ValueError):
        return None


async def _first_result(client: Any, batch: Any) -> str | None:
    async for item in await client.beta.messages.batches.results(batch.id):
        return str(item.custom_id)
    return None


async def cancel(model: Model, batch: Batch) -> None:
    """Tells the provider that nobody waits for this batch. It may be too late for that, which changes nothing."""
    with suppress(ModelAPIError):
        await model.batch_cancel(batch)


def is_refused(error: Exception) -> bool:
    """Returns whether a batch was not made, and will not be if it is sent again."""
    status = model_errors.status(error)
    return isinstance(error, UserError) or (status is not None and 400 <= status < 500 and status not in _NOT_NOW)


def is_unsent(error: Exception) -> bool:
    """Returns whether a batch was surely not made, and may be if it is sent again."""
    return model_errors.status(error) == 429


def is_lost(error: Exception) -> bool:
    """Returns whether the provider doesn't know the batch."""
    return isinstance(error, ModelAPIError) and model_errors.status(error) == 404


def cost(model: Model, name: str, result: BatchResult, own: Prices) -> tuple[RequestUsage | None, int | None]:
    """Returns what an answer has counted, and what that did cost in nano-dollars; None: it is not known. `name`: of the
    model, as the crew has it."""
    if result.status != "succeeded":
        return RequestUsage(), 0
    try:
        usage = model.batch_decode(result, BatchRequest(custom_id=result.custom_id, messages=[])).usage
    except Exception:  # an answer of another form: its task will say so
        return None, None
    if not usage.total_tokens:
        return None, None
    return usage, prices.cost(name, usage, own, in_batch=True)
