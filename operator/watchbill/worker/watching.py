"""Follows the crew's feed for its watches, and begins the work that events ask for. Any worker of the crew does so, and
the store sees to it that each event begins its work once: a worker that dies in between leaves the rest to another.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Final

import redis

from watchbill import metrics
from watchbill.api.watches import Watch
from watchbill.errors import CrewGone, InvalidInput, NewerRecord, NotFound, StoreRefuses, StoreUnavailable
from watchbill.event_types import TownEvent
from watchbill.loggers import Logger
from watchbill.plan import watches as plan
from watchbill.store import definitions, watches
from watchbill.store.definitions import Current
from watchbill.store.queue import Queue
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

LOOK_SECONDS: Final = 1.0
"""Seconds, about, between two looks of the worker that follows the feed."""
STAND_BY_SECONDS: Final = 8.0
"""The longest pause of a worker while another one follows the feed. It grows to that."""
EXPIRED: Final = (
    "the feed has expired since the watches read it last: what has happened in between, if anything, begins nothing"
)
"""The log says this in the words of the feed (watch_look.lua)."""
UNUSED_SECONDS: Final = 10.0
"""Seconds, about, between two checks whether the crew has another definition, while it has no watches or rests."""


async def follow(state: WorkerState, queue: Queue) -> None:
    """Runs until it is cancelled."""
    watcher = _Watcher(state, queue)
    while True:
        try:
            pause = await watcher.turn()
        except (CrewGone, NotFound, StoreUnavailable):  # the worker learns it by itself
            pause = UNUSED_SECONDS
        except NewerRecord as error:  # workers that can read it follow the feed
            logger.debug("can't follow the feed for its watches: %s", error)
            pause = watcher.forget()
        except (StoreRefuses, redis.exceptions.RedisError) as error:
            logger.warning("can't follow the feed for its watches: %s", error)
            pause = UNUSED_SECONDS
        if pause:
            await state.clock.sleep(pause * random.uniform(0.75, 1.25))


class _Watcher:
    """The watches of a crew, as one worker follows them."""

    def __init__(self, state: WorkerState, queue: Queue) -> None:
        self._state = state
        self._queue = queue
        self._current: Current | None = None
        self._seen = ""
        """The id up to which this worker has just dealt with all events; empty: it has nothing to tell of."""
        self._stand_by = LOOK_SECONDS
        self._is_full = False

    def forget(self) -> float:
        """Has the definition read anew. Returns the pause before."""
        self._current, self._seen = None, ""
        return UNUSED_SECONDS

    async def turn(self) -> float:
        """Deals with what is next. Returns the seconds until there may be more; 0: at once."""
        state, queue = self._state, self._queue
        if self._current is None:
            self._current = await state.persist(partial(definitions.current, queue.client, queue.keys))
        current = self._current
        if not current.definition.watches:
            if await state.persist(partial(watches.is_defined_anew, queue.client, queue.keys, current.digest)):
                self._current = None
            return UNUSED_SECONDS if self._current else 0.0
        looked = await state.persist(partial(watches.look, queue.client, queue.keys, current, self._seen))
        self._seen = ""
        match looked.outcome:
            case "changed":
                self.forget()
                return 0.0
            case "early":
                self._stand_by = min(self._stand_by * 1.5, STAND_BY_SECONDS)
                return self._stand_by
            case "rest" | "gone":
                return UNUSED_SECONDS
        self._stand_by = LOOK_SECONDS
        if looked.has_gap:
            logger.warning("events have left the feed before the watches had read them, and begin nothing")
            metrics.WATCH_GAPS.labels(*metrics.of_crew(queue.keys.crew)).inc()
        if looked.has_expired:
            logger.warning("%s", EXPIRED)
        done = ""
        for event_id, event in looked.events:
            if (pause := await self._deal_with(current, event_id, event)) is not None:
                if self._current is not None:  # else watches that have changed may want what those before didn't
                    self._seen = done
                return pause
            done = event_id
        is_behind = looked.is_more or bool(looked.entries)
        self._seen = looked.upto if is_behind else ""
        return 0.0 if is_behind else LOOK_SECONDS

    async def _deal_with(self, current: Current, event_id: str, event: TownEvent) -> float | None:
        """Begins what the event asks for. Returns None, or the pause before it is tried again."""
        of = [watch for watch in current.definition.watches if plan.matches(watch, event, current.definition)]
        if not of:
            return None
        queue = self._queue
        payload = await self._state.persist(partial(watches.payload, queue.client, queue.keys, event))
        before = plan.chain(event, payload)
        for watch in of:
            if plan.is_own(watch, before) or not plan.is_of(watch, payload):
                continue
            match await self._begin(current, watch, event_id, event, before):
                case "changed" | "gone":
                    self.forget()
                    return LOOK_SECONDS
                case "rest":
                    return UNUSED_SECONDS
                case "full":
                    if not self._is_full:
                        logger.warning("watch %s: the queue is full; the event %s waits", watch.name, event_id)
                        self._count(watch, "waits")
                    self._is_full = True
                    return LOOK_SECONDS
                case "fired":
                    self._is_full = False
                    self._count(watch, "begun")
                    logger.info("%s (%s) has begun %s", plan.said(watch, event), event_id, _made(watch, event_id))
                case "already":
                    self._is_full = False
                case "told":  # and logged
                    self._count(watch, "refused")
                case "taken":
                    self._count(watch, "refused")
                    logger.warning("watch %s: %s is the id of other work", watch.name, _made(watch, event_id))
        return None

    def _count(self, watch: Watch, outcome: str) -> None:
        metrics.WATCH_EVENTS.labels(*metrics.of_crew(self._queue.keys.crew), watch.name, outcome).inc()

    async def _begin(
        self, current: Current, watch: Watch, event_id: str, event: TownEvent, before: tuple[str, ...] | None
    ) -> watches.Outcome:
        queue = self._queue
        why = plan.refusal(watch, event, before)
        if not why:
            call = partial(watches.fire, queue.client, queue.keys, current, watch, event_id, event, before or ())
            try:
                return await self._state.persist(call)
            except InvalidInput as error:
                why = f"{plan.said(watch, event)} begins nothing: {error.problems[0].reason}"
        logger.warning("%s", why)
        return await self._state.persist(partial(watches.tell, queue.client, queue.keys, current, watch, event_id, why))


def _made(watch: Watch, event_id: str) -> str:
    return plan.work_id(watch.name, event_id)
