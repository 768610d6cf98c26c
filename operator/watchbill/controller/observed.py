"""Brings metrics of the operator up to date at a scrape: those that nothing else does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import redis.asyncio

from watchbill import metrics
from watchbill.api.conditions import ConditionType
from watchbill.controller.cache import Cache
from watchbill.controller.quotas import Quotas
from watchbill.store import memory


def show_stalled(cache: Cache) -> None:
    """Counts the crews and heartbeats whose status says that they are stalled."""
    for kind, index in (("crews", cache.crews), ("heartbeats", cache.heartbeats)):
        metrics.STALLED.labels(kind).set(sum(_is_stalled(seen) for _, seen in index.items()))


async def show_memory(client: redis.asyncio.Redis) -> None:
    """Asks the store how full it is. Raises what `memory.used` does, and the last answer stays."""
    metrics.STORE_MEMORY.set(await memory.used(client))


def show_nothing() -> None:
    """Has the metrics show no crews, as of a process that reconciles none: what it knew of them may be long over."""
    metrics.QUEUES.clear()
    metrics.BUDGETS.clear()
    metrics.QUOTA.clear()
    metrics.WORKQUEUE_DEPTH.set(0)
    metrics.WORKQUEUE_OLDEST.set(0)
    metrics.LEADER.set(0)


def _is_stalled(seen: Mapping[str, Any]) -> bool:
    conditions: Iterable[Mapping[str, Any]] = (seen.get("status") or {}).get("conditions", ())
    return any(c["type"] == ConditionType.STALLED and c["status"] == "True" for c in conditions)


def show_quotas(quotas: Quotas, *, leads: bool) -> None:
    """Shows how much namespaces with a quota have of it, on the replica that leads: no other knows what crews want."""
    metrics.QUOTA.clear()
    for namespace, resource, kind, number in quotas.figures() if leads else ():
        metrics.QUOTA.labels(namespace, resource, kind).set(number)
