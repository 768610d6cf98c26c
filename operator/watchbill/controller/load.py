"""Makes the load that plans depend on from a crew's figures."""

from __future__ import annotations

from watchbill.plan import replicas
from watchbill.store.figures import Figures


def of(now: Figures) -> replicas.Load:
    """Returns the work that a crew has, from its figures."""
    found = now.deliveries
    due = [now.due_in_ms, found.due_in_ms if found else None]
    due_in = min((ms / 1000 for ms in due if ms is not None), default=None)
    deliveries = found.waiting + found.running if found else 0
    oldest_seconds = (now.oldest_ms or 0) / 1000
    critical = now.classes[0].waiting
    return replicas.Load(
        now.waiting, now.running, due_in, deliveries, critical, oldest_seconds, has_batches=now.has_batches
    )
