"""Makes the fleet that plans depend on from what the store knows of workers, and from what was seen of them before."""

from __future__ import annotations

import math

from watchbill import metrics
from watchbill.clock import Clock
from watchbill.controller.memory import CrewMemory
from watchbill.plan import drain
from watchbill.store.workers import Worker, Workers


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


def _probed_seconds(worker: Worker, now_ms: int, *, is_empty: bool) -> float | None:
    if worker.ready is None:
        return None
    return 0.0 if worker.ready is is_empty else (now_ms - worker.ready_since_ms) / 1000
