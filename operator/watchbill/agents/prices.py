"""Prices requests to models: by the crew's own prices, else by the data of genai-prices, which are part of that
package. Makes no request."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Final

from watchbill.errors import needed
from watchbill.plan.budget import NANO, TokenPrice

with needed("LLMAgent", "llm"):
    from genai_prices import Usage, calc_price
    from pydantic_ai.models import parse_model_id
    from pydantic_ai.usage import RequestUsage

Prices = Mapping[str, TokenPrice]
"""A crew's own prices, by model."""

_BATCH: Final = {"processing": "batch"}
_BATCH_SHARE: Final = Decimal("0.5")
"""The part of its price that a request by a batch costs, where no price of batches is known."""


def most(model: str, input_tokens: int, output_tokens: int, own: Prices, *, in_batch: bool = False) -> int | None:
    """The highest cost of a request, in nano-dollars; None: the price of the model is not known. `in_batch`: it goes by
    a batch."""
    if (price := own.get(model)) is not None:
        return _own(price, input_tokens, output_tokens, in_batch)
    plain = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    kept = Usage(input_tokens=input_tokens, output_tokens=output_tokens, cache_write_tokens=input_tokens)
    found = [_known(model, usage, in_batch) for usage in (plain, kept)]  # to fill a cache may cost more than to read
    return max((nano for nano in found if nano is not None), default=None)


def cost(model: str, usage: RequestUsage, own: Prices, *, in_batch: bool = False) -> int | None:
    """The cost of a request that was made, in nano-dollars; None: it is not known. `in_batch`: it went by a batch."""
    if (price := own.get(model)) is not None:
        return _own(price, usage.input_tokens, usage.output_tokens, in_batch)
    return _known(model, usage, in_batch)


def _own(price: TokenPrice, input_tokens: int, output_tokens: int, in_batch: bool) -> int:
    nano = input_tokens * price.reads + output_tokens * price.writes
    return -(-nano * price.batch_percent // 100) if in_batch else nano


def _known(model: str, usage: Usage | RequestUsage, in_batch: bool) -> int | None:
    provider, name = parse_model_id(model)
    try:
        dollars = calc_price(usage, name, provider_id=provider).total_price
        if in_batch:
            of_batch = calc_price(usage, name, provider_id=provider, price_context=_BATCH).total_price
            dollars = of_batch if of_batch < dollars else dollars * _BATCH_SHARE
    except (LookupError, ValueError):  # no such model; or its price has no part for such tokens
        return None
    return _rounded(dollars * NANO)


def _rounded(nano: Decimal) -> int:
    return int(nano.to_integral_value(ROUND_CEILING))
