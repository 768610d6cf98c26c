"""Examines the crews in the store: work that waits while nobody does it. Needs no cluster."""

from __future__ import annotations

from collections.abc import Sequence

import redis
import redis.asyncio

from watchbill import names
from watchbill.doctor.findings import WAIT_SECONDS, Finding, Severity
from watchbill.errors import WatchbillError
from watchbill.store import definitions, figures


async def examine(client: redis.asyncio.Redis, crews: Sequence[str], *, in_cluster: bool) -> list[Finding]:
    """`crews`: each as `namespace/name`. `in_cluster`: the operator starts their workers."""
    found: list[Finding] = []
    keys = [names.CrewKeys(*crew.split("/", 1)) for crew in crews]
    try:
        async for crew, now in figures.each(client, keys):
            if now is not None:
                found += _crew(crew, now, in_cluster=in_cluster)
        for crew, held in zip(crews, await definitions.identities(client, keys), strict=True):
            if held.closing:
                found.append(Finding("crews", Severity.WARNING, f"crew {crew} is closed: {held.closing}", _open(crew)))
    except (WatchbillError, redis.exceptions.RedisError) as error:
        return [Finding("crews", Severity.SKIPPED, f"the crews' figures can't be read: {error}")]
    return found or [Finding("crews", Severity.OK, f"no work waits without a worker, in {len(crews)} crews")]


def _open(crew: str) -> str:
    return f"watchbill resume {crew}  # unless `watchbill delete crew {crew} --drain` runs"


def _crew(crew: str, now: figures.Figures, *, in_cluster: bool) -> list[Finding]:
    namespace, _, name = crew.partition("/")
    found = []
    if now.oldest_ms is not None and now.workers == 0 and now.oldest_ms > WAIT_SECONDS * 1000:
        message = f"crew {crew} has {now.waiting} waiting tasks and no worker, the oldest for {now.oldest_ms // 1000} s"
        fix = f"kubectl describe crew {name} -n {namespace}" if in_cluster else f"watchbill worker {crew}"
        found.append(Finding("crews", Severity.ERROR, message, fix))
    if lacking := now.parked_by.get("agent"):
        message = f"crew {crew} has {lacking} parked tasks whose agent no worker has"
        found.append(Finding("crews", Severity.ERROR, message, f"watchbill events {crew}"))
    if now.dead:
        message = f"crew {crew} has {now.dead} dead letters"
        found.append(Finding("crews", Severity.WARNING, message, f"watchbill dead list {crew}"))
    return found
