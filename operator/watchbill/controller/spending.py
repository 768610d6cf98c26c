"""Reads how much of a crew's budgets is spent, for its status and the metrics of the operator."""

from __future__ import annotations

import redis.asyncio

from watchbill import metrics
from watchbill.names import CrewKeys
from watchbill.plan.budget import Seen, states
from watchbill.records import CrewDefinition
from watchbill.store import budgets


async def read(client: redis.asyncio.Redis, keys: CrewKeys, definition: CrewDefinition | None) -> Seen:
    """Returns the states of the crew's budgets. A crew without budgets costs no trip to the store."""
    if definition is None or not definition.budgets:
        metrics.BUDGETS.remove(keys.crew)
        return Seen()
    found = await budgets.counted(client, keys)
    seen = states(definition.budgets, found.counters, found.now_ms)
    figures: dict[str, tuple[float, bool]] = {}
    for one in seen:
        share, exhausted = figures.get(one.budget.name, (0.0, False))
        figures[one.budget.name] = (max(share, one.share), exhausted or one.is_exhausted)
    metrics.BUDGETS.show(keys.crew, figures)
    return Seen(seen, found.now_ms)
