"""Counts the errors of reconciliations by one of a few reasons: those that end one, and those that it goes on after."""

from __future__ import annotations

from typing import Final

import redis.exceptions

from watchbill import errors, metrics

_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (  # the first one that fits
    (errors.StaleObject, "stale-object"),
    (errors.NotLeader, "not-leader"),
    (errors.CrewGone, "crew-gone"),
    (errors.KubernetesForbids, "api-server-forbids"),
    (errors.KubernetesRefuses, "api-server-refuses"),
    (errors.KubernetesUnavailable, "api-server-away"),
    (errors.StoreRefuses, "store-refuses"),
    (errors.StoreUnavailable, "store-away"),
    (redis.exceptions.ConnectionError, "store-away"),
    (redis.exceptions.TimeoutError, "store-away"),
    (redis.exceptions.RedisError, "store-refuses"),
    (errors.WatchbillError, "refused"),
)


def count(error: Exception) -> None:
    """Counts an error, so that an alert may tell of it."""
    metrics.RECONCILE_ERRORS.labels(reason(error)).inc()


def reason(error: Exception) -> str:
    """Returns the reason of an error; `fault` for one that nobody expects."""
    return next((word for kind, word in _REASONS if isinstance(error, kind)), "fault")
