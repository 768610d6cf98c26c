"""Makes the fleet that plans depend on from what the store knows of workers, and from what was seen of them before."""

from __future__ import annotations

import math
from typing import Final

import redis.asyncio

from watchbill import metrics
from watchbill.clock import Clock
from watchbill.controller.memory import CrewMemory
from watchbill.names import CrewKeys
from watchbill.plan import drain
from watchbill.store import definitions
from watchbill.store.workers import Worker, Workers

BACK_SECONDS: Final = 60.0
"""Seconds that workers have to come back to a crew that the store has lost, and has again."""


async def read(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    found: Workers,
    memory: CrewMemory,
    clock: Clock,
    ready: int | None,
) -> drain.Fleet | None:
    """Returns the crew's workers, as `of` does. None: the store has lost them, and not all are back and have said in
    which pods they are; those may be busy.

    `ready`: the number of ready pods of a crew that was stored before, 0 for a new one; None: it has no pods.
    """
    if ready is None:
        memory.drained_at.clear()  # nobody saw the ends of these drains
        return drain.Fleet()
    return None if await _is_lost(client, keys, found, ready) else of(found, memory, clock)


def of(found: Workers, memory: CrewMemory, clock: Clock) -> drain.Fleet:
    """Returns the crew's workers, and remembers since when each drained one has been empty."""
    now = clock.monotonic()
    empty = {worker.name for worker in found.of_crew if worker.draining and not worker.holds}
    active = {worker.name for worker in found.of_crew} - empty
    for name in memory.drained_at.keys() - active:
        metrics.DRAIN_TIME.observe(now - memory.drained_at.pop(name))
    memory.empty_since = {name: memory.empty_since.get(name, now) for name in empty}
    return drain.Fleet(
        [
            drain.Worker(
                name=worker.name,
                revision=worker.revision,
                holds=worker.holds,
                draining=worker.draining,
                age_seconds=(found.now_ms - worker.since_ms) / 1000 if worker.since_ms else 0.0,
                empty_seconds=now - memory.empty_since.get(worker.name, now),
                probed_seconds=_probed_seconds(worker, found.now_ms, is_empty=worker.name in empty),
            )
            for worker in found.of_crew
        ],
        (found.now_ms - found.undrained_ms) / 1000 if found.undrained_ms else math.inf,
    )


async def _is_lost(client: redis.asyncio.Redis, keys: CrewKeys, found: Workers, ready: int) -> bool:
    """The store tells it by since when it knows the crew: so a restart forgets nothing, and it has an end."""
    if sum(bool(worker.revision) for worker in found.of_crew) >= ready:
        return False
    born_us = await definitions.born(client, keys)
    return bool(born_us) and found.now_ms - int(born_us) / 1000 < BACK_SECONDS * 1000


def _probed_seconds(worker: Worker, now_ms: int, *, is_empty: bool) -> float | None:
    if worker.ready is None:
        return None
    return 0.0 if worker.ready is is_empty else (now_ms - worker.ready_since_ms) / 1000
