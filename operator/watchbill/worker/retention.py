"""Trims a crew's finished tasks to its bounds (store/retention.py), beside the worker's tasks."""

from __future__ import annotations

import random
from functools import partial
from typing import Final

import redis

from watchbill.connection.outages import Persist
from watchbill.errors import CrewGone, DefinitionChanged, NewerRecord, NotFound, StoreRefuses
from watchbill.loggers import Logger
from watchbill.store import definitions, retention
from watchbill.store.definitions import Current
from watchbill.store.queue import Queue
from watchbill.worker.reports import Reports
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

TRIM_SECONDS: Final = 5.0
"""Seconds between two trims of a worker, give or take a half, so that the workers of a crew don't trim together."""
TRIM_AGAIN_SECONDS: Final = 1.0
"""Seconds until it trims again after it removed something: more tasks may be ending all the time."""
TRIM_IDLE_SECONDS: Final = 60.0
"""Seconds between two trims of a worker where nothing has ended since: thousands of workers may have nothing to do."""


async def trim(state: WorkerState, queue: Queue, reports: Reports, current: Current) -> None:
    """Runs until it is cancelled. `current`: the crew's definition as last read; the next trim uses a new one."""
    trimmed, trimmed_at, went = -1, 0.0, 0
    while True:
        now, number = state.clock.monotonic(), reports.reported
        if number == trimmed and not went and now < trimmed_at + TRIM_IDLE_SECONDS:
            await state.clock.sleep(_pause(TRIM_SECONDS))
            continue
        went = 0
        try:
            current, went = await _trim_once(queue, current, state.persist)
            trimmed, trimmed_at = number, now
        except (CrewGone, NotFound):
            pass  # the worker learns it by itself
        except NewerRecord as error:  # workers that can read it keep the bounds
            logger.debug("can't trim finished tasks to their bounds: %s", error)
        except (StoreRefuses, redis.exceptions.RedisError) as error:
            logger.warning("can't trim finished tasks to their bounds: %s", error)
        await state.clock.sleep(_pause(TRIM_AGAIN_SECONDS if went else TRIM_SECONDS))


def _pause(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.5)


async def _trim_once(queue: Queue, current: Current, persist: Persist) -> tuple[Current, int]:
    """Returns the definition whose bounds it used, and how many records and results it removed."""
    while True:
        try:
            return current, await persist(partial(retention.trim, queue.client, queue.keys, queue.uid, current))
        except DefinitionChanged:
            current = await persist(partial(definitions.current, queue.client, queue.keys))
